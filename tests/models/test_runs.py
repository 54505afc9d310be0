import keras
import numpy as np
import pytest
import tensorflow as tf

from models import runs


def network(value):
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(value))(inputs))


def test_an_export_takes_the_place_of_an_earlier_attempt(tmp_path):
    """Also of one that died while it wrote."""
    for path in (tmp_path / "served", tmp_path / "part-served"):
        path.mkdir()
        (path / "half a file").write_text("x")
    for value in (1.0, 2.0):
        runs.export(network(value), tmp_path / "served")
        served = tf.saved_model.load(tmp_path / "served")
        np.testing.assert_array_equal(served.serve(np.ones((1, 3), "float32")), [[3 * value] * 2])
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    assert not (tmp_path / "served" / "half a file").exists()


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    file = tmp_path / "model.keras"
    runs.save(network(1.0), file)
    before = file.read_bytes()

    def die(self, path, *arguments, **settings):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.Model, "save", die)
        runs.save(network(2.0), file)
    assert file.read_bytes() == before
    runs.save(network(2.0), file)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_directory_keeps_its_settings(tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        runs.keep_settings(out, {"units": 3})
    assert [path.name for path in out.iterdir()] == ["settings.json"]
    with pytest.raises(FileExistsError, match="other settings: see settings.json"):
        runs.keep_settings(out, {"units": 4})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log.txt").write_text("")
    runs.keep_settings(tmp_path / "other", {"units": 3})
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "dense.keras").write_text("")
    with pytest.raises(FileExistsError, match="no settings.json that says of what"):
        runs.keep_settings(tmp_path / "models", {"units": 3})
