"""The product op and its gradients against float64 NumPy and the plain-TensorFlow function."""

import concurrent.futures
import re

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from bsr_cases import assert_close, random_bsr
from tf_blocksparse.custom_ops import block_sparse_matmul, block_sparse_matmul_reference
from tf_blocksparse.custom_ops.library import ops

SHAPES = [(1, 1), (3, 5), (4, 4), (12, 2), (8, 8), (16, 16), (1, 16), (16, 1), (8, 32), (64, 64)]
BATCHES = [1, 2, 3, 7, 8, 16, 17, 33, 70]


def normal(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def call(function, w, x):
    return function(x, *w.arrays, **w.layout)


def gradients(function, w, x, dy):
    x, blocks, dy = tf.constant(x), tf.constant(w.blocks), tf.constant(dy)
    with tf.GradientTape() as tape:
        tape.watch([x, blocks])
        y = function(x, blocks, w.indices, w.indptr, **w.layout)
        loss = tf.reduce_sum(y * dy)
    return tape.gradient(loss, [x, blocks])


@pytest.mark.parametrize("block_shape", SHAPES)
@pytest.mark.parametrize("gates", [1, 3])
@pytest.mark.parametrize("order", ["row", "column"])
def test_product_and_gradients(block_shape, gates, order):
    w = random_bsr(130, gates * 70, block_shape, 0.4, gates, order=order)
    dense = w.dense()
    for batch in BATCHES:
        x = normal([batch, 130])
        dy = normal([batch, gates * 70], seed=2)
        assert_close(call(block_sparse_matmul, w, x), x.astype(np.float64) @ dense, 130, 4)
        dx, dblocks = gradients(block_sparse_matmul, w, x, dy)
        assert_close(dx, dy.astype(np.float64) @ dense.T, gates * 70, 4)
        assert_close(dblocks, w.stored(x.T.astype(np.float64) @ dy), batch, 4)


def test_equals_scipy():
    rng = np.random.default_rng(0)
    dense = np.kron(rng.random([10, 12]) < 0.3, np.ones([4, 8])) * rng.standard_normal([40, 96])
    w = scipy.sparse.bsr_matrix(dense.astype(np.float32), blocksize=(4, 8))
    w.sort_indices()
    x = normal([5, 40])
    y = block_sparse_matmul(x, w.data, w.indices, w.indptr, out_features=96)
    assert_close(y, x.astype(np.float64) @ dense, 40, 4)


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("batch", [0, 1, 20])
@pytest.mark.parametrize("order", ["row", "column"])
def test_densities_and_empty_batches(density, batch, order):
    w = random_bsr(60, 44, (8, 8), density, order=order)
    x = normal([batch, 60])
    assert_close(call(block_sparse_matmul, w, x), x.astype(np.float64) @ w.dense(), 60, 4)
    dx, dblocks = gradients(block_sparse_matmul, w, x, normal([batch, 44]))
    assert dx.shape == [batch, 60] and dblocks.shape == w.blocks.shape
    assert np.isfinite(dx).all() and np.isfinite(dblocks).all()
    if batch == 0:
        assert not np.any(dblocks)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16])
@pytest.mark.parametrize("gates", [1, 4])
@pytest.mark.parametrize("order", ["row", "column"])
def test_reference(dtype, gates, order):
    w = random_bsr(37, gates * 11, (4, 3), 0.5, gates, order=order)
    x = tf.cast(normal([6, 37]), dtype)
    blocks = tf.cast(w.blocks, dtype)
    y = block_sparse_matmul_reference(x, blocks, w.indices, w.indptr, **w.layout)
    assert y.dtype == dtype
    w.blocks = blocks.numpy()
    expected = tf.cast(x, tf.float64).numpy() @ w.dense()
    eps = {tf.float32: 1e-5, tf.float64: 1e-13, tf.bfloat16: 0.2}[dtype]
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, atol=eps)


