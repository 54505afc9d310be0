"""The product op and its gradients in float16 and bfloat16: operands as they are, sums in float32, one rounding."""

import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import random_bsr
from tf_blocksparse.custom_ops import block_sparse_matmul, block_sparse_matmul_reference
from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.portable import portable_matmul

DTYPES = pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16], ids=lambda dtype: dtype.name)
EPSILON = {tf.float16: 2.0**-11, tf.bfloat16: 2.0**-8}  # half a unit in the last place
ACTIVATIONS = {
    "linear": lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "tanh": np.tanh,
    "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
}


def rounded(values, dtype):
    """The values as the dtype has them, as a tensor and in float64."""
    tensor = tf.cast(tf.constant(values, tf.float32), dtype)
    return tensor, tf.cast(tensor, tf.float64).numpy()


def normal(shape, dtype, seed=1):
    return rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def narrow_bsr(*arguments, dtype, **options):
    """A matrix whose blocks are numbers of the dtype; NaN outside of it."""
    w = random_bsr(*arguments, **options)
    blocks, w.blocks = rounded(w.blocks, dtype)
    return w, blocks


def assert_rounded_once(actual, expected, dtype, terms, scale=4):
    """Compares with a float64 result: a sum in float32, then half a unit in the last place of the dtype."""
    assert actual.dtype == dtype
    error = np.abs(tf.cast(actual, tf.float64).numpy() - expected)
    sums = 8 * 2.0**-24 * np.sqrt(terms) * scale
    allowed = 1.001 * EPSILON[dtype] * np.abs(expected) + sums * (1 + np.abs(expected))
    assert np.all(error <= allowed), f"error {np.nanmax(error - allowed)} more than allowed"


@DTYPES
@pytest.mark.parametrize("block_shape", [(4, 4), (3, 5), (12, 2), (16, 16), (32, 32), (64, 32), (1, 16)])
@pytest.mark.parametrize("gates, order", [(1, "column"), (3, "row")])
def test_product_and_gradients(dtype, block_shape, gates, order):
    w, blocks = narrow_bsr(130, gates * 70, block_shape, 0.4, gates, order=order, dtype=dtype)
    dense = w.dense()
    for batch in (1, 3, 17, 70):
        x, x64 = normal([batch, 130], dtype)
        dy, dy64 = normal([batch, gates * 70], dtype, seed=2)
        with tf.GradientTape() as tape:
            tape.watch([x, blocks])
            y = block_sparse_matmul(x, blocks, w.indices, w.indptr, **w.layout)
        dx, dblocks = tape.gradient(y, [x, blocks], output_gradients=dy)
        assert_rounded_once(y, x64 @ dense, dtype, 130)
        assert_rounded_once(dx, dy64 @ dense.T, dtype, gates * 70)
        assert_rounded_once(dblocks, w.stored(x64.T @ dy64), dtype, batch)


def is_flushed(values):
    """Whether numbers are denormal in float32, as some of bfloat16's are: TensorFlow takes them for zero on a CPU."""
    return (values != 0) & (np.abs(values) < 2.0**-126)


@DTYPES
def test_every_number_is_read_and_written(dtype):
    """Also denormals of float16, infinities and what is no number: through a product with one."""
    bits = np.arange(2**16, dtype=np.uint16)
    x = tf.bitcast(bits[:, None], dtype)
    y = block_sparse_matmul(x, tf.ones([1, 1, 1], dtype), [0], [0, 1], out_features=1)
    expected = tf.cast(x, tf.float64).numpy()
    counted = ~is_flushed(expected)
    np.testing.assert_array_equal(tf.cast(y, tf.float64).numpy()[counted], expected[counted])
    assert np.isnan(expected).any() and np.isinf(expected).any() and counted.mean() > 0.98


