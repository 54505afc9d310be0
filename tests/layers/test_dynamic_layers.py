"""The dynamic layers against float64 NumPy, and with gates of 1 against their Keras twins."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close
from tf_blocksparse.block_gates import dynamic_matrices
from tf_blocksparse.layers.dynamic_matrix import from_stored_blocks

BATCH, TIME, FEATURES, UNITS = 3, 6, 10, 9
ONES = dict(sparsity=0.0, gate_kernel_initializer="zeros", gate_bias_initializer="ones")  # all gates are 1
RECURRENT = {
    "lstm": lambda **kwargs: bs.DynamicBlockLSTM(UNITS, block_shape=(4, 2), **kwargs),
    "qrnn": lambda **kwargs: bs.DynamicBlockQRNN(UNITS, 3, "ifo", block_shape=(4, 2), **kwargs),
}


def sequences(seed=1, time=TIME):
    return np.random.default_rng(seed).standard_normal((BATCH, time, FEATURES)).astype("float32")


def spread(gates, grid):
    """Gates `[rows, cols]` over the elements of the matrix, in float64."""
    height, width = grid.block_shape
    wide = np.repeat(np.repeat(np.asarray(gates, "float64"), height, 0), width, 1)[: grid.shape[0]]
    wide = wide.reshape(len(wide), grid.gates, -1)[:, :, : grid.gate_width]
    return wide.reshape(grid.shape)


def gated_product(matrix, x):
    """`x (G o W)` for each row of `x`, in float64, with the gates that the layer's own gate says."""
    w = np.asarray(matrix.to_matrix(), "float64")
    gates = matrix.gate(np.asarray(x, "float32"))
    return np.stack([row @ (w * spread(g, matrix.grid)) for row, g in zip(x.astype("float64"), gates, strict=True)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize("shape", [(FEATURES,), (5, FEATURES), (2, 3, FEATURES)])
@pytest.mark.parametrize("options", [{}, dict(activation="relu"), dict(activation="gelu", use_bias=False)], ids=str)
def test_dense(shape, options, storage):
    settings = dict(block_shape=(4, 3), sparsity=0.6, bias_initializer="normal", storage=storage)
    layer = bs.DynamicBlockDense(13, **settings, **options)
    x = np.random.default_rng(0).standard_normal((BATCH, *shape)).astype("float32")
    y = layer(x)
    bias = 0.0 if layer.bias is None else layer.bias.numpy()
    expected = gated_product(layer.matrix, x.reshape(-1, FEATURES)) + bias
    expected = layer.activation(tf.constant(expected.reshape(*x.shape[:-1], 13)))
    assert_close(y, expected, length=FEATURES, scale=4)


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize("activation", ["linear", "tanh", "sigmoid"])
def test_dense_with_gates_of_1_is_kerass(activation, storage):
    twin = layers.Dense(13, activation, bias_initializer="normal")
    layer = bs.DynamicBlockDense(13, activation, block_shape=(4, 3), storage=storage, **ONES)
    x = tf.constant(sequences())
    twin(x), layer(x)
    layer.matrix.assign(twin.kernel)
    layer.bias.assign(twin.bias)
    results = []
    for each, kernel in ((twin, twin.kernel), (layer, layer.kernel)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = each(x)
            loss = tf.reduce_sum(tf.square(y))
        results.append([y, *tape.gradient(loss, [x, kernel.value, each.bias.value])])
    if storage == "blocks":
        results[1][2] = from_stored_blocks(layer.matrix.grid, results[1][2])
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, length=20 * TIME, scale=4)


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
def test_all_gates_zero_leave_the_bias(storage):
    layer = bs.DynamicBlockDense(
        8,
        block_shape=4,
        storage=storage,
        bias_initializer="normal",
        gate_kernel_initializer="zeros",
        gate_bias_initializer=keras.initializers.Constant(-1.0),
    )
    x = tf.ones((2, 12))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.square(y))
    np.testing.assert_array_equal(y, np.tile(layer.bias.numpy(), (2, 1)))
    gradients = tape.gradient(loss, [x, *[v.value for v in layer.trainable_variables]])
    assert all(np.isfinite(g).all() for g in gradients)
    assert np.any(gradients[2]), "the bias learns"
    assert not np.any(gradients[0]) and not np.any(gradients[1])


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize("gate", ["top_k", "softmax"])
def test_gradients_of_both_storages_are_alike(gate, storage):
    settings = dict(block_shape=(4, 3), sparsity=0.6, gate=gate)
    reference = bs.DynamicBlockDense(13, **settings)
    layer = bs.DynamicBlockDense(13, storage=storage, **settings)
    x = tf.constant(sequences())
    reference(x), layer(x)
    layer.matrix.assign(reference.kernel)
    layer.block_gate.set_weights(reference.block_gate.get_weights())
    results = []
    for each in (reference, layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = each(x, training=True)
            loss = tf.reduce_sum(tf.sin(y))
        gate_weights = [v.value for v in each.block_gate.trainable_variables]
        results.append([y, *tape.gradient(loss, [x, *gate_weights])])
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, length=20 * TIME, scale=4)


def lstm_oracle(layer, x):
    """Outputs `[batch, time, units]` in float64."""
    cell, (h, c), outputs = layer.cell, np.zeros((2, len(x), UNITS)), []
    for t in range(x.shape[1]):
        z = gated_product(cell.kernel_matrix, x[:, t]) + cell.bias.numpy() + gated_product(cell.recurrent_matrix, h)
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1)


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize("gate_inputs", [None, (2, 7)])
def test_lstm(storage, gate_inputs):
    layer = bs.DynamicBlockLSTM(
        UNITS,
        block_shape=(4, 2),
        sparsity=0.5,
        return_sequences=True,
        gate_inputs=gate_inputs,
        recurrent_gate_inputs=gate_inputs,
        storage=storage,
    )
    x = sequences()
    y = layer(x)
    assert_close(y, lstm_oracle(layer, x), length=40)
    open_blocks = np.count_nonzero(layer.cell.kernel_gate(x[:, 0]), axis=1).reshape(BATCH, 4, -1).sum(-1)
    assert (open_blocks <= 8).all(), "each of the four matrices has at most half of its 3 x 5 blocks open"


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize(
    "options",
    [
        dict(return_sequences=True),
        dict(return_state=True, go_backwards=True, return_sequences=True),
        dict(use_bias=False, unroll=True),
        dict(unit_forget_bias=False, recurrent_activation="hard_sigmoid", activation="relu"),
    ],
    ids=str,
)
def test_lstm_with_gates_of_1_is_kerass(options, storage):
    twin = layers.LSTM(UNITS, **options)
    layer = RECURRENT["lstm"](storage=storage, **ONES, **options)
    x = tf.constant(sequences())
    twin(x), layer(x)
    layer.cell.kernel_matrix.assign(twin.cell.kernel)
    layer.cell.recurrent_matrix.assign(twin.cell.recurrent_kernel)
    if twin.cell.bias is not None:
        np.testing.assert_array_equal(layer.cell.bias, twin.cell.bias)
    masks = [None, np.arange(TIME) < [[6], [2], [4]], np.array([[1, 0, 1, 1, 0, 1], [0] * 6, [0, 1, 1, 0, 1, 0]], bool)]
    state = [tf.constant(sequences(s)[:, 0, :UNITS]) for s in (2, 3)]
    for mask in masks:
        for initial_state in (None, state):
            results = []
            for each in (twin, layer):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    outputs = each(x, mask=mask, initial_state=initial_state)
                    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
                    loss = sum(tf.reduce_sum(tf.sin(o)) for o in outputs)
                results.append([*outputs, tape.gradient(loss, x)])
            for expected, actual in zip(*results, strict=True):
                assert_close(actual, expected, length=20 * TIME, scale=4)