def test_gradients_equal_the_reference_and_differences():
    w = random_bsr(20, 18, (4, 4), 0.6, gates=2)
    x, dy = normal([5, 20]), normal([5, 18], seed=2)
    actual = gradients(block_sparse_matmul, w, x, dy)
    expected = gradients(block_sparse_matmul_reference, w, x, dy)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e.numpy().astype(np.float64), 20, 4)

    w.blocks = np.nan_to_num(w.blocks)
    theoretical, numeric = tf.test.compute_gradient(
        lambda x, blocks: block_sparse_matmul(x, blocks, w.indices, w.indptr, out_features=18, gates=2),
        [x, w.blocks],
        delta=0.01,
    )
    for t, n in zip(theoretical, numeric, strict=True):
        np.testing.assert_allclose(t, n, atol=2e-3)


@pytest.mark.parametrize("order", ["row", "column"])
def test_second_order_gradients(order):
    w = random_bsr(20, 18, (4, 4), 0.6, gates=2, order=order)
    w.blocks = np.nan_to_num(w.blocks)
    x = normal([5, 20])

    def second(function):
        x_, blocks = tf.constant(x), tf.constant(w.blocks)
        with tf.GradientTape() as outer:
            outer.watch([x_, blocks])
            with tf.GradientTape() as inner:
                inner.watch([x_, blocks])
                y = function(x_, blocks, w.indices, w.indptr, **w.layout)
                loss = tf.reduce_sum(y**3)
            dx, dblocks = inner.gradient(loss, [x_, blocks])
            loss = tf.reduce_sum(dx**2) + tf.reduce_sum(tf.sin(dblocks))
        return outer.gradient(loss, [x_, blocks])

    for a, e in zip(second(block_sparse_matmul), second(block_sparse_matmul_reference), strict=True):
        scale = np.abs(e).max()
        assert scale > 1
        np.testing.assert_allclose(a, e, atol=2e-5 * scale)


EXPECTED = {
    "linear": lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "tanh": np.tanh,
    "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
}


@pytest.mark.parametrize("activation", EXPECTED)
@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("gates", [1, 3])
def test_bias_and_activation(activation, order, gates):
    w = random_bsr(37, gates * 21, (4, 8), 0.4, gates, order=order)
    bias = normal([gates * 21], seed=4)
    for batch in (1, 5, 17, 70):
        x = normal([batch, 37])
        for b, added in ((bias, bias), (None, 0.0)):
            y = block_sparse_matmul(x, *w.arrays, **w.layout, bias=b, activation=activation)
            assert_close(y, EXPECTED[activation](x.astype(np.float64) @ w.dense() + added), 37, 4)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_activations_of_extreme_and_missing_numbers(activation):
    values = np.array(
        [np.nan, np.inf, -np.inf, 0.0, 1e-30, -1e-3, 0.29, -0.31, 5, -9, 60, -88, 200, -1e4, 3e38], np.float32
    )
    x = values[:, None] * np.eye(len(values), dtype=np.float32)
    x[np.isnan(x)] = 0  # 0 * inf beside the diagonal
    bias = np.where(np.isfinite(values), 0, values).astype(np.float32)
    identity = np.eye(len(values), dtype=np.float32)[None]
    y = block_sparse_matmul(
        np.where(np.isfinite(x), x, 0), identity, [0], [0, 1], len(values), bias=bias, activation=activation
    ).numpy()
    with np.errstate(over="ignore"):
        expected = EXPECTED[activation](values.astype(np.float64))
    np.testing.assert_allclose(np.diag(y), expected, rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid"])
def test_gradients_through_bias_and_activation(activation):
    w = random_bsr(20, 18, (4, 4), 0.6, gates=2, order="column")
    w.blocks = np.nan_to_num(w.blocks)
    x, dy = normal([5, 20]), normal([5, 18], seed=2)

    def both_orders(function):
        inputs = [tf.constant(x), tf.constant(w.blocks), tf.constant(normal([18], seed=4))]
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                y = function(*inputs[:2], w.indices, w.indptr, **w.layout, bias=inputs[2], activation=activation)
                loss = tf.reduce_sum(y**2 * dy)
            first = inner.gradient(loss, inputs)
            loss = tf.add_n([tf.reduce_sum(g**2) for g in first])
        return first + outer.gradient(loss, inputs)

    for a, e in zip(both_orders(block_sparse_matmul), both_orders(block_sparse_matmul_reference), strict=True):
        scale = np.abs(e).max()
        assert scale > 0.1
        np.testing.assert_allclose(a, e, atol=2e-5 * scale)


@pytest.mark.parametrize("shape", [[24], [3, 24], [2, 3, 24], [2, 0, 24]])
def test_any_rank(shape):
    w = random_bsr(24, 20, (4, 4))
    x = normal(shape)
    assert_close(call(block_sparse_matmul, w, x), x.astype(np.float64) @ w.dense(), 24, 4)
    assert_close(call(block_sparse_matmul_reference, w, x), x.astype(np.float64) @ w.dense(), 24, 4)


def test_unknown_shapes_in_a_function():
    w = random_bsr(24, 20, (4, 4))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 24])])
    def function(x):
        y = call(block_sparse_matmul, w, x)
        assert y.shape.as_list() == [None, None, 20]
        return y, tf.gradients(y, x)[0]

    for shape in ([2, 3, 24], [1, 40, 24]):
        x = normal(shape)
        y, dx = function(x)
        assert_close(y, x.astype(np.float64) @ w.dense(), 24, 4)
        assert_close(dx, np.ones([*shape[:-1], 20]) @ w.dense().T, 20, 4)

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def any_rank(x):
        return call(block_sparse_matmul, w, x)

    for shape in ([24], [2, 3, 24]):
        x = normal(shape)
        assert_close(any_rank(x), x.astype(np.float64) @ w.dense(), 24, 4)


