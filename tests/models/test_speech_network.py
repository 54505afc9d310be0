import dataclasses

import keras
import numpy as np
import pytest

import tf_blocksparse as bs
from models import ctc
from models.projected_rnn import ProjectedGRUCell, ProjectedRNNCell
from models.speech_network import (
    PRESETS,
    PRUNED,
    check_blocks,
    folded,
    pruned_matrices,
    speech_network,
    units_for,
    weight_count,
)
from speech_cases import tiny_preset

CELLS = ("rnn", "gru")


def tiny_network(cell, **settings):
    """A network with statistics and weights as after a training."""
    preset = tiny_preset(cell=cell, depth=2, **settings)
    keras.utils.set_random_seed(1)
    model = speech_network(preset, 20, mean=0.5, variance=4.0)
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if layer.name.endswith("_norm"):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return preset, model


def utterances(frames=(31, 12, 1, 24), seed=3):
    x = np.random.default_rng(seed).standard_normal((len(frames), max(frames), 20)).astype("float32")
    return x, np.array(frames, "int32")


# [BSR] Tables 2, 3 and 4: width, millions of parameters, sparsity where it is told.
TABLES = [
    ("paper", 1760, 67, 0.0),
    ("paper", 1760, 7.3, 0.892),
    ("paper", 1760, 10.8, 0.841),
    ("paper", 1760, 10.7, 0.841),
    ("paper", 1760, 11.1, 0.836),
    ("paper", 1760, 14.1, 0.791),
    ("paper_gru", 2560, 115, 0.0),
    ("paper_gru", 2560, 16.2, 0.860),
    ("paper_gru", 2560, 20.8, 0.819),
]


@pytest.mark.parametrize("name,units,millions,sparsity", TABLES)
def test_parameters_of_the_papers_tables(name, units, millions, sparsity):
    preset = PRESETS[name]
    assert preset.units == units
    count = (1 - sparsity) * weight_count(preset, 161) / 1e6
    # Counts are rounded to 0.1, and a sparsity of three digits leaves 0.05 % of all weights open, 0.06 M of the GRU's.
    assert count == pytest.approx(millions, abs=0.12 if sparsity else 0.5)


def test_neurons_that_feed_a_matrix_are_those_of_appendix_b():
    preset = dataclasses.replace(PRESETS["paper"], units=4, depth=1)
    model = speech_network(preset, 161)
    assert model.get_layer("merge_frequencies").output.shape[-1] == 1312
    assert 1312 + (6 + 14 + 1) * 1760 == pytest.approx(38_270, abs=5)  # "a total of 38270"
    assert preset.stride == 2


@pytest.mark.parametrize("cell", CELLS)
def test_the_count_is_that_of_the_matrices(cell):
    preset, model = tiny_network(cell)
    matrices = pruned_matrices(model)
    assert sum(w.size for w in matrices) == weight_count(preset, 20)
    assert len(matrices) == (7 if cell == "rnn" else 5)
    bs.prune_blocks(model, 4, bs.ConstantSparsity(0.5, 0), include=list(PRUNED))
    pruned = [weight for weight in bs.report(model).weights if weight.state == "pruned"]
    assert len(pruned) == len(matrices)
    assert not any("convolution" in w.path or "characters" in w.path for w in pruned)


def test_a_narrow_model_of_as_many_weights():
    preset = PRESETS["paper"]
    units = units_for(preset, 161, 0.2 * weight_count(preset, 161))
    narrow = weight_count(dataclasses.replace(preset, units=units), 161)
    assert narrow == pytest.approx(0.2 * weight_count(preset, 161), rel=0.01)
    assert 600 < units < 900


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell):
    """Neither logits nor loss, gradients or batch statistics; not even where the padding is no number."""
    import tensorflow as tf

    x, frames = utterances()
    labels = ctc.padded_labels([[3, 4], [3], [5], [5, 5]])
    found = []
    for extra in (0, 7):
        _, model = tiny_network(cell)
        padding = np.full((len(x), extra, 20), np.nan, "float32")
        longer = np.concatenate([x, padding], axis=1)
        with tf.GradientTape() as tape:
            logits = model([longer, frames], training=True)
            loss = ctc.ctc_loss(labels, logits)
        grads = tape.gradient(loss, [w.value for w in model.trainable_weights])
        found.append([loss, *grads, *model.non_trainable_weights, model([longer, frames])[:, :16]])
    for one, other in zip(*found, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.isfinite(one).all()
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * abs(one).max())


