"""The presets of the papers' sizes: one pruned step of training, convert and export each, in 24 GiB of memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from models import dynamic_lm, language_modelling, mnist, mobilenet, translation_model, translator, word_lm

SPARSITY = 0.9
pytestmark = pytest.mark.exhaustive


def step(model, x, y, block_shape, **arguments):
    """Prunes the model, trains it one step, and strips it: after the step it has the sparsity."""
    bs.prune_blocks(model, block_shape, bs.ConstantSparsity(SPARSITY), **arguments)
    loss = model.train_on_batch(x, y, return_dict=True)["loss"]
    assert np.isfinite(loss)
    return bs.strip_pruning(model)


def check(model, x, block_shape, path):
    """Converts and exports; the served model answers as the pruned one."""
    expected = model(x, training=False).numpy()
    converted = bs.convert(model, block_shape, min_sparsity=0.5)
    sparse = [w for w in bs.report(converted).weights if w.state == "block-sparse"]
    assert sum(w.sparsity for w in sparse) / len(sparse) == pytest.approx(SPARSITY, abs=0.01)
    check_served(converted, x, expected, path)


def check_served(converted, x, expected, path):
    bs.export(converted, path)
    served = tf.saved_model.load(path)  # kept: its variables go with it
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_large_word_language_model(tmp_path):
    preset = word_lm.PRESETS["large"]
    model = word_lm.language_model(10_000, preset)
    assert model.count_params() / 1e6 == pytest.approx(66.0, abs=0.1)
    language_modelling.compile_model(model, preset)
    words = np.arange(70, dtype="int32").reshape(2, 35)
    check(step(model, words, words, (4, 4)), words, (4, 4), tmp_path / "served")


@pytest.mark.parametrize("name,millions", [("paper", 26.4), ("lstm_paper", 68.5)])
def test_language_models_of_dynamic_layers(name, millions, tmp_path):
    preset = dynamic_lm.PRESETS[name]
    model = dynamic_lm.language_model(10_000, preset, "dynamic", 0.5)
    dense = dynamic_lm.language_model(10_000, preset)
    assert dense.count_params() / 1e6 == pytest.approx(millions, abs=0.1)
    language_modelling.compile_model(model, preset)
    words = np.arange(40, dtype="int32").reshape(2, 20)
    assert np.isfinite(model.train_on_batch(words, words, return_dict=True)["loss"])
    expected = model(words).numpy()
    check_served(bs.convert(model), words, expected, tmp_path / "served")


@pytest.mark.parametrize("name", ["paper", "lstm_paper"])
def test_their_gradually_pruned_twins(name, tmp_path):
    preset = dynamic_lm.PRESETS[name]
    model = dynamic_lm.language_model(10_000, preset)
    language_modelling.compile_model(model, preset)
    words = np.arange(40, dtype="int32").reshape(2, 20)
    model = step(model, words, words, preset.block_shape, include=f"{preset.cell}_[0-9]*")
    if preset.cell == "lstm":
        check(model, words, preset.block_shape, tmp_path / "served")
    else:  # convert() knows no QRNN that does not choose its blocks
        zeros = [np.mean(matrix == 0) for matrix in dynamic_lm.filters(model)]
        assert zeros == pytest.approx([SPARSITY] * preset.depth, abs=0.01)
        check_served(model, words, model(words).numpy(), tmp_path / "served")


def test_digits(tmp_path):
    preset = mnist.PRESETS["paper"]
    model, dense = (mnist.network(preset, kind) for kind in ("dynamic", "dense"))
    assert [m.count_params() / 1e6 for m in (dense, model)] == pytest.approx([6.06, 6.39], abs=0.01)
    mnist.compile_model(model, preset, steps=1000)
    images = np.random.default_rng(0).normal(size=(128, 784)).astype("float32")
    assert np.isfinite(model.train_on_batch(images, np.arange(128) % 10, return_dict=True)["loss"])
    check_served(bs.convert(model), images, model(images).numpy(), tmp_path / "served")


def test_translator(tmp_path):
    preset = translation_model.PRESETS["paper"]
    model = translation_model.translator(preset.vocabulary, preset)
    translation_model.compile_model(model, preset)
    source, target = np.arange(4, 24, dtype="int32").reshape(2, 10), np.arange(4, 20, dtype="int32").reshape(2, 8)
    model = step(model, [source, target], target, (16, 16), exclude=translator.NOT_PRUNED)
    check(model, [source, target], (16, 16), tmp_path / "served")


def test_mobilenet(tmp_path):
    preset = mobilenet.PRESETS["paper"]
    model = mobilenet.mobilenet(1000, preset, 1.0)
    mobilenet.compile_model(model, preset)
    images = np.random.default_rng(0).uniform(0, 255, (4, 224, 224, 3)).astype("float32")
    model = step(model, images, np.arange(4), (16, 16), include=mobilenet.POINTWISE)
    keras.utils.set_random_seed(0)
    for layer in model.layers:  # after one step their averages are those of a model that has hardly begun
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(keras.ops.ones(layer.moving_variance.shape))
    check(mobilenet.with_dense_layers(model), [images], (16, 16), tmp_path / "served")