def qrnn_oracle(x, kernel, bias, kernel_size, pooling, mask=None, state=None, product=None):
    """Outputs `[batch, time, units]` and the last c, step by step in float64."""
    x = x.astype("float64") * (1.0 if mask is None else mask[..., None])
    c, before = state or (np.zeros((len(x), UNITS)), np.zeros((len(x), kernel_size - 1, FEATURES)))
    padded, outputs, h = np.concatenate([before, x], 1), [], np.zeros((len(x), UNITS))
    product = product or (lambda window: window @ kernel)
    for t in range(x.shape[1]):
        z, f, *others = np.split(
            product(padded[:, t : t + kernel_size].reshape(len(x), -1)) + bias, len(pooling) + 1, 1
        )
        z, f, others = np.tanh(z), sigmoid(f), [sigmoid(o) for o in others]
        new = f * c + (others[1] if pooling == "ifo" else 1 - f) * z
        new_h = others[0] * new if others else new
        live = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        c, h = np.where(live, new, c), np.where(live, new_h, h)
        outputs.append(h)
    return np.stack(outputs, 1), c


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
@pytest.mark.parametrize("kernel_size", [1, 2, 4])
def test_qrnn(kernel_size, pooling):
    layer = bs.QRNN(UNITS, kernel_size, pooling, bias_initializer="normal", return_sequences=True, return_state=True)
    x = sequences()
    holes = np.array([[1, 0, 1, 1, 0, 1], [0] * 6, [0, 1, 1, 0, 1, 0]], bool)
    for mask in (None, np.arange(TIME) < [[6], [2], [4]], holes):
        y, c, *history = layer(x, mask=mask)
        arguments = layer.cell.kernel.numpy(), layer.cell.bias.numpy(), kernel_size, pooling
        expected, expected_c = qrnn_oracle(x, *arguments, mask=mask)
        assert_close(y, expected, length=40)
        assert_close(c, expected_c, length=40)
    assert len(history) == (kernel_size > 1)
    halves = [x[:, :2], x[:, 2:]]  # shorter than the longest window
    state, parts = None, []
    for half in halves:
        y, *state = layer(half, initial_state=state)
        parts.append(y)
    assert_close(np.concatenate(parts, 1), qrnn_oracle(x, *arguments)[0], length=40)


