"""Files that cannot be read, and results that must not be overwritten."""

import keras
import pytest
from keras import layers

from cli_cases import error_of, run, small_model
from helpers import run_python

LAYERS = """
import keras

@keras.saving.register_keras_serializable("cli_files")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x
"""


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.keras", None, "does not exist. Expected a .keras file"),
        ("broken.keras", b"PK not really", "it is no zip archive"),
        ("model.weights.h5", b"", "has weights only. Expected a whole model"),
        ("model.onnx", b"", "ends in '.onnx'. Expected .keras or .h5"),
        ("broken.h5", b"no such thing", "cannot be loaded"),
    ],
)
def test_files_that_are_no_models(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    line = error_of("inspect", tmp_path / name)
    assert message in line and name in line


def test_directories(files, tmp_path):
    assert "is a directory without saved_model.pb" in error_of("inspect", tmp_path)
    line = error_of("convert", files / "served" / "1", tmp_path / "x.keras")
    assert "is a SavedModel, which has no layers left to change" in line
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff")
    assert "cannot be read as a SavedModel" in error_of("inspect", tmp_path)


def test_nothing_is_overwritten_unless_asked(files, tmp_path):
    out = tmp_path / "out.keras"
    out.write_text("precious")
    arguments = ("prune", files / "dense.keras", out, "--target", "0.5")
    assert "is there already. Give another name, or --force" in error_of(*arguments)
    assert out.read_text() == "precious"
    assert run(*arguments, "--force")[0] == 0
    assert keras.models.load_model(out).name == "small"
    assert sorted(tmp_path.iterdir()) == [out]  # nothing half-written is left
    same = ("prune", out, out, "--target", "0.5", "--force")
    assert "IN and OUT are the same" in error_of(*same, status=2)


def test_a_directory_that_is_no_saved_model_is_never_replaced(files, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("precious")
    arguments = ("export", files / "fast.keras", tmp_path / "photos")
    assert "is there already" in error_of(*arguments)
    assert "is no SavedModel, so it is not replaced" in error_of(*arguments, "--force")
    assert (tmp_path / "photos" / "one.jpg").read_text() == "precious"


def test_names_of_outputs(files, tmp_path):
    assert "OUT must end in .keras" in error_of("convert", files / "pruned.keras", tmp_path / "x.h5", status=2)
    line = error_of("convert", files / "pruned.keras", tmp_path / "no" / "x.keras")
    assert "does not exist. Make it first" in line


def test_custom_layers_come_from_the_users_module(tmp_path):
    (tmp_path / "doubling.py").write_text(LAYERS)
    save = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras, doubling\n" + (
        f"keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name='d'), doubling.Doubled()])"
        f".save({str(tmp_path / 'm.keras')!r})"
    )
    run_python(save)
    line = error_of("inspect", tmp_path / "m.keras")
    assert "Doubled" in line and "--import MODULE" in line
    status, out, err = run("inspect", tmp_path / "m.keras", "--import", tmp_path / "doubling.py")
    assert status == 0, err
    assert "d/kernel" in out
    line = error_of("inspect", tmp_path / "m.keras", "--import", "no_such_module_here", status=2)
    assert "--import no_such_module_here: ModuleNotFoundError" in line


def test_lambda_layers_are_only_loaded_when_trusted(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="d"), layers.Lambda(lambda x: x + 1.0)])
    model.save(tmp_path / "m.keras")
    assert "--unsafe" in error_of("inspect", tmp_path / "m.keras")
    assert run("inspect", tmp_path / "m.keras", "--unsafe")[0] == 0


def test_a_model_without_weights_and_a_legacy_file(tmp_path):
    keras.Sequential([layers.Dense(3)]).save(tmp_path / "unbuilt.keras")
    assert "saved before it was built" in error_of("inspect", tmp_path / "unbuilt.keras")
    small_model().save(tmp_path / "old.h5")
    status, out, _ = run("inspect", tmp_path / "old.h5")
    assert status == 0 and "Keras alone loads it" in out
