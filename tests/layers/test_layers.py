"""Every block-sparse layer against its Keras twin."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close, random_block_sparse
from tf_blocksparse.blocks import BlockGrid

BATCH, TIME, FEATURES = 3, 6, 10
RECURRENT = {
    "simple_rnn": (layers.SimpleRNN, bs.BlockSparseSimpleRNN, dict(units=9)),
    "gru": (layers.GRU, bs.BlockSparseGRU, dict(units=9)),
    "gru_reset_before": (layers.GRU, bs.BlockSparseGRU, dict(units=9, reset_after=False)),
    "lstm": (layers.LSTM, bs.BlockSparseLSTM, dict(units=9)),
}
OPTIONS = [
    {},
    dict(return_sequences=True),
    dict(return_state=True),
    dict(return_sequences=True, return_state=True, go_backwards=True),
    dict(use_bias=False, return_sequences=True),
    dict(unroll=True),
    dict(activation="relu", return_sequences=True),
    dict(return_sequences=True, zero_output_for_mask=True),
]


def sparse_twins(twin_class, sparse_class, settings, input_shape, block_shape=(4, 2), density=0.5):
    """A Keras layer with block-sparse kernels, and its block-sparse twin."""
    twin = twin_class(**settings)
    twin.build(input_shape)
    rng = np.random.default_rng(0)
    owner = getattr(twin, "cell", twin)
    for name in ("kernel", "recurrent_kernel", "embeddings"):
        variable = getattr(owner, name, None)
        if variable is not None:
            gates = variable.shape[1] // settings["units"] if hasattr(twin, "cell") else 1
            grid = BlockGrid(variable.shape, block_shape, gates)
            variable.assign(random_block_sparse(rng, grid, density)[0] * 0.5)
    if getattr(owner, "bias", None) is not None:
        owner.bias.assign(rng.standard_normal(owner.bias.shape))
    sparse = bs.convert(twin, block_shape=block_shape, min_sparsity=0.0)
    assert type(sparse) is sparse_class
    return twin, sparse


def as_list(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def masks():
    right_padded = np.arange(TIME) < np.array([[6], [2], [4]])
    holes = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 1, 0]], bool)
    return {"none": None, "right_padded": right_padded, "holes": holes}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_forward_and_gradients(case, options):
    twin_class, sparse_class, settings = RECURRENT[case]
    twin, sparse = sparse_twins(twin_class, sparse_class, {**settings, **options}, (BATCH, TIME, FEATURES))
    x = tf.constant(np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)), "float32")
    num_states = 2 if case == "lstm" else 1
    state = [tf.constant(np.random.default_rng(2).standard_normal((BATCH, 9)), "float32")] * num_states
    for mask in masks().values():
        for initial_state in (None, state):
            results = []
            for layer in (twin, sparse):
                with tf.GradientTape() as tape:
                    tape.watch([x, *state])
                    outputs = as_list(layer(x, mask=mask, initial_state=initial_state))
                    loss = sum(tf.reduce_sum(o * tf.cos(tf.range(o.shape[-1], dtype="float32"))) for o in outputs)
                gradients = tape.gradient(loss, [x, *(initial_state or [])])
                results.append([*outputs, *gradients])
            for expected, actual in zip(*results, strict=True):
                assert_close(actual, expected, length=20 * TIME)


@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_weight_gradients_are_the_live_blocks_of_the_dense_one(case):
    twin_class, sparse_class, settings = RECURRENT[case]
    settings = {**settings, "return_sequences": True}
    twin, sparse = sparse_twins(twin_class, sparse_class, settings, (BATCH, TIME, FEATURES))
    x = tf.constant(np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)), "float32")
    gradients = []
    for layer in (twin, sparse):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(x)))
        gradients.append(tape.gradient(loss, [v.value for v in layer.trainable_variables]))
    dense = dict(zip([v.name for v in twin.trainable_variables], gradients[0], strict=True))
    for variable, actual in zip(sparse.trainable_variables, gradients[1], strict=True):
        name, expected = variable.name, None
        if name == "bias":
            expected = dense["bias"]
        else:
            weight = getattr(sparse.cell, name)
            whole = np.asarray(dense["recurrent_kernel" if "candidate" in name else name])
            if case == "gru_reset_before" and name != "kernel":
                whole = whole[:, 18:] if name == "candidate_kernel" else whole[:, :18]
            expected = bs.BsrMatrix.from_dense(whole, weight.grid, weight.bsr().block_mask, weight.order).blocks
        assert_close(actual, expected, length=20 * TIME, scale=10)


@pytest.mark.parametrize("case", RECURRENT)
def test_stateful_and_bidirectional(case):
    twin_class, sparse_class, settings = RECURRENT[case]
    x = np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)).astype("float32")
    twin, sparse = sparse_twins(twin_class, sparse_class, {**settings, "stateful": True}, (BATCH, TIME, FEATURES))
    for _ in range(2):
        assert_close(sparse(x), twin(x), length=20 * TIME)
    sparse.reset_state()
    twin.reset_state()
    assert_close(sparse(x), twin(x), length=20 * TIME)
    both = layers.Bidirectional(twin_class(**settings, return_sequences=True))
    both.build((BATCH, TIME, FEATURES))
    for layer in (both.forward_layer, both.backward_layer):
        kernel = layer.cell.kernel
        kernel.assign(np.where(np.arange(FEATURES)[:, None] < 4, kernel, 0))
    converted = bs.convert(both, block_shape=(4, 2), min_sparsity=0.0)
    assert type(converted.backward_layer) is sparse_class
    assert_close(converted(x), both(x), length=20 * TIME)


@pytest.mark.parametrize("shape", [(10,), (5, 10), (2, 4, 10)])
@pytest.mark.parametrize("options", [{}, dict(use_bias=False, activation="tanh")], ids=str)
def test_dense(shape, options):
    twin, sparse = sparse_twins(layers.Dense, bs.BlockSparseDense, dict(units=13, **options), (BATCH, *shape), (4, 4))
    x = tf.constant(np.random.default_rng(1).standard_normal((BATCH, *shape)), "float32")
    results = []
    for layer in (twin, sparse):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.square(y))
        results.append([y, tape.gradient(loss, x)])
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, length=20, scale=10)


@pytest.mark.parametrize("ids_dtype", ["int32", "int64", "uint8", "float32"])
def test_embedding(ids_dtype):
    settings = dict(input_dim=23, output_dim=9, mask_zero=True)
    twin, sparse = sparse_twins(layers.Embedding, bs.BlockSparseEmbedding, settings, (BATCH, TIME), (4, 4))
    ids = np.random.default_rng(1).integers(0, 23, (BATCH, TIME)).astype(ids_dtype)
    np.testing.assert_array_equal(sparse(ids), twin(ids))
    np.testing.assert_array_equal(sparse.compute_mask(ids), twin.compute_mask(ids))


def test_embedding_refuses_ids_outside_the_table():
    layer = bs.BlockSparseEmbedding(23, 8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="23"):
        layer(np.array([[1, 23]]))


NEW = {
    "dense": lambda: bs.BlockSparseDense(8, "relu", block_shape=(4, 2), num_blocks=5, kernel_regularizer="l2"),
    "embedding": lambda: bs.BlockSparseEmbedding(20, 8, mask_zero=True, block_shape=4, num_blocks=3),
    "simple_rnn": lambda: bs.BlockSparseSimpleRNN(9, "relu", num_blocks={"kernel": 2}, return_sequences=True),
    "gru": lambda: bs.BlockSparseGRU(9, num_blocks={"kernel": 2}, dropout=0.1, seed=3, stateful=True),
    "gru_reset_before": lambda: bs.BlockSparseGRU(9, reset_after=False, num_blocks={"candidate_kernel": 1}),
    "lstm": lambda: bs.BlockSparseLSTM(9, unit_forget_bias=False, go_backwards=True, recurrent_dropout=0.2),
    "dynamic_dense": lambda: bs.DynamicBlockDense(
        9, "relu", block_shape=(4, 2), sparsity=bs.GradualSparsity(0.5, 1, 9, power=1), kernel_regularizer="l2"
    ),
    "dynamic_dense_softmax": lambda: bs.DynamicBlockDense(
        9, gate="softmax", block_shape=4, temperature=keras.optimizers.schedules.ExponentialDecay(3.0, 10, 0.5)
    ),
    "dynamic_dense_blocks": lambda: bs.DynamicBlockDense(9, block_shape=(4, 2), gate_inputs=4, storage="blocks"),
    "dynamic_lstm": lambda: bs.DynamicBlockLSTM(
        9, block_shape=(4, 2), sparsity=0.4, recurrent_gate_inputs=(1, 5), recurrent_dropout=0.2, return_sequences=True
    ),
    "qrnn": lambda: bs.QRNN(9, 3, "ifo", zoneout=0.1, dropout=0.2, kernel_constraint="max_norm", stateful=True),
    "dynamic_qrnn": lambda: bs.DynamicBlockQRNN(9, 1, "f", block_shape=4, gate_inputs=(1, 9), go_backwards=True),
}


def test_the_table_names_every_layer():
    public = {name for name in bs.__all__ if name.startswith(("BlockSparse", "Dynamic")) or name == "QRNN"}
    assert {type(make()).__name__ for make in NEW.values()} == public


@pytest.mark.parametrize("case", NEW)
class TestConformance:
    def inputs(self, case):
        if case == "embedding":
            return np.random.default_rng(0).integers(0, 20, (4, TIME))
        shape = (4, 12) if "dense" in case else (4, TIME, 12)
        return np.random.default_rng(0).standard_normal(shape).astype("float32")

    def model(self, case):
        x = self.inputs(case)
        inputs = keras.Input(batch_shape=x.shape, dtype=x.dtype)
        return keras.Model(inputs, NEW[case]()(inputs))

    def test_config_round_trip(self, case):
        layer = NEW[case]()
        config = layer.get_config()
        copy = type(layer).from_config(config)
        assert copy.get_config() == config
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert copy.get_config() == config

    def test_save_and_load(self, case, tmp_path):
        model, x = self.model(case), self.inputs(case)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        expected = model(x)
        np.testing.assert_array_equal(loaded(x), expected)

    def test_trains_and_keeps_its_pattern(self, case):
        model, x = self.model(case), self.inputs(case)
        model.compile("adam", "mse")
        before = model.get_weights()
        model.fit(x, np.zeros((4, *model.output_shape[1:])), batch_size=4, epochs=3, verbose=0)
        for old, new, variable in zip(before, model.get_weights(), model.weights, strict=True):
            assert np.isfinite(new).all()
            if variable.name.endswith(("indices", "indptr")):
                np.testing.assert_array_equal(new, old)
            elif variable.name.endswith("kernel") or variable.name == "embeddings":
                assert (new != old).any(), variable.name

    def test_compute_output_shape(self, case):
        x = self.inputs(case)
        layer = NEW[case]()
        assert tuple(layer.compute_output_shape(x.shape)) == tuple(layer(x).shape)

    def test_mixed_precision(self, case):
        keras.config.set_dtype_policy("mixed_bfloat16")
        layer = NEW[case]()
        assert layer(self.inputs(case)).dtype == tf.bfloat16
        assert {v.dtype for v in layer.trainable_variables} == {"float32"}


def test_dropout_drops_the_same_inputs_at_every_step():
    layer = bs.BlockSparseSimpleRNN(
        8, "linear", dropout=0.5, return_sequences=True, recurrent_initializer="zeros", kernel_initializer="identity"
    )
    x = np.ones((2, 5, 8), "float32")
    y = np.asarray(layer(x, training=True))  # the dropped inputs themselves
    assert set(np.unique(y)) == {0.0, 2.0}
    np.testing.assert_array_equal(y, np.repeat(y[:, :1], 5, axis=1))
    np.testing.assert_array_equal(layer(x), x)


def test_recurrent_dropout_drops_only_in_training():
    layer = bs.BlockSparseSimpleRNN(
        8, "linear", recurrent_dropout=0.5, recurrent_initializer="identity", kernel_initializer="identity"
    )
    x = np.ones((2, 2, 8), "float32")
    assert set(np.unique(layer(x, training=True))) == {1.0, 3.0}
    np.testing.assert_array_equal(layer(x), 2 * x[:, 0])


def test_initial_values_are_those_of_the_dense_initializer():
    layer = bs.BlockSparseDense(40, block_shape=8, num_blocks=12, kernel_initializer=keras.initializers.Ones())
    layer.build((None, 33))
    w = layer.kernel.bsr().to_dense()
    assert set(np.unique(w)) == {0.0, 1.0}
    assert np.asarray(layer.kernel.blocks).sum() == w.sum(), "the padding of edge blocks must be zero"


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: bs.BlockSparseDense(0), "units"),
        (lambda: bs.BlockSparseLSTM(2.5), "units"),
        (lambda: bs.BlockSparseDense(4, block_shape=0), "block_shape"),
        (lambda: bs.BlockSparseDense(4, num_blocks=5)(np.ones((1, 4))), "from 0 to 1"),
        (lambda: bs.BlockSparseLSTM(4, num_blocks={"x": 1})(np.ones((1, 2, 4))), "keys"),
        (lambda: bs.BlockSparseDense(4, kernel_constraint="max_norm")(np.ones((1, 4))), "MaxNorm.*whole matrix"),
        (lambda: bs.BlockSparseEmbedding(4, -1), "output_dim"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_assigning_another_number_of_blocks_is_an_error():
    layer = bs.BlockSparseDense(8, block_shape=4, num_blocks=1)
    layer.build((None, 8))
    with pytest.raises(ValueError, match="num_blocks=4"):
        layer.kernel.assign(np.ones((8, 8)))