def test_qrnns_convolution_is_kerass_causal_one():
    layer = bs.QRNN(UNITS, 3, "f", activation="linear", return_sequences=True)
    x = sequences()
    layer(x)
    convolution = layers.Conv1D(2 * UNITS, 3, padding="causal")
    convolution.build(x.shape)
    convolution.set_weights([np.reshape(layer.cell.kernel, (3, FEATURES, 2 * UNITS)), layer.cell.bias])
    windows, _ = layer._windows(tf.constant(x), layer.get_initial_state(BATCH)[1:])
    assert_close(layer.cell.project(windows), convolution(x), length=40)


def test_qrnn_backwards_is_the_reversed_text():
    forwards = bs.QRNN(UNITS, 3, return_sequences=True, return_state=True)
    backwards = bs.QRNN(UNITS, 3, return_sequences=True, return_state=True, go_backwards=True)
    x = sequences()
    forwards(x), backwards(x)
    backwards.set_weights(forwards.get_weights())
    mask = np.arange(TIME) < [[6], [2], [4]]
    for expected, actual in zip(forwards(x[:, ::-1], mask=mask[:, ::-1]), backwards(x, mask=mask), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_padding_on_the_left_changes_nothing():
    layer = bs.QRNN(UNITS, 3)
    x = sequences()
    padded = np.concatenate([sequences(5, 2), x], 1)
    mask = np.arange(TIME + 2) >= np.full((BATCH, 1), 2)
    assert_close(layer(padded, mask=mask), layer(x), length=40)


@pytest.mark.parametrize("storage", ["matrix", "blocks"])
@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_dynamic_qrnn(pooling, storage):
    settings = dict(block_shape=(4, 2), sparsity=0.5, gate_inputs=(1, 8), storage=storage, return_sequences=True)
    layer = bs.DynamicBlockQRNN(UNITS, 3, pooling, **settings)
    x = sequences()
    y = layer(x)
    matrix = layer.cell.kernel_matrix
    product = lambda windows: gated_product(matrix, windows)  # noqa: E731
    assert_close(y, qrnn_oracle(x, None, layer.cell.bias.numpy(), 3, pooling, product=product)[0], length=40)
    windows = np.random.default_rng(0).standard_normal((4, 3 * FEATURES)).astype("float32")
    others = np.random.default_rng(1).standard_normal((4, 3 * FEATURES)).astype("float32")
    others[:, 2 * FEATURES + 1 : 2 * FEATURES + 8] = windows[:, 2 * FEATURES + 1 : 2 * FEATURES + 8]
    np.testing.assert_array_equal(matrix.gate(windows), matrix.gate(others))


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_dynamic_qrnn_with_gates_of_1_is_qrnn(pooling):
    twin = bs.QRNN(UNITS, 2, pooling, return_sequences=True)
    layer = bs.DynamicBlockQRNN(UNITS, 2, pooling, block_shape=(4, 2), return_sequences=True, **ONES)
    x = sequences()
    twin(x), layer(x)
    layer.cell.kernel_matrix.assign(twin.cell.kernel)
    assert_close(layer(x), twin(x), length=40)


@pytest.mark.parametrize("case", [*RECURRENT, "plain qrnn"])
def test_stateful_goes_on_where_the_last_batch_ended(case):
    make = RECURRENT.get(case) or (lambda **kwargs: bs.QRNN(UNITS, 3, **kwargs))
    layer, x = make(stateful=True, return_sequences=True), sequences()
    parts = [layer(x[:, :3]), layer(x[:, 3:])]
    layer.reset_state()
    assert_close(np.concatenate(parts, 1), np.concatenate([layer(x[:, :3]), layer(x[:, 3:])], 1), length=40)
    whole = make(return_sequences=True)
    whole(x)
    whole.set_weights(layer.get_weights()[: len(whole.weights)])
    assert_close(np.concatenate(parts, 1), whole(x), length=40)


@pytest.mark.parametrize("case", [*RECURRENT, "plain qrnn"])
def test_bidirectional_and_unknown_sizes(case):
    make = RECURRENT.get(case) or (lambda **kwargs: bs.QRNN(UNITS, 3, **kwargs))
    inputs = keras.Input((None, FEATURES))
    model = keras.Model(inputs, layers.Bidirectional(make(return_sequences=True))(layers.Masking()(inputs)))
    assert model.output_shape == (None, None, 2 * UNITS)
    x = sequences()
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-6)


