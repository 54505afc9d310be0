"""Recurrent layers with bfloat16 and int8 blocks: whole sequences in one op against the loop over time steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from tf_blocksparse.custom_ops import block_sparse_sequence_low_precision

NEW = {
    "rnn": lambda **settings: bs.BlockSparseSimpleRNN(19, **settings),
    "gru": lambda **settings: bs.BlockSparseGRU(19, **settings),
    "gru_reset_before": lambda **settings: bs.BlockSparseGRU(19, reset_after=False, **settings),
    "lstm": lambda **settings: bs.BlockSparseLSTM(19, **settings),
}
TYPES = [("bfloat16", None), ("bfloat16", "float32"), ("int8", None), ("int8", "float32")]
# Where states are rounded, a state that differs in its last bit may round the other way: half of a 127th, or of a
# bfloat16's last bit, times weights below one.
TOLERANCE = {"bfloat16": 5e-3, "int8": 1e-2}


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def both_ways(case, **settings):
    """Two layers of equal weights, by the op and by the loop."""
    pair = [NEW[case](implementation=i, return_state=True, **settings) for i in ("sequence", "step")]
    for layer in pair:
        layer.build((None, None, 12))
    for variable in pair[0].variables:
        if variable.name == "bias":
            variable.assign(normal(*variable.shape, seed=3) / 4)
    for variable, value in zip(pair[1].variables, pair[0].variables, strict=True):
        variable.assign(value)
    return pair


def check(pair, x, types, **arguments):
    got, expected = ([np.array(r) for r in layer(x, **arguments)] for layer in pair)
    tolerance = 1e-5 if types[1] == "float32" else TOLERANCE[types[0]]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
        assert np.abs(b).max() > 0.1  # and no zeros on both sides


@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("case", NEW)
def test_sequence_equals_step(case, types):
    storage, product = types
    for block_shape, go_backwards in ((4, False), ((5, 3), True), (16, False)):
        pair = both_ways(
            case,
            storage_dtype=storage,
            product_dtype=product,
            block_shape=block_shape,
            go_backwards=go_backwards,
            return_sequences=True,
        )
        for batch, time in ((1, 9), (3, 4), (9, 3), (40, 2)):
            x = normal(batch, time, 12)
            check(pair, x, types)
            mask = np.random.default_rng(5).random((batch, time)) < 0.7
            states = [normal(batch, 19, seed=7) / 3 for _ in pair[0].cell.state_size]
            check(pair, x, types, mask=tf.constant(mask), initial_state=states)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_sizes_that_several_threads_share(types):
    pair = [
        bs.BlockSparseLSTM(
            384, storage_dtype=types[0], product_dtype=types[1], block_shape=16, return_state=True, implementation=i
        )
        for i in ("sequence", "step")
    ]
    x = normal(12, 6, 384)
    for layer in pair:
        layer.build(x.shape)
    for variable, value in zip(pair[1].variables, pair[0].variables, strict=True):
        variable.assign(value)
    check(pair, x, types)


@pytest.mark.parametrize("case", NEW)
def test_graph_is_one_op_and_has_no_gradient(case):
    layer = NEW[case](storage_dtype="int8")
    x = tf.constant(normal(2, 3, 12))
    layer(x)
    graph = tf.function(layer).get_concrete_function(x).graph
    assert [op.type for op in graph.get_operations() if op.type.startswith("BlockSparse>")] == [
        "BlockSparse>LowPrecisionSequence"
    ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    with pytest.raises(NotImplementedError, match="for inference only"):
        tape.gradient(y, x)


def test_saved_layer_gives_the_same(tmp_path):
    model = keras.Sequential([keras.Input((None, 12)), NEW["lstm"](storage_dtype="int8", block_shape=4)])
    x = normal(2, 5, 12)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(x), model(x))


def matrix(rows, columns, height=2):
    """One int8 block in each block row of the first block column, and what belongs to it."""
    blocks = np.ones((rows // height, -(-height // 4), 2, 4), "int8")
    indptr = np.full(columns // 2 + 1, rows // height, "int32")
    indptr[0] = 0
    return blocks, np.ones(columns, "float32"), np.arange(rows // height, dtype="int32"), indptr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(cell="tanh"), "`cell` must be one of"),
        (dict(states=[]), "has 1 state"),
        (dict(matrices=[matrix(4, 4)]), "2 matrices, got 1 and 1"),
        (dict(x_dtype="bfloat16"), "x_dtype must be float32 or the type of the blocks, int8"),
        (dict(x=np.zeros((1, 3, 6), "float32")), "indptr|indices|block rows"),
        (dict(states=[np.zeros((2, 4), "float32")]), "batch|equal"),
        (dict(bias=np.zeros(5, "float32")), r"bias must have shape .*here \[4\]"),
        (dict(mask=np.ones((1, 2), bool)), r"mask must have shape .*here \[1, 3\]"),
        (dict(block_height=4), "indices|indptr|rows"),
        (dict(activation="elu"), "`activation` must be one of"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(changes, message):
    x = np.zeros((1, 3, 4), "float32")
    good = dict(
        x=x, states=[np.zeros((1, 4), "float32")], matrices=[matrix(4, 4), matrix(4, 4)], cell="rnn", block_height=2
    )
    output, h = block_sparse_sequence_low_precision(**good)
    assert output.shape == (1, 3, 4) and h.shape == (1, 4)
    if "x" in changes:  # of the right shape, with an index outside of the matrix
        blocks, scales, indices, indptr = matrix(4, 4)
        changes = {"matrices": [(blocks, scales, indices + 7, indptr), matrix(4, 4)]}
    if "block_height" in changes:
        changes = {"block_height": 4, "x": np.zeros((1, 3, 9), "float32")}
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        block_sparse_sequence_low_precision(**good | changes)