@DTYPES
def test_sums_are_rounded_to_the_nearest(dtype):
    """Sums of two of any size, which float32 has exactly or nearly so; ties go to even numbers."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**16, [20000, 2], dtype=np.uint16)
    bits[:5000, 1] = bits[:5000, 0] - (rng.integers(0, 6, 5000).astype(np.uint16) << (8 if dtype == tf.float16 else 5))
    x = tf.bitcast(bits, dtype)
    y = block_sparse_matmul(x, tf.ones([1, 2, 1], dtype), [0], [0, 1], out_features=1)
    with np.errstate(all="ignore"):
        sums = x.numpy().astype(np.float32).sum(1, keepdims=True)
        counted = ~(is_flushed(sums) | is_flushed(x.numpy().astype(np.float32)).any(1, keepdims=True))
        expected = tf.cast(sums.astype(dtype.as_numpy_dtype), tf.float64).numpy()
        np.testing.assert_array_equal(tf.cast(y, tf.float64).numpy()[counted], expected[counted])


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_and_activation(dtype, activation):
    w, blocks = narrow_bsr(48, 64, (16, 32), 0.7, order="column", dtype=dtype)
    bias, bias64 = normal([64], dtype, seed=4)
    for batch in (2, 40):
        x, x64 = normal([batch, 48], dtype)
        y = block_sparse_matmul(x, blocks, w.indices, w.indptr, **w.layout, bias=bias, activation=activation)
        assert_rounded_once(y, ACTIVATIONS[activation](x64 @ w.dense() + bias64), dtype, 48)


@DTYPES
def test_gradients_of_gradients_have_the_dtype(dtype):
    w, blocks = narrow_bsr(20, 18, (4, 4), 0.6, gates=2, order="column", dtype=dtype)
    blocks = tf.where(tf.math.is_nan(blocks), tf.zeros([], dtype), blocks)
    bias, _ = normal([18], dtype, seed=4)

    def both_orders(function, dtype):
        inputs = [tf.cast(normal([5, 20], tf.float32)[0], dtype), tf.cast(blocks, dtype), tf.cast(bias, dtype)]
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                y = function(*inputs[:2], w.indices, w.indptr, **w.layout, bias=inputs[2], activation="tanh")
                loss = tf.reduce_sum(tf.cast(y, tf.float64) ** 2)
            first = inner.gradient(loss, inputs)
            loss = tf.add_n([tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for g in first])
        return first + outer.gradient(loss, inputs)

    actual = both_orders(block_sparse_matmul, dtype)
    expected = both_orders(block_sparse_matmul_reference, tf.float64)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        scale = np.abs(e).max()
        np.testing.assert_allclose(tf.cast(a, tf.float64), e, atol=30 * EPSILON[dtype] * scale)


@DTYPES
@pytest.mark.parametrize("batch", [0, 3])
def test_an_empty_matrix_and_an_empty_batch(dtype, batch):
    x = tf.ones([batch, 8], dtype)
    for blocks, indices, indptr in (
        (tf.zeros([0, 4, 4], dtype), [], [0, 0, 0]),
        (tf.ones([1, 4, 4], dtype), [0], [0, 1, 1]),
    ):
        with tf.GradientTape() as tape:
            tape.watch([x, blocks])
            y = block_sparse_matmul(x, blocks, tf.constant(indices, tf.int32), indptr, out_features=12)
        dx, dblocks = tape.gradient(y, [x, blocks])
        assert (y.dtype, dx.dtype, dblocks.dtype) == (dtype,) * 3
        np.testing.assert_array_equal(tf.reduce_sum(tf.cast(y, tf.float32)), batch * 16 * len(indices))
        np.testing.assert_array_equal(dblocks, np.full(blocks.shape, batch))


@DTYPES
def test_standard_ops_give_the_same(dtype):
    w, blocks = narrow_bsr(30, 24, (4, 8), 0.5, order="column", dtype=dtype)
    blocks = tf.where(tf.math.is_nan(blocks), tf.zeros([], dtype), blocks)
    bias, bias64 = normal([24], dtype, seed=4)
    for batch in (3, 200):
        x, x64 = normal([batch, 30], dtype)
        y = portable_matmul(x, blocks, w.indices, w.indptr, **w.layout, bias=bias, activation="tanh")
        assert_rounded_once(y, np.tanh(x64 @ w.dense() + bias64), dtype, 30)


GOOD = {"indices": [0], "indptr": [0, 1], "out_features": 4}


def test_dtypes_are_not_mixed():
    half, single = tf.ones([1, 4, 4], tf.float16), tf.ones([1, 4, 4])
    with pytest.raises(TypeError, match="`blocks` of dtype float16, which is that of `x`, got float32"):
        block_sparse_matmul(tf.ones([2, 4], tf.float16), single, **GOOD)
    with pytest.raises(TypeError, match="`blocks` of dtype float32, which is that of `x`, got float16"):
        block_sparse_matmul(tf.ones([2, 4]), half, **GOOD)
    with pytest.raises(TypeError, match="`bias` of dtype float16, which is that of `x`, got bfloat16"):
        block_sparse_matmul(tf.ones([2, 4], tf.float16), half, **GOOD, bias=tf.ones([4], tf.bfloat16))
    with pytest.raises(TypeError, match="`x` of dtype float32, float16 or bfloat16, got float64"):
        block_sparse_matmul(tf.ones([2, 4], tf.float64), half, **GOOD)


@DTYPES
@pytest.mark.parametrize(
    "change, message",
    [
        ({"indices": [3]}, r"indices\[0\] = 3 is not in \[0, 1\)"),
        ({"indptr": [0, 2]}, r"must end at the number of blocks, 1"),
        ({"out_features": 0}, "out_features"),
    ],
)
def test_bad_inputs(dtype, change, message):
    good = {"x": tf.ones([2, 4], dtype), "blocks": tf.ones([1, 4, 4], dtype), **GOOD, "bias": []}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_mat_mul(**{**good, **change})
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"dimension 0 of bias must be 4 \(out_features\)"):
        ops().block_sparse_mat_mul(**{**good, "bias": [tf.ones([3], dtype)]})