def test_zoneout_keeps_the_state_of_some_channels_in_training():
    layer = bs.QRNN(400, 1, "f", zoneout=0.3, kernel_initializer="zeros", bias_initializer="zeros")
    layer.build((None, None, 4))
    f = np.asarray(layer.cell.banks(np.ones((1, 1, 4), "float32"), training=True))[0, 0, 400:]
    assert set(np.unique(f.round(5))) == {0.5, 1.0}, "what is not held is not scaled"
    assert 0.2 < np.mean(f > 0.9) < 0.4
    assert np.unique(layer.cell.banks(np.ones((1, 1, 4), "float32"))[0, 0, 400:]).tolist() == [0.5]


def test_dropout_drops_the_same_inputs_at_every_step():
    layer = bs.QRNN(8, 1, "f", activation="linear", dropout=0.5, use_bias=False, return_sequences=True)
    layer.build((None, None, 8))
    layer.cell.kernel.assign(np.concatenate([np.eye(8), np.zeros((8, 8))], 1))
    y = np.asarray(layer(np.ones((2, 5, 8), "float32"), training=True))
    assert set(np.unique(y[:, 0])) == {0.0, 1.0}
    np.testing.assert_array_equal(y > 0, np.repeat(y[:, :1] > 0, 5, axis=1))


@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_layers_count_optimizer_steps_not_time_steps(case):
    schedule = bs.GradualSparsity(0.5, 0, 10, power=1)
    model = keras.Sequential([keras.Input((TIME, FEATURES)), RECURRENT[case](sparsity=schedule)])
    model.compile("sgd", "mse")
    model.fit(sequences(), np.zeros((BATCH, UNITS)), epochs=4, verbose=0)
    assert {int(m.gate.step) for m in dynamic_matrices(model).values()} == {4}


def test_the_layer_learns_with_xla_and_without():
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((12,)), bs.DynamicBlockDense(16, "relu", block_shape=4), layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=jit)
        x = np.random.default_rng(0).standard_normal((32, 12)).astype("float32")
        losses.append(model.fit(x, x.sum(1), epochs=20, shuffle=False, verbose=0).history["loss"])
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: bs.DynamicBlockDense(0), "units"),
        (lambda: bs.DynamicBlockDense(4, gate="hard"), "gate.*softmax"),
        (lambda: bs.DynamicBlockDense(4, storage="csr"), "storage.*blocks"),
        (lambda: bs.DynamicBlockDense(4, sparsity=1.5), "sparsity"),
        (lambda: bs.DynamicBlockDense(4, storage="blocks", kernel_constraint="max_norm")(np.ones((1, 4))), "MaxNorm"),
        (lambda: bs.DynamicBlockLSTM(4, recurrent_gate_inputs=-1), "recurrent_gate_inputs"),
        (lambda: bs.QRNN(4, 0), "kernel_size"),
        (lambda: bs.QRNN(4, pooling="of"), "pooling"),
        (lambda: bs.QRNN(4, zoneout=1.0), "zoneout"),
        (lambda: bs.DynamicBlockQRNN(4, gate_inputs=9)(np.ones((1, 2, 4))), "4 features"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