def test_shape_function():
    w = random_bsr(24, 20, (4, 4))
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 24])
        y = call(block_sparse_matmul, w, x)
        assert y.shape.as_list() == [None, 20]
        dx, dblocks = tf.gradients(y, [x, y.op.inputs[1]])
        assert dx.shape.as_list() == [None, 24]
        assert dblocks.shape.as_list() == list(w.blocks.shape)
        with pytest.raises(ValueError, match="must be 8 but is 7"):
            x = tf.compat.v1.placeholder(tf.float32, [None, 27])
            call(block_sparse_matmul, w, x)


def test_saved_model(tmp_path):
    w = random_bsr(24, 20, (4, 4))

    class Model(tf.Module):
        def __init__(self):
            self.blocks = tf.Variable(w.blocks)
            self.indices = tf.Variable(w.indices, trainable=False)
            self.indptr = tf.Variable(w.indptr, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([None, 24])])
        def __call__(self, x):
            return block_sparse_matmul(x, self.blocks, self.indices, self.indptr, out_features=20)

    model = Model()
    x = normal([3, 24])
    before = model(x)
    tf.saved_model.save(model, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded(x), before)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded(x))
    dblocks = tape.gradient(loss, loaded.blocks)
    assert_close(dblocks, w.stored(x.T.astype(np.float64) @ np.ones([3, 20])), 3, 4)


def test_a_pattern_that_changes_is_seen():
    """Kernels keep what they prepared from indices; another pattern must not meet the old one."""
    patterns = [random_bsr(64, 64, (4, 4), 0.3, seed=s) for s in range(12)]
    indices = [tf.Variable(w.indices, shape=[None]) for w in patterns]
    x = normal([3, 64])
    for _ in range(2):
        for w, variable in zip(patterns, indices, strict=True):
            y = block_sparse_matmul(x, w.blocks, variable, w.indptr, out_features=64)
            assert_close(y, x.astype(np.float64) @ w.dense(), 64, 4)

    variable, indptr = tf.Variable(patterns[0].indices), tf.Variable(patterns[0].indptr)
    blocks = tf.ones([len(patterns[0].indices), 4, 4])
    graph = tf.function(lambda: block_sparse_matmul(x, blocks, variable, indptr, out_features=64))
    first = graph()
    columns = patterns[0].indices
    moved = np.concatenate(
        [np.sort((columns[a:b] + 1) % 16) for a, b in zip(patterns[0].indptr[:-1], patterns[0].indptr[1:], strict=True)]
    ).astype(np.int32)
    variable.assign(moved)
    np.testing.assert_allclose(graph(), np.roll(first, 4, axis=1), atol=1e-5)


def test_many_python_threads():
    cases = [random_bsr(512, 384, (8, 8), 0.3, gates=3, seed=s) for s in range(4)]
    x = normal([40, 512])
    expected = [x.astype(np.float64) @ w.dense() for w in cases]

    def work(i):
        w = cases[i % 4]
        return i % 4, call(block_sparse_matmul, w, x).numpy()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, y in pool.map(work, range(200)):
            assert_close(y, expected[i], 512, 4)


