"""The products of standard ops against NumPy and against the custom ops, eager and in graphs of unknown shapes."""

import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import assert_close, random_bsr
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.custom_ops import (
    block_sparse_gather,
    block_sparse_matmul,
    block_sparse_matmul_low_precision,
    implementation,
)
from tf_blocksparse.custom_ops.portable import portable_gather, portable_matmul, portable_matmul_low_precision
from tf_blocksparse.quantize import quantize_blocks

SHAPES = [(1, 1), (4, 4), (16, 16), (3, 5), (12, 2)]


def finite(in_features, out_features, block_shape, density=0.4, gates=1, seed=0, order="column"):
    """A random matrix with zeros outside of it, as layers store them."""
    w = random_bsr(in_features, out_features, block_shape, density, gates, seed, order)
    w.blocks[np.isnan(w.blocks)] = 0
    return w


def normal(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("block_shape", SHAPES)
@pytest.mark.parametrize("gates", [1, 3])
@pytest.mark.parametrize("order", ["row", "column"])
def test_product_of_any_number_of_rows(block_shape, gates, order):
    """A few rows take one way, many the other; the limit lies within for the smaller blocks."""
    w = finite(50, gates * 22, block_shape, gates=gates, order=order)
    function = tf.function(
        lambda x: portable_matmul(x, *w.arrays, **w.layout), input_signature=[tf.TensorSpec([None, None])]
    )
    for rows in (0, 1, 5, 40, 200):
        x = normal([rows, 50])
        expected = x.astype("float64") @ w.dense()
        assert_close(portable_matmul(x, *w.arrays, **w.layout), expected, 50, 4)
        assert_close(function(x), expected, 50, 4)


@pytest.mark.parametrize("rows", [2, 300])
@pytest.mark.parametrize("density", [0.0, 0.03, 1.0])
def test_densities(rows, density):
    w = finite(40, 24, (4, 4), density)
    x = normal([rows, 40])
    assert_close(portable_matmul(x, *w.arrays, **w.layout), x.astype("float64") @ w.dense(), 40, 4)


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("shape", [(30,), (2, 30), (2, 3, 30), (2, 0, 30)])
def test_bias_activation_and_leading_dimensions(activation, shape):
    w = finite(30, 18, (4, 4))
    options = dict(bias=normal([18]), activation=activation, **w.layout)
    expected = block_sparse_matmul(normal(shape), *w.arrays, **options)
    actual = portable_matmul(normal(shape), *w.arrays, **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-5)
    unknown = tf.TensorSpec([None] * len(shape))
    traced = tf.function(lambda x: portable_matmul(x, *w.arrays, **options)).get_concrete_function(unknown)
    assert traced.output_shapes.as_list() == [None] * (len(shape) - 1) + [18]
    np.testing.assert_array_equal(traced(tf.constant(normal(shape))), actual)


@pytest.mark.parametrize("rows", [3, 300])
def test_gradients_are_those_of_the_custom_op(rows):
    w = finite(20, 24, (4, 4), gates=2)
    x, blocks, bias = tf.constant(normal([rows, 20])), tf.constant(w.blocks), tf.constant(normal([24]))

    def gradients(matmul):
        with tf.GradientTape() as tape:
            tape.watch([x, blocks, bias])
            y = matmul(x, blocks, w.indices, w.indptr, bias=bias, activation="tanh", **w.layout)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, [x, blocks, bias])

    for actual, expected in zip(gradients(portable_matmul), gradients(block_sparse_matmul), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "dtype, x_dtype", [("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32"), ("int8", "int8")]
)
@pytest.mark.parametrize("block_shape", SHAPES)
def test_low_precision(dtype, x_dtype, block_shape):
    w = finite(50, 3 * 22, block_shape, gates=3)
    grid = BlockGrid((50, 66), block_shape, 3)
    blocks, scales = quantize_blocks(w.blocks, w.indices, w.indptr, grid, dtype)
    options = dict(block_height=block_shape[0], out_features=66, gates=3, x_dtype=x_dtype, activation="tanh")
    for rows in (1, 6, 150):
        for bias in (None, normal([66])):
            arguments = (normal([rows, 50]), blocks, scales, w.indices, w.indptr)
            expected = block_sparse_matmul_low_precision(*arguments, bias=bias, **options)
            actual = portable_matmul_low_precision(*arguments, bias=bias, **options)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_low_precision_rows_that_cannot_be_scaled():
    w = finite(8, 8, (4, 4), 1.0)
    blocks, scales = quantize_blocks(w.blocks, w.indices, w.indptr, BlockGrid((8, 8), (4, 4)), "int8")
    x = normal([4, 8])
    x[1, 3], x[2, 0] = np.nan, np.inf
    x[3] = 1e-35
    y = portable_matmul_low_precision(
        x, blocks, scales, w.indices, w.indptr, block_height=4, out_features=8, x_dtype="int8"
    ).numpy()
    assert np.isfinite(y[0]).all() and np.isnan(y[1:3]).all()
    np.testing.assert_array_equal(y[3], 0)


@pytest.mark.parametrize("ids", [5, [3, 0, 41, 41], [[7, 8], [40, 0]], np.zeros((0, 2))])
@pytest.mark.parametrize("block_shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_gather(ids, block_shape, density):
    w = finite(42, 23, block_shape, density, order="row")
    for dtype in (tf.int32, tf.int64):
        rows = tf.constant(ids, dtype)
        expected = block_sparse_gather(rows, *w.arrays, 42, 23)
        np.testing.assert_array_equal(portable_gather(rows, *w.arrays, 42, 23), expected)
        function = tf.function(lambda i: portable_gather(i, *w.arrays, 42, 23))
        unknown = tf.TensorSpec([None] * len(rows.shape), dtype)
        np.testing.assert_array_equal(function.get_concrete_function(unknown)(rows), expected)


@pytest.mark.parametrize("bad", [-1, 42, 43, 10**6])
def test_gather_refuses_ids_that_are_no_rows(bad):
    w = finite(42, 23, (4, 4), order="row")
    function = tf.function(lambda i: portable_gather(i, *w.arrays, 42, 23))
    for call in (function, lambda i: portable_gather(i, *w.arrays, 42, 23)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 42\)"):
            call(tf.constant([3, bad]))


def test_the_switch_is_of_one_thread_and_ends():
    assert implementation.active() is implementation.CUSTOM_OPS
    with pytest.raises(KeyError), implementation.standard_ops():
        assert implementation.active() is implementation.STANDARD_OPS
        raise KeyError
    assert implementation.active() is implementation.CUSTOM_OPS