def test_each_utterance_is_alone():
    _, model = tiny_network("rnn")
    x, frames = utterances()
    together = np.asarray(model([x, frames]))
    for i, n in enumerate(frames):
        alone = np.asarray(model([x[i : i + 1, :n], frames[i : i + 1]]))
        steps = -(-n // 2)
        assert alone.shape[1] == steps
        np.testing.assert_allclose(together[i, :steps], alone[0], rtol=1e-4, atol=1e-5)
        assert (together[i, steps:].argmax(-1) == ctc.BLANK).all()


def test_directions_share_the_projection_and_are_summed():
    """One bidirectional layer against plain loops, [DS2] Equation 5 with f(BN(x W) + h U)."""
    _, model = tiny_network("rnn", activation="tanh")
    _, frames = x = utterances((11,))
    parts = ["merge_frequencies", "rnn_1_norm", "rnn_1"]
    hidden, projected, output = keras.Model(model.inputs, [model.get_layer(p).output for p in parts])(list(x))
    kernel, norm = model.get_layer("rnn_1_input").kernel, model.get_layer("rnn_1_norm")
    gamma, beta, mean, variance = norm.get_weights()
    by_hand = (np.asarray(hidden[0]) @ np.asarray(kernel) - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(projected[0], by_hand, rtol=1e-4, atol=1e-4)
    total = np.zeros_like(by_hand)
    for u, order in zip(model.get_layer("rnn_1").get_weights(), (slice(None), slice(None, None, -1)), strict=True):
        h = np.zeros(16)
        for t in np.arange(6)[order]:
            h = np.tanh(by_hand[t] + h @ u)
            total[t] += h
    np.testing.assert_allclose(output[0], total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_projected_cells_are_kerass_with_an_identity_before(cell):
    units, gates = 6, 3 if cell == "gru" else 1
    x = np.random.default_rng(0).standard_normal((2, 9, gates * units)).astype("float32")
    cell_class, layer_class = {
        "rnn": (ProjectedRNNCell, keras.layers.SimpleRNN),
        "gru": (ProjectedGRUCell, keras.layers.GRU),
    }[cell]
    ours, kerass = keras.layers.RNN(cell_class(units), return_sequences=True), layer_class(units, return_sequences=True)
    ours.build(x.shape), kerass.build(x.shape)
    kernel, bias = np.eye(gates * units, dtype="float32"), np.zeros(kerass.get_weights()[2].shape)
    kerass.set_weights([kernel, *ours.get_weights(), bias])
    np.testing.assert_allclose(ours(x), kerass(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="takes projected inputs: .* features. Received: inputs of 5"):
        keras.layers.RNN(cell_class(units)).build((2, 9, 5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("activation", ["relu", "clipped_relu"])
def test_folding_and_converting_keep_the_function(cell, activation, tmp_path):
    preset, model = tiny_network(cell, activation=activation)
    schedule = bs.GradualSparsity(0.5, 0, 1, 1)
    bs.prune_blocks(model, 4, schedule, include=list(PRUNED))
    model.compile("sgd", ctc.ctc_loss, jit_compile=False)
    inputs, labels = list(utterances()), ctc.padded_labels([[3, 4], [3], [5], [5, 5]])
    for _ in range(2):
        model.train_on_batch(inputs, labels)
    bs.strip_pruning(model)
    logits = np.asarray(model(inputs))
    assert np.ptp(logits[0]) > 0.1
    whole = folded(model, preset)
    np.testing.assert_allclose(whole(inputs), logits, rtol=1e-4, atol=1e-4)
    converted = bs.convert(whole, 4, min_sparsity=0.4)
    np.testing.assert_allclose(converted(inputs), logits, rtol=1e-4, atol=1e-4)
    layer = converted.get_layer("rnn_1")
    if cell == "gru":
        assert isinstance(layer, bs.BlockSparseGRU)
    else:
        assert isinstance(layer.forward_layer, bs.BlockSparseSimpleRNN)
        assert isinstance(converted.get_layer("rnn_1_input"), bs.BlockSparseDense)
        assert layer.forward_layer.cell.kernel.bsr().num_blocks == 4, "the identity is its diagonal"
        step = layer.forward_layer.why_step()
        assert (step is None) == (activation == "relu"), step
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(again(inputs), logits, rtol=1e-6)


def test_blocks_over_two_gates_are_refused():
    preset = tiny_preset(cell="gru")
    check_blocks(preset, (3, 8))
    with pytest.raises(ValueError, match=r"must not lie over two.*block_shape=\(4, 6\).*multiple of 6"):
        check_blocks(preset, (4, 6))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["paper", "paper_gru"])
def test_paper_sizes_train_convert_and_export(name, tmp_path):
    preset = dataclasses.replace(PRESETS[name], recurrent_initializer="glorot_uniform")
    model = speech_network(preset, 161)
    rest = 14_432 + 236_544  # the convolutions
    assert model.count_params() - weight_count(preset, 161) - rest < 200_000  # normalization and characters
    schedule = bs.GradualSparsity(0.9, 0, 1, 1)
    bs.prune_blocks(model, 4, schedule, include=list(PRUNED))
    model.compile(
        keras.optimizers.SGD(1e-4, 0.99, nesterov=True, global_clipnorm=400.0), ctc.ctc_loss, jit_compile=False
    )
    inputs = [np.random.default_rng(0).standard_normal((1, 40, 161)).astype("float32"), np.array([40], "int32")]
    assert np.isfinite(model.train_on_batch(inputs, ctc.padded_labels([[3, 4]])))
    bs.strip_pruning(model)
    left = sum(np.count_nonzero(w) for w in pruned_matrices(model))
    assert left == pytest.approx(0.1 * weight_count(preset, 161), rel=1e-3)
    converted = bs.convert(folded(model, preset), 4, min_sparsity=0.5)
    np.testing.assert_allclose(converted(inputs), model(inputs), rtol=1e-3, atol=1e-3)
    bs.export(converted, tmp_path / "served")
    size = sum(file.stat().st_size for file in (tmp_path / "served").rglob("*") if file.is_file())
    assert size < 0.2 * 4 * weight_count(preset, 161)
