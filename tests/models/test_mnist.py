import dataclasses
import re

import keras
import numpy as np
import pytest

import tf_blocksparse as bs
from killed_runs import killed_in_epoch
from models import digit_data, mnist

TINY = mnist.Preset(units=16, depth=2, block_shape=(4, 4), sparsity=0.75, epochs=2, batch_size=16, learning_rate=0.05)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images whose class is where their bright pixels are."""
    monkeypatch.setitem(mnist.PRESETS, "small", TINY)
    monkeypatch.setattr(digit_data, "VALIDATION", 50)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 250)
    x = rng.integers(0, 50, (250, 28, 28))
    for image, label in zip(x, y, strict=True):
        image[2 * label + 2 : 2 * label + 5] += 200
    directory = tmp_path / "data"
    directory.mkdir()
    np.savez(directory / "digits.npz", x_train=x.astype("uint8"), y_train=y.astype("uint8"))
    return directory


def test_the_whole_path_and_going_on_with_it(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--out", str(out)]
    with killed_in_epoch(1):
        mnist.main(arguments)
    log = (out / "dynamic.csv").read_text()
    assert len(log.splitlines()) == 2
    capsys.readouterr()
    mnist.main(arguments)
    printed = capsys.readouterr().out
    assert printed.count("Epoch 2/2") == 2 and printed.count("Epoch 1/2") == 1  # that of the dense model
    assert re.search(r"\| *dynamic *\| *\d+\.\d\d% *\| *75% *\|", printed), printed
    assert re.search(r"\| *dense *\| *\d+\.\d\d%", printed)
    assert "comput. 0.250, and 1.000 for the gate" in printed
    for name in ("figure1.png", "figure2.png"):
        assert (out / name).stat().st_size > 5000
    assert [line[:2] for line in (out / "dynamic.csv").read_text().splitlines()[1:]] == ["0,", "1,"]
    assert (out / "dynamic.csv").read_text().startswith(log), "the first epoch was not trained again"


def test_both_models_are_alike_but_for_the_gates():
    preset = mnist.PRESETS["paper"]
    dynamic, dense = (mnist.network(preset, kind) for kind in ("dynamic", "dense"))
    layers = [layer for layer in dynamic.layers if isinstance(layer, bs.DynamicBlockDense)]
    assert len(layers) == 5
    assert [layer.block_gate.mask_shape for layer in layers] == [(8, 8)] * 5
    assert [int(layer.block_gate.num_open()) for layer in layers] == [6] * 5
    assert dynamic.count_params() - dense.count_params() == 5 * (1024 * 64 + 64)


def test_pixels_are_standardised_and_the_last_images_validate(data, tmp_path):
    run = mnist.Run(mnist.parse(["--data", str(data), "--out", str(tmp_path / "out")]))
    x, y = run.validation.x, run.validation.y
    with np.load(data / "digits.npz") as arrays:
        np.testing.assert_array_equal(y, arrays["y_train"][-50:])
        pixels = arrays["x_train"][-50:].reshape(50, 784) / 255
    np.testing.assert_allclose(x, (pixels - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    assert len(run.training.y) == 200


def test_what_all_inputs_share_moves_no_gate():
    initializer = mnist.CentredUniform(30.0, seed=1)
    w = np.asarray(initializer((64, 50)))
    np.testing.assert_allclose(np.ones(64) @ w, 0.0, atol=1e-4)
    assert w.var() == pytest.approx(30 / 64, rel=0.1)
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(again((64, 50)), w)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--data", "."], r"No \.npz file with x_train"),
        (["--epochs", "0"], "epochs"),
        (["--learning-rate", "0"], "above 0"),
        (["--sparsity", "90"], "fraction"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SystemExit) as stop:
        mnist.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")


def test_too_few_images(data, tmp_path, monkeypatch):
    monkeypatch.setattr(digit_data, "VALIDATION", 250)
    with pytest.raises(SystemExit, match="250 images are too few"):
        mnist.main(["--data", str(data), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"x_train": np.zeros((60, 8, 8), "uint8")}, "has no y_train; found"),
        ({"x_train": np.zeros((60, 8, 8)), "y_train": np.zeros(60, int)}, "Received: float64"),
        ({"x_train": np.zeros((60, 8, 8), "uint8"), "y_train": np.zeros(59, int)}, r"\(59,\)"),
        ({"x_train": np.zeros((60, 8, 8), "uint8"), "y_train": np.full(60, 10)}, "from 0 to 9"),
    ],
)
def test_bad_arrays(arrays, message, data, tmp_path):
    np.savez(data / "digits.npz", **arrays)
    with pytest.raises(SystemExit, match=message):
        mnist.main(["--data", str(data), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_an_interrupted_download(share, data, tmp_path):
    file = data / "digits.npz"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(SystemExit, match="digits.npz' cannot be read, as if its download was interrupted"):
        mnist.main(["--data", str(data), "--out", str(tmp_path / "out")])


def test_presets_are_the_papers():
    paper = dataclasses.asdict(mnist.PRESETS["paper"])
    assert paper == dict(
        units=1024, depth=5, block_shape=(128, 128), sparsity=0.9, epochs=45, batch_size=128, learning_rate=5e-3,
        momentum=0.9, gate_scale=4.0,
    )  # fmt: skip