def test_all_work_is_split_over_threads_too():
    w = random_bsr(1000, 1200, (16, 16), 0.5, gates=3)
    for batch in (4, 40, 300):
        x, dy = normal([batch, 1000]), normal([batch, 1200], seed=2)
        dense = w.dense()
        assert_close(call(block_sparse_matmul, w, x), x.astype(np.float64) @ dense, 1000, 4)
        dx, dblocks = gradients(block_sparse_matmul, w, x, dy)
        assert_close(dx, dy.astype(np.float64) @ dense.T, 1200, 4)
        assert_close(dblocks, w.stored(x.T.astype(np.float64) @ dy), batch, 4)


GOOD = {
    "x": np.zeros([2, 8], np.float32),
    "blocks": np.zeros([3, 4, 4], np.float32),
    "indices": np.array([0, 2, 1], np.int32),
    "indptr": np.array([0, 2, 3], np.int32),
    "out_features": 12,
    "gates": 1,
}
HUGE = np.zeros([0, 2**31, 1], np.float32)
BAD_INPUTS = [
    (
        {"x": np.zeros([8], np.float32)},
        r"x must have shape \[batch, in_features\], got shape \[8\]",
    ),
    ({"x": np.zeros([2, 9], np.float32)}, r"indptr must have 4 elements .* got 3"),
    ({"x": np.zeros([2, 0], np.float32)}, r"in_features must be from 1 to 2147483647, got 0"),
    ({"blocks": np.zeros([3, 16], np.float32)}, r"blocks must have shape .* got shape \[3,16\]"),
    ({"blocks": np.zeros([2, 4, 4], np.float32)}, r"dimension 0 of indices must be 2"),
    ({"blocks": np.zeros([3, 0, 4], np.float32)}, r"block height must be from 1"),
    ({"blocks": np.zeros([3, 4, 0], np.float32)}, r"block width must be from 1"),
    ({"blocks": HUGE, "indices": np.zeros([0], np.int32)}, r"block height must .* got 2147483648"),
    ({"indices": np.zeros([3, 1], np.int32)}, r"indices must have shape \[num_blocks\]"),
    ({"indices": np.array([0, 3, 1], np.int32)}, r"indices\[1\] = 3 is not in \[0, 3\)"),
    ({"indices": np.array([0, 2, -1], np.int32)}, r"indices\[2\] = -1 is not in \[0, 3\)"),
    ({"indices": np.array([2, 0, 1], np.int32)}, r"strictly increase .* in block row 0"),
    ({"indices": np.array([1, 1, 1], np.int32)}, r"strictly increase .* in block row 0"),
    ({"indptr": np.zeros([3, 1], np.int32)}, r"indptr must have shape"),
    ({"indptr": np.zeros([0], np.int32)}, r"indptr must have 3 elements .* got 0"),
    ({"indptr": np.array([1, 2, 3], np.int32)}, r"indptr\[0\] must be 0, got 1"),
    ({"indptr": np.array([0, 4, 3], np.int32)}, r"indptr\[1\] = 4 and indptr\[2\] = 3"),
    ({"indptr": np.array([0, -5, 3], np.int32)}, r"indptr\[1\] = -5"),
    ({"indptr": np.array([0, 2, 2], np.int32)}, r"must end at the number of blocks, 3"),
    ({"indptr": np.array([0, 2, 2**31 - 1], np.int32)}, r"got indptr\[2\] = 2147483647"),
    ({"out_features": 2**31}, r"out_features must be from 1 to 2147483647, got 2147483648"),
    ({"out_features": 2**62, "gates": 2**31}, r"out_features must be from 1"),
    ({"out_features": 8}, r"indices\[1\] = 2 is not in \[0, 2\)"),
    ({"out_features": 0}, r"out_features"),
    ({"out_features": -4}, r"out_features"),
    ({"gates": 0}, r"gates"),
    ({"gates": 5}, r"multiple of gates, got out_features = 12 and gates = 5"),
]


