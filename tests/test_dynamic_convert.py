"""`convert()` of dynamic layers: the same outputs from blocks stored for inference."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import run_python
from tf_blocksparse.dynamic_twins import dynamic_matrices_of, is_in_blocks

TIME, FEATURES = 5, 12
SETTINGS = dict(block_shape=(5, 4), sparsity=0.6, gate_inputs=7)
LAYERS = {
    "dense": lambda: bs.DynamicBlockDense(11, "gelu", kernel_constraint="max_norm", **SETTINGS),
    "softmax": lambda: bs.DynamicBlockDense(11, gate="softmax", kernel_regularizer="l2", **SETTINGS),
    "lstm": lambda: bs.DynamicBlockLSTM(11, return_sequences=True, recurrent_gate_inputs=(2, 9), **SETTINGS),
    "bidirectional": lambda: layers.Bidirectional(bs.DynamicBlockQRNN(11, 3, "ifo", **SETTINGS)),
    "time_distributed": lambda: layers.TimeDistributed(bs.DynamicBlockDense(11, "relu", **SETTINGS)),
}


def random_model(case):
    model = keras.Sequential([keras.Input((TIME, FEATURES)), LAYERS[case]()])
    rng = np.random.default_rng(0)
    model.set_weights([0.5 * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model, rng.standard_normal((8, TIME, FEATURES)).astype("float32")


@pytest.mark.parametrize("case", LAYERS)
def test_same_outputs_and_saved_alike(case, tmp_path):
    model, x = random_model(case)
    fast = bs.convert(model)
    expected = model(x)
    np.testing.assert_allclose(fast(x), expected, rtol=1e-5, atol=1e-5)
    fast.save(tmp_path / "fast.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "fast.keras")(x), fast(x))
    bs.export(fast, tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("case", LAYERS)
def test_rounded_blocks(case, dtype, tmp_path):
    """The outputs are those of a model whose matrices were rounded alike, in every way to run it."""
    model, x = random_model(case)
    small = bs.convert(model, dtype=dtype)
    rounded = bs.convert(model)
    assert matrices(rounded)
    for wide, narrow in zip(matrices(rounded), matrices(small), strict=True):
        w = wide.to_matrix().numpy()
        step = np.abs(w).max() / 127 if dtype == "int8" else np.abs(w) / 2**8
        assert 0 < np.abs(narrow.to_matrix() - w).max() and np.all(np.abs(narrow.to_matrix() - w) <= step)
        assert narrow.variable.dtype == dtype
        wide.assign(narrow.to_matrix())
    expected = rounded(x)
    np.testing.assert_allclose(small(x), expected, rtol=1e-5, atol=1e-5)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))
    for portable in (False, True):
        bs.export(small, tmp_path / f"served{portable}", portable=portable)
        served = tf.saved_model.load(tmp_path / f"served{portable}")
        np.testing.assert_allclose(served.serve(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS)
def test_rounded_blocks_are_not_trained(case):
    model, x = random_model(case)
    small = bs.convert(model, dtype="int8")
    assert small.trainable_variables == []
    with pytest.raises(ValueError, match="stores its blocks as int8, which is for inference only"):
        small(x, training=True)
    small.trainable = False
    assert np.all(np.isfinite(small(x, training=True))), "frozen, it may be part of a model that is trained"


def test_blocks_in_float32_are_rounded_later_as_at_once():
    model, x = random_model("lstm")
    np.testing.assert_array_equal(bs.convert(bs.convert(model), dtype="int8")(x), bs.convert(model, dtype="int8")(x))


def test_a_matrix_for_training_is_float32():
    with pytest.raises(ValueError, match=r"convert\(model, dtype=...\) .* Received: .*storage_dtype='int8'"):
        bs.DynamicBlockDense(4, storage_dtype="int8")


def matrices(model):
    layer = model.layers[0]
    inner = [getattr(layer, name) for name in ("forward_layer", "backward_layer", "layer") if hasattr(layer, name)]
    return [matrix for part in inner[:2] or [layer] for matrix in dynamic_matrices_of(part)]


def test_the_copy_stores_blocks_and_leaves_the_model_as_it_was():
    model, _ = random_model("dense")
    before = model.get_weights()
    fast = bs.convert(model)
    layer = fast.layers[0]
    assert is_in_blocks(layer) and not is_in_blocks(model.layers[0])
    assert tuple(layer.kernel.shape) == (3 * 3, 5, 4)
    assert layer.kernel_constraint is None, "it needs the whole matrix"
    kernel = model.layers[0].kernel.numpy()
    np.testing.assert_array_equal(layer.kernel[4], kernel[5:10, 4:8])
    np.testing.assert_array_equal(layer.kernel[8][:2, :3], kernel[10:, 8:])
    assert not np.any(layer.kernel[8][2:]), "what pads an edge block is zero"
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(layer.matrix.to_matrix(), kernel)


def test_sparsity_stays_where_the_schedule_is():
    schedule = bs.GradualSparsity(0.9, 0, 10, power=1)
    layer = bs.DynamicBlockDense(16, block_shape=2, sparsity=schedule, gate_bias_initializer="ones")
    model = keras.Sequential([keras.Input((12,)), layer])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((4, 12)).astype("float32")
    for _ in range(5):
        model.train_on_batch(x, np.ones((4, 16)))
    fast = bs.convert(model)
    assert int(fast.layers[0].block_gate.step) == 5
    assert int(fast.layers[0].block_gate.num_open()) == round(0.55 * 48)
    np.testing.assert_allclose(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_beside_pruned_layers():
    inputs = keras.Input((16,))
    pruned = layers.Dense(16, name="pruned")
    model = keras.Model(inputs, bs.DynamicBlockDense(16, block_shape=4)(pruned(inputs)))
    pruned.kernel.assign(np.where(np.arange(16)[:, None] < 12, 0.0, pruned.kernel))
    fast = bs.convert(model, block_shape=4, measure=False)
    assert [type(layer).__name__ for layer in fast.layers[1:]] == ["BlockSparseDense", "DynamicBlockDense"]
    x = np.random.default_rng(0).standard_normal((4, 16)).astype("float32")
    np.testing.assert_allclose(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_blocks_that_are_not_chosen_are_not_multiplied():
    """The op skips them: what they hold, even NaN, changes nothing."""
    model, x = random_model("dense")
    fast = bs.convert(model)
    layer = fast.layers[0]
    example = tf.constant(x[0, :1])
    chosen = np.isin(np.arange(9), layer.block_gate.choose(example)[0])
    expected = layer(example)
    layer.kernel.assign(np.where(chosen[:, None, None], layer.kernel, np.nan))
    assert not chosen.all()
    np.testing.assert_array_equal(layer(example), expected)


def test_served_by_a_process_that_knows_the_op_only(tmp_path):
    model, x = random_model("lstm")
    fast = bs.convert(model)
    bs.export(fast, tmp_path / "served")
    np.save(tmp_path / "x.npy", x)
    run_python(
        "import sys, numpy as np, tensorflow as tf\n"
        "tf.load_op_library(sys.argv[1])\n"
        "served = tf.saved_model.load(sys.argv[2] + '/served')\n"
        "np.save(sys.argv[2] + '/y.npy', served.serve(np.load(sys.argv[2] + '/x.npy')))\n"
        "assert 'tf_blocksparse' not in sys.modules\n",
        bs.ops.library_path(),
        tmp_path,
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x), rtol=1e-5, atol=1e-5)
