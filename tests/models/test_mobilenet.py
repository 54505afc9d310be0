import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from killed_runs import killed_in_epoch
from models import image_data, mobilenet

TINY = dataclasses.replace(
    mobilenet.PRESETS["small"], widths=(0.25,), targets=(0.5,), epochs=3, batch_size=16, learning_rate=3e-3
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Grey images of two classes, bright above or below."""
    monkeypatch.setitem(mobilenet.PRESETS, "small", TINY)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    x = rng.integers(0, 60, (80, 28, 28))
    x[y == 0, :14] += 150
    x[y == 1, 14:] += 150
    directory = tmp_path / "images"
    directory.mkdir()
    np.savez(directory / "digits.npz", x_train=x.astype("uint8"), y_train=y)
    return directory


def cells_of(printed, kind):
    row = next(line for line in printed.splitlines() if re.match(rf"\| *{kind} ", line))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("layers", [2, pytest.param(13, marks=pytest.mark.exhaustive)])
def test_only_pointwise_kernels_are_pruned(layers, data, tmp_path, capsys, request):
    """On a part of the network, and on all of it."""
    if layers == 2:
        request.getfixturevalue("one_block")
    out = tmp_path / "out"
    mobilenet.main(["--data", str(data), "--out", str(out), "--block-shape", "8", "--min-sparsity", "0"])
    printed = capsys.readouterr().out
    dense, sparse = cells_of(printed, "dense"), cells_of(printed, "sparse")
    assert (dense[1:3], sparse[1:3]) == (["0.25", "0%"], ["0.25", "50%"])
    if layers == 13:  # millions, of two digits
        assert float(sparse[4].split()[0]) / float(dense[4].split()[0]) == pytest.approx(0.54, abs=0.08)
    model = keras.saving.load_model(out / "sparse_0.5.keras", compile=False)
    pointwise = 0
    for layer in model.layers:
        for weight in layer.trainable_weights:
            w = keras.ops.convert_to_numpy(weight)
            if layer.name.startswith("conv_pw_") and weight.name == "kernel":
                pointwise += 1
                matrix = w[0, 0]
                blocks = matrix.reshape(matrix.shape[0] // 8, 8, matrix.shape[1] // 8, 8).any((1, 3))
                assert blocks.mean() == pytest.approx(0.5, abs=0.01), layer.name
                assert (matrix != 0).mean() == pytest.approx(blocks.mean(), abs=1e-3)
            elif weight.name == "kernel" and layer.name != "conv_preds":
                assert (w != 0).all(), weight.path
    assert pointwise == layers
    check_the_served_model(model, layers, out)


def check_the_served_model(model, layers, out):
    images = np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    model.get_layer("conv_preds").bias.assign(np.zeros(2))  # or it hides logits that have hardly been trained
    logits = model(images, training=False).numpy()
    assert np.ptp(logits) > 0

    def assert_alike(found):
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-3 * abs(logits).max())

    twin = mobilenet.with_dense_layers(model)
    assert sum(type(layer) is keras.layers.Dense for layer in twin.layers) == layers + 1
    assert_alike(twin(images, training=False))
    converted = bs.convert(twin, 8, min_sparsity=0)
    assert sum(isinstance(layer, bs.BlockSparseDense) for layer in converted.layers) >= layers
    assert_alike(converted(images, training=False))
    bs.export(converted, out / "again")
    served = tf.saved_model.load(out / "again").signatures["serving_default"](images=tf.constant(images))
    assert_alike(*served.values())
    assert (out / "sparse_0.5_served" / "saved_model.pb").exists()


@pytest.fixture
def one_block(monkeypatch):
    """In place of MobileNets one of their blocks, with a classifier, which trains faster."""

    def build(classes, preset, width):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((preset.size, preset.size, 3), name="images"),
                layers.Conv2D(16, 3, 2, name="conv1", use_bias=False),
                layers.DepthwiseConv2D(3, 2, name="conv_dw_1", use_bias=False),
                layers.Conv2D(16, 1, name="conv_pw_1", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(32, 1, name="conv_pw_2", use_bias=False),
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Conv2D(classes, 1, name="conv_preds"),
                layers.Flatten(),
            ]
        )

    monkeypatch.setattr(mobilenet, "mobilenet", build)


def test_blocks_stay_zero_all_along(data, one_block, tmp_path):
    run = mobilenet.Run(mobilenet.parse(["--data", str(data), "--out", str(tmp_path / "out"), "--block-shape", "8"]))
    model = mobilenet.mobilenet(2, run.preset, 0.25)
    mobilenet.prune(model, (8, 8), run.schedules[0.5])
    mobilenet.compile_model(model, run.preset)
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("conv_pw_") and hasattr(layer, "kernel")]
    zero = [np.zeros(kernel.shape, bool) for kernel in kernels]
    for batch in run.train_images.dataset().repeat(2):
        model.train_on_batch(*batch)
        for i, kernel in enumerate(kernels):
            now = keras.ops.convert_to_numpy(kernel) == 0
            assert now[zero[i]].all()
            zero[i] = now
    assert all(z.any() for z in zero)


@pytest.mark.parametrize("width,millions", [(1.0, 4.2), (0.75, 2.6), (0.5, 1.33), (0.25, 0.47)])
def test_sizes_are_those_of_the_papers(width, millions):
    model = mobilenet.mobilenet(1000, mobilenet.PRESETS["paper"], width)
    trained = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert trained / 1e6 == pytest.approx(millions, rel=0.02)
    bs.prune_blocks(model, 1, bs.ConstantSparsity(0.5), include=mobilenet.POINTWISE)
    pruned = [w for w in bs.report(model).weights if w.state == "pruned"]
    assert len(pruned) == 14
    if width == 1.0:
        assert sum(np.prod(w.matrix_shape) for w in pruned) / trained > 0.97


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, one_block, tmp_path):
    arguments = ["--data", str(data), "--block-shape", "8", "--max-images", "40", "--out"]

    def trained(out, name):
        run = mobilenet.Run(mobilenet.parse([*arguments, str(tmp_path / out)]))
        return run.train(name, 0.25, 0.5)

    whole = trained("whole", "sparse_0.5")
    with killed_in_epoch(2):
        trained("halves", "sparse_0.5")
    for a, b in zip(whole.get_weights(), trained("halves", "sparse_0.5").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(SystemExit, match="other settings"):
        mobilenet.main([*arguments, str(tmp_path / "halves"), "--epochs", "4"])


@pytest.mark.parametrize("split", [True, False])
def test_images_by_class(split, tmp_path):
    parts = [tmp_path / "train", tmp_path / "val"] if split else [tmp_path]
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            (part / name).mkdir(parents=True)
            for i in range(20):
                picture = np.full((20 + i, 30, 3), 100 * label + i, "uint8")
                keras.utils.save_img(part / name / f"{i:02}.png", picture, scale=False)
    train, val, classes = image_data.load(tmp_path, max_images=10)
    assert classes == ["cat", "dog"]
    assert (len(train[1]), len(val[1])) == (10, 40 if split else 4)
    assert np.bincount(train[1]).tolist() == [5, 5]
    assert not set(train[0]) & set(val[0])
    (images, labels), *_ = image_data.Images(*train, 32, 10).dataset()
    assert images.shape == (10, 32, 32, 3)
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        assert np.ptp(image) < 1e-3 and 100 * label <= round(float(image[0, 0, 0])) < 100 * label + 20


def test_an_epoch_has_its_own_order():
    images = image_data.Images(np.zeros((30, 32, 32), "uint8"), np.arange(30), 32, 10)
    orders = []
    for epoch in (0, 1, 0):
        images.epoch = epoch
        orders.append(np.concatenate([labels for _, labels in images.dataset()]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30))


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"x": np.zeros(3)}, "has no x_train and no y_train"),
        ({"x_train": np.zeros((4, 8, 8), "float32"), "y_train": np.arange(4)}, "expected uint8"),
        ({"x_train": np.zeros((4, 8, 8), "uint8"), "y_train": np.arange(3)}, "a class for each image"),
        ({"x_train": np.zeros((40, 8, 8), "uint8"), "y_train": np.zeros(40, int)}, "1 class only"),
        ({"x_train": np.zeros((4, 8, 8), "uint8"), "y_train": np.arange(4)}, "too few"),
    ],
)
def test_bad_arrays(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SystemExit, match=message):
        mobilenet.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("ending", [".png", ".jpg", ".gif", ".bmp"])
def test_images_of_interrupted_downloads(ending, tmp_path):
    """Found before any training, of every format; whole ones are read."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(11):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), "uint8")).save(tmp_path / name / f"{i}{ending}")
    train, _, _ = image_data.load(tmp_path)
    assert sum(len(images) for images, _ in image_data.Images(*train, 32, 20).dataset()) == 18
    file = tmp_path / "dog" / f"7{ending}"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-30], b"", b"<html>not found</html>"):
        file.write_bytes(damaged)
        with pytest.raises(SystemExit, match=f"7{ending}' of {len(damaged)} bytes is no image, or its download"):
            mobilenet.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--target", "90"], r"Did you mean 0\.9"),
        (["--block-shape", "0"], "1 or more"),
        (["--size", "16"], "32 or more"),
        (["--widths", "0"], "above 0"),
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--data", "."], "No images in"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        mobilenet.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")