@pytest.mark.parametrize("change, message", BAD_INPUTS)
def test_bad_inputs_of_the_product(change, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_mat_mul(**{**GOOD, **change}, bias=[])


@pytest.mark.parametrize("change, message", BAD_INPUTS)
@pytest.mark.parametrize("batch", [0, 3])
def test_bad_inputs_of_the_gradients(change, message, batch):
    """The same refusals by the other two ops; their texts differ where roles do."""
    good = {**GOOD, **change}
    x, out_features = good.pop("x"), good["out_features"]
    if x.shape == (2, 8) and 0 < out_features < 2**20:
        x = np.zeros([batch, 8], np.float32)
        dy = np.zeros([batch, out_features], np.float32)
        for op in (ops().block_sparse_mat_mul_grad_x, ops().block_sparse_mat_mul_grad_blocks):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                op(x=x, dy=dy, **good)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dy": np.zeros([3, 12], np.float32)}, r"dimension 0 of dy must be 2 \(the batch"),
        ({"dy": np.zeros([2, 11], np.float32)}, r"dimension 1 of dy must be 12 \(out_features"),
        ({"dy": np.zeros([12], np.float32)}, r"dy must have shape"),
        ({"x": np.zeros([2, 2, 2], np.float32)}, r"x must have shape"),
    ],
)
def test_bad_pairs_of_the_gradients(change, message):
    good = {**GOOD, "dy": np.zeros([2, 12], np.float32)}
    for op in (ops().block_sparse_mat_mul_grad_x, ops().block_sparse_mat_mul_grad_blocks):
        op(**good)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            op(**{**good, **change})


@pytest.mark.parametrize(
    "bias, message",
    [
        ([np.zeros([11], np.float32)], r"dimension 0 of bias must be 12 \(out_features\), got shape \[11\]"),
        ([np.zeros([1, 12], np.float32)], r"bias must have shape \[out_features\]"),
        ([np.zeros([12], np.float32)] * 2, r"at most one bias"),
    ],
)
def test_bad_biases(bias, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_mat_mul(**GOOD, bias=bias)


COLUMNS = {
    **GOOD,
    "indices": np.array([0, 1, 0], np.int32),
    "indptr": np.array([0, 1, 1, 3], np.int32),
    "order": "column",
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"indptr": np.array([0, 1, 3], np.int32)}, r"indptr must have 4 elements \(block columns \+ 1"),
        ({"indices": np.array([0, 1, 2], np.int32)}, r"indices\[2\] = 2 is not in \[0, 2\), the block rows"),
        ({"indices": np.array([0, 1, 1], np.int32)}, r"strictly increase within a block column.* in block column 2"),
        ({"out_features": 16}, r"indptr must have 5 elements"),
        ({"gates": 2}, r"indptr must have 5 elements .* got 4"),
    ],
)
def test_bad_inputs_in_column_order(change, message):
    good = {**COLUMNS, "indices": np.array([0, 0, 1], np.int32)}
    ops().block_sparse_mat_mul(**good, bias=[])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_mat_mul(**{**good, **change}, bias=[])


def test_huge_outputs_without_rows_cost_nothing():
    y = ops().block_sparse_mat_mul(**{**GOOD, "x": np.zeros([0, 8], np.float32), "out_features": 2**31 - 1}, bias=[])
    assert y.shape == [0, 2**31 - 1]


@pytest.mark.parametrize("order", ["row", "column"])
def test_array_changed_behind_tensorflows_back(order):
    """TensorFlow may share a NumPy array's memory: changing it must not lead outside of buffers."""
    w = random_bsr(64, 64, (4, 4), 0.5, order=order)
    indices, indptr = tf.constant(w.indices), tf.constant(w.indptr)
    x = tf.constant(normal([3, 64]))
    block_sparse_matmul(x, w.blocks, indices, indptr, **w.layout)
    w.indices[:] = 2**30
    w.indptr[1:] = 2**30
    try:
        block_sparse_matmul(x, w.blocks, indices, indptr, **w.layout)
    except tf.errors.InvalidArgumentError:
        pass


def test_indices_overwritten_in_the_graph_after_their_check():
    """InplaceUpdate writes to a buffer that the op has already checked; no read may follow it out of x."""
    w = random_bsr(62, 64, (4, 4), 0.5, order="column")

    @tf.function
    def function(x, indices):
        first = block_sparse_matmul(x, w.blocks, indices, w.indptr, **w.layout)
        with tf.control_dependencies([first]):
            values = tf.fill([len(w.indices)], 2**30)
            indices = tf.raw_ops.InplaceUpdate(x=indices, i=tf.range(len(w.indices)), v=values)
        return first, block_sparse_matmul(x, w.blocks, indices, w.indptr, **w.layout)

    x = normal([3, 62])
    try:
        first, second = function(x, tf.constant(w.indices))
        assert_close(first, x.astype(np.float64) @ w.dense(), 62, 4)
        assert second.shape == [3, 64]
    except tf.errors.InvalidArgumentError as error:
        assert "is not in [0, 16)" in str(error)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": np.float32(1)}, ValueError, "expects `x` of shape .* got a scalar"),
        ({"x": np.zeros([2, 8])}, TypeError, "expects `x` of dtype float32, float16 or bfloat16, got float64"),
        ({"blocks": np.zeros([3, 4, 4])}, TypeError, "`blocks` of dtype float32, which is that of `x`, got float64"),
        ({"blocks": np.zeros([3, 4], np.float32)}, ValueError, "`blocks` of shape"),
        ({"indices": tf.constant([0, 2, 1], tf.int64)}, TypeError, "`indices` of dtype int32"),
        ({"indices": np.zeros([3, 1], np.int32)}, ValueError, "`indices` of shape"),
        ({"indptr": np.zeros([1, 3], np.int32)}, ValueError, "`indptr` of shape"),
        ({"out_features": 12.0}, ValueError, "`out_features` must be a positive int, got 12.0"),
        ({"out_features": 0}, ValueError, "`out_features` must be a positive int, got 0"),
        ({"gates": 5}, ValueError, "multiple of `gates`.* got out_features=12 and gates=5"),
        ({"order": "col"}, ValueError, "`order` must be one of 'row', 'column', got 'col'"),
        ({"activation": "gelu"}, ValueError, "`activation` must be one of 'linear', .* got 'gelu'"),
        ({"bias": np.zeros([12])}, TypeError, "`bias` of dtype float32, which is that of `x`, got float64"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        block_sparse_matmul(**{**GOOD, **change})


def test_gradient_without_a_static_size():
    w = random_bsr(24, 20, (4, 4))

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def function(x):
        return tf.gradients(call(block_sparse_matmul, w, x), x)[0]

    assert_close(function(np.ones([2, 24], np.float32)), np.ones([2, 20]) @ w.dense().T, 20, 4)


def test_gradient_of_a_loop_loaded_from_a_saved_model(tmp_path):
    """Loading forgets static shapes inside of loops: the gradients must do without them."""
    w = random_bsr(20, 20, (4, 4), order="column")
    w.blocks = np.nan_to_num(w.blocks)

    class Model(tf.Module):
        def __init__(self):
            self.blocks = tf.Variable(w.blocks)

        @tf.function(input_signature=[tf.TensorSpec([None, 20])])
        def __call__(self, x):
            for _ in tf.range(3):
                x = block_sparse_matmul(x, self.blocks, w.indices, w.indptr, activation="tanh", **w.layout)
            return x

    def gradient(model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(normal([3, 20])))
        return tape.gradient(loss, model.blocks)

    model = Model()
    tf.saved_model.save(model, str(tmp_path))
    loaded = gradient(tf.saved_model.load(str(tmp_path)))
    assert np.abs(loaded).max() > 0.1
    np.testing.assert_allclose(loaded, gradient(model), atol=1e-6)


def test_an_empty_batch_of_very_many_features_costs_nothing():
    """Its `x` takes no memory, so that anybody can say such a size; an index of its rows would take gigabytes."""
    x, dy, blocks = tf.zeros([0, 2**31 - 1]), tf.zeros([0, 4]), tf.ones([1, 1, 2])
    pattern = [2**31 - 2], [0, 1, 1]
    dblocks = ops().block_sparse_mat_mul_grad_blocks(x, dy, blocks, *pattern, out_features=4, order="column")
    np.testing.assert_array_equal(dblocks, [[[0, 0]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices\[0\] = 2147483647"):
        pattern = [2**31 - 1], [0, 1, 1]
        ops().block_sparse_mat_mul_grad_blocks(x, dy, blocks, *pattern, out_features=4, order="column")
