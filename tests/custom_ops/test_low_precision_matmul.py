"""The low-precision product against its plain-TensorFlow twin, hostile inputs, and how far it is from float32."""

import concurrent.futures
import os
import re

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import random_bsr
from helpers import ROOT, run_python
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.low_precision_matmul import (
    block_sparse_matmul_low_precision,
    block_sparse_matmul_low_precision_reference,
)
from tf_blocksparse.quantize import quantize_blocks

SHAPES = [(1, 1), (3, 5), (4, 4), (12, 2), (8, 8), (16, 16), (1, 16), (16, 1), (32, 32), (5, 64)]
WAYS = [("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32"), ("int8", "int8")]


def normal(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Matrix:
    """A random matrix as the op takes it, from a row-ordered one."""

    def __init__(self, in_features, out_features, block_shape, dtype, density=0.4, gates=1):
        w = random_bsr(in_features, out_features, block_shape, density, gates)
        self.dense = w.dense()
        grid = BlockGrid((in_features, out_features), block_shape, gates)
        rows = np.repeat(np.arange(grid.rows), np.diff(w.indptr))
        order = np.lexsort((rows, w.indices))
        self.indices = rows[order].astype(np.int32)
        counts = np.bincount(w.indices, minlength=grid.cols)
        self.indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.blocks, self.scales = quantize_blocks(w.blocks[order], self.indices, self.indptr, grid, dtype)
        ones = np.ones_like(w.blocks)
        self.inside = quantize_blocks(ones, self.indices, self.indptr, grid, dtype)[0] != 0
        self.arguments = dict(block_height=block_shape[0], out_features=out_features, gates=gates)

    def spoil(self):
        """Puts what is not zero into the stored elements that lie outside; returns how many there are."""
        outside = ~self.inside
        self.blocks[outside] = 99 if self.blocks.dtype == np.int8 else np.nan
        return outside.sum()

    def __call__(self, x, function=block_sparse_matmul_low_precision, **options):
        arrays = (self.blocks, self.scales, self.indices, self.indptr)
        return function(x, *arrays, **self.arguments, **options)


def assert_equal_to_reference(w, x, rtol, **options):
    actual = w(x, **options).numpy()
    expected = w(x, block_sparse_matmul_low_precision_reference, **options).numpy()
    assert actual.shape == expected.shape and actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max(initial=1))


@pytest.mark.parametrize("dtype, x_dtype", WAYS)
@pytest.mark.parametrize("block_shape", SHAPES)
@pytest.mark.parametrize("gates", [1, 3])
def test_equals_the_reference(dtype, x_dtype, block_shape, gates):
    w = Matrix(130, gates * 70, block_shape, dtype, 0.4, gates)
    for batch in (1, 2, 3, 7, 16, 33):
        assert_equal_to_reference(w, normal([batch, 130]), 3e-6, x_dtype=x_dtype)


@pytest.mark.parametrize("dtype, x_dtype", WAYS)
@pytest.mark.parametrize("block_shape", [(3, 5), (16, 16), (7, 16)])
def test_what_lies_outside_means_nothing(dtype, x_dtype, block_shape):
    w = Matrix(130, 3 * 70, block_shape, dtype, 0.5, 3)
    x = normal([3, 130])
    clean = w(x, x_dtype=x_dtype).numpy()
    assert w.spoil() > 0
    np.testing.assert_array_equal(w(x, x_dtype=x_dtype), clean)
    assert np.isfinite(clean).all()


# Relative L2 errors: bfloat16 keeps 8 bits, int8 about 7 of the largest of a column and of a row.
@pytest.mark.parametrize(
    "dtype, x_dtype, least, most",
    [("bfloat16", "float32", 5e-4, 3e-3), ("bfloat16", "bfloat16", 5e-4, 4e-3), ("int8", "float32", 2e-3, 1e-2),
     ("int8", "int8", 3e-3, 1.5e-2)],
)  # fmt: skip
def test_distance_to_float32(dtype, x_dtype, least, most):
    w = Matrix(512, 512, (16, 16), dtype, 0.2)
    x = normal([20, 512])
    exact = x.astype(np.float64) @ w.dense
    error = np.linalg.norm(w(x, x_dtype=x_dtype) - exact) / np.linalg.norm(exact)
    assert least < error < most


@pytest.mark.parametrize("dtype, x_dtype", WAYS)
@pytest.mark.parametrize("activation", [None, "linear", "relu", "tanh", "sigmoid"])
def test_bias_and_activation(dtype, x_dtype, activation):
    w = Matrix(60, 44, (8, 8), dtype)
    x, bias = normal([5, 60]), normal([44], seed=3)
    for options in ({"bias": bias}, {}):
        assert_equal_to_reference(w, x, 3e-6, x_dtype=x_dtype, activation=activation, **options)
    zeros = w(np.zeros([2, 60], np.float32), x_dtype=x_dtype, bias=bias).numpy()
    np.testing.assert_array_equal(zeros, [bias, bias])


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("dtype, x_dtype", WAYS)
def test_densities_and_empty_batches(density, dtype, x_dtype):
    w = Matrix(60, 44, (8, 8), dtype, density)
    for batch in (0, 1, 20):
        assert_equal_to_reference(w, normal([batch, 60]), 3e-6, x_dtype=x_dtype)


def test_int8_sums_are_exact():
    """Integers with a largest of 127 in each row, and scales of 1: every step is exact."""
    rng = np.random.default_rng(0)
    for block_shape in SHAPES:
        w = Matrix(100, 90, block_shape, "int8", 0.5)
        w.scales = np.ones_like(w.scales)
        x = rng.integers(-127, 128, [6, 100]).astype(np.float32)
        x[:, 7] = 127
        np.testing.assert_array_equal(
            w(x, x_dtype="int8"), w(x, block_sparse_matmul_low_precision_reference, x_dtype="float32")
        )


ISA_CODE = """
import test_low_precision_matmul as tests
for dtype, x_dtype in tests.WAYS:
    for block_shape in [(4, 4), (12, 2), (8, 8), (16, 16), (3, 5)]:
        tests.test_equals_the_reference(dtype, x_dtype, block_shape, 2)
print("all equal")
"""


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_lower_instruction_sets(isa):
    """A level that the machine lacks falls back to the best one below it."""
    path = os.pathsep.join(map(str, [ROOT / "tests" / "custom_ops", ROOT / "tests", ROOT]))
    assert "all equal" in run_python(ISA_CODE, TF_BLOCKSPARSE_MAX_ISA=isa, PYTHONPATH=path)


def test_halves_are_rounded_to_even():
    blocks = np.zeros([1, 1, 1, 4], np.int8)
    blocks[0, 0, 0, 0] = 1
    halves = np.array([[v, 127, 0, 0] for v in (0.5, 1.5, 2.5, -0.5, -1.5, -2.5)], np.float32)
    y = block_sparse_matmul_low_precision(
        halves, blocks, [1.0], [0], [0, 1], block_height=4, out_features=1, x_dtype="int8"
    )
    np.testing.assert_array_equal(y[:, 0], [0, 2, 2, 0, -2, -2])
    x = np.array([[1 + 2**-8], [1 + 3 * 2**-8]], np.float32)  # between two bfloat16 each
    one = np.array([1, 0], ml_dtypes.bfloat16).reshape([1, 1, 1, 2])
    y = block_sparse_matmul_low_precision(x, one, [], [0], [0, 1], block_height=1, out_features=1, x_dtype="bfloat16")
    np.testing.assert_array_equal(y[:, 0], [1, 1 + 2**-6])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_spoils_itself_alone(odd):
    w = Matrix(64, 48, (16, 16), "int8", 0.5)
    x = normal([4, 64])
    expected = w(x, x_dtype="int8").numpy()
    x[2, 63] = odd
    x[3] = 1e-31
    expected[2], expected[3] = np.nan, 0
    np.testing.assert_array_equal(w(x, x_dtype="int8"), expected)
    np.testing.assert_array_equal(w(x, x_dtype="int8", activation="relu")[2], expected[2])
    reference = w(x, block_sparse_matmul_low_precision_reference, x_dtype="int8").numpy()
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [[24], [3, 24], [2, 3, 24], [2, 0, 24]])
@pytest.mark.parametrize("dtype, x_dtype", WAYS)
def test_any_rank(shape, dtype, x_dtype):
    w = Matrix(24, 20, (4, 4), dtype)
    assert_equal_to_reference(w, normal(shape), 3e-6, x_dtype=x_dtype)


def test_unknown_shapes_in_a_function():
    w = Matrix(24, 20, (4, 4), "int8")

    @tf.function(input_signature=[tf.TensorSpec([None, None, 24])])
    def function(x):
        y = w(x, x_dtype="int8")
        assert y.shape.as_list() == [None, None, 20]
        return y

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def any_rank(x):
        return w(x, x_dtype="int8")

    for shape in ([2, 3, 24], [1, 40, 24]):
        x = normal(shape)
        np.testing.assert_array_equal(function(x), w(x, x_dtype="int8"))
        np.testing.assert_array_equal(any_rank(x), w(x, x_dtype="int8"))


def test_saved_model(tmp_path):
    w = Matrix(24, 20, (4, 4), "int8")

    class Model(tf.Module):
        def __init__(self):
            self.blocks = tf.Variable(w.blocks, trainable=False)
            self.scales = tf.Variable(w.scales, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([None, 24])])
        def __call__(self, x):
            return block_sparse_matmul_low_precision(
                x, self.blocks, self.scales, w.indices, w.indptr, x_dtype="int8", **w.arguments
            )

    x = normal([3, 24])
    tf.saved_model.save(Model(), str(tmp_path))
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path))(x), w(x, x_dtype="int8"))


def test_a_pattern_that_changes_is_seen():
    """Kernels keep what they prepared from indptr; another pattern must not meet the old one."""
    first, second = (Matrix(64, 64, (4, 4), "int8", density) for density in (0.2, 0.4))
    x = tf.constant(normal([3, 64]))
    expected = [w(x, x_dtype="int8").numpy() for w in (first, second)]
    indices, indptr = tf.Variable(first.indices, shape=[None]), tf.Variable(first.indptr)
    blocks, scales = tf.Variable(first.blocks, shape=[None, 1, 4, 4]), tf.Variable(first.scales)
    graph = tf.function(
        lambda: block_sparse_matmul_low_precision(x, blocks, scales, indices, indptr, x_dtype="int8", **first.arguments)
    )
    for _ in range(2):
        for w, y in zip((first, second), expected, strict=True):
            indices.assign(w.indices), indptr.assign(w.indptr), blocks.assign(w.blocks), scales.assign(w.scales)
            np.testing.assert_array_equal(graph(), y)


def test_many_python_threads():
    cases = [Matrix(512, 384, (8, 8), dtype, 0.3, 3) for dtype, _ in WAYS]
    x = normal([40, 512])
    expected = [w(x, x_dtype=way[1]).numpy() for w, way in zip(cases, WAYS, strict=True)]

    def work(i):
        return i % 4, cases[i % 4](x, x_dtype=WAYS[i % 4][1]).numpy()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, y in pool.map(work, range(100)):
            np.testing.assert_array_equal(y, expected[i])


def test_there_is_no_gradient():
    w = Matrix(24, 20, (4, 4), "int8")
    x = tf.constant(normal([3, 24]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = w(x)
    with pytest.raises(NotImplementedError, match="no gradient: .* inference only. Train the model in float32"):
        tape.gradient(y, x)


GOOD = {
    "x": np.zeros([2, 8], np.float32),
    "blocks": np.zeros([3, 1, 4, 4], np.int8),
    "indices": np.array([0, 1, 1], np.int32),
    "indptr": np.array([0, 2, 3, 3], np.int32),
    "scales": np.ones([12], np.float32),
    "bias": np.zeros([12], np.float32),
    "block_height": 4,
    "out_features": 12,
    "gates": 1,
    "x_dtype": "int8",
    "activation": "linear",
}
BFLOAT16 = {"blocks": np.zeros([3, 2, 4, 2], ml_dtypes.bfloat16), "scales": np.zeros([0], np.float32)}
NONE = {"indices": np.zeros([0], np.int32), "indptr": np.zeros([4], np.int32)}
ints = np.int32
BAD_INPUTS = [
    ({"x": np.zeros([8], np.float32)}, r"x must have shape \[batch, in_features\], got shape \[8\]"),
    ({"x": np.zeros([2, 4], np.float32)}, r"indices\[1\] = 1 is not in \[0, 1\), the block rows"),
    ({"x": np.zeros([2, 0], np.float32)}, r"in_features must be from 1 to 2147483647, got 0"),
    ({"blocks": np.zeros([3, 4, 4], np.int8)}, r"blocks must have shape .* got shape \[3,4,4\]"),
    ({"blocks": np.zeros([2, 1, 4, 4], np.int8)}, r"dimension 0 of indices must be 2"),
    ({"blocks": np.zeros([3, 2, 4, 4], np.int8)}, r"dimension 1 of blocks must be 1 \(ceil\(block_height / 4\)\)"),
    ({"blocks": np.zeros([3, 1, 4, 2], np.int8)}, r"dimension 3 of blocks must be 4 \(rows side by side, for int8"),
    ({"blocks": np.zeros([3, 1, 0, 4], np.int8)}, r"block width must be from 1"),
    ({"blocks": np.zeros([0, 1, 2**31, 4], np.int8), **NONE}, r"block width must .* got 2147483648"),
    ({**BFLOAT16, "x_dtype": "int8"}, r"x_dtype must be float32 or the type of the blocks, bfloat16, got int8"),
    ({"x_dtype": "bfloat16"}, r"x_dtype must be float32 or the type of the blocks, int8, got bfloat16"),
    ({**BFLOAT16, "x_dtype": "bfloat16", "blocks": np.zeros([3, 1, 4, 2], ml_dtypes.bfloat16)},
     r"dimension 1 of blocks must be 2 \(ceil\(block_height / 2\)\)"),
    ({**BFLOAT16, "x_dtype": "bfloat16", "scales": np.ones([12], np.float32)},
     r"scales must have shape \[0\], got shape \[12\]"),
    ({"scales": np.ones([0], np.float32)}, r"scales must have shape \[12\], got shape \[0\]"),
    ({"scales": np.ones([11], np.float32)}, r"scales must have shape \[12\], got shape \[11\]"),
    ({"scales": np.ones([12, 1], np.float32)}, r"scales must have shape \[12\], got shape \[12,1\]"),
    ({"bias": np.ones([11], np.float32)}, r"bias must have shape \[12\] or \[0\], got shape \[11\]"),
    ({"bias": np.ones([1, 12], np.float32)}, r"bias must have shape"),
    ({"indices": np.zeros([3, 1], ints)}, r"indices must have shape \[num_blocks\]"),
    ({"indices": np.array([0, 2, 1], ints)}, r"indices\[1\] = 2 is not in \[0, 2\)"),
    ({"indices": np.array([0, 1, -1], ints)}, r"indices\[2\] = -1 is not in \[0, 2\)"),
    ({"indices": np.array([1, 0, 1], ints)}, r"strictly increase .* in block column 0"),
    ({"indices": np.array([1, 1, 1], ints)}, r"strictly increase .* in block column 0"),
    ({"indptr": np.zeros([4, 1], ints)}, r"indptr must have shape"),
    ({"indptr": np.zeros([0], ints)}, r"indptr must have 4 elements \(block columns \+ 1.* got 0"),
    ({"indptr": np.array([1, 2, 3, 3], ints)}, r"indptr\[0\] must be 0, got 1"),
    ({"indptr": np.array([0, 4, 3, 3], ints)}, r"indptr\[1\] = 4 and indptr\[2\] = 3"),
    ({"indptr": np.array([0, -5, 3, 3], ints)}, r"indptr\[1\] = -5"),
    ({"indptr": np.array([0, 2, 2, 2], ints)}, r"must end at the number of blocks, 3"),
    ({"indptr": np.array([0, 2, 3, 2**31 - 1], ints)}, r"got indptr\[3\] = 2147483647"),
    ({"out_features": 2**31}, r"out_features must be from 1 to 2147483647, got 2147483648"),
    ({"out_features": 8}, r"scales must have shape \[8\]"),
    ({"out_features": 0}, r"out_features"),
    ({"gates": 0}, r"gates"),
    ({"gates": 5}, r"multiple of gates, got out_features = 12 and gates = 5"),
    ({"block_height": 0}, r"block_height"),
    ({"block_height": 2**31}, r"block height must be from 1 to 2147483647, got 2147483648"),
    ({"activation": "elu"}, r"activation"),
    ({"x_dtype": "int4"}, r"x_dtype"),
]  # fmt: skip


@pytest.mark.parametrize("change, message", BAD_INPUTS)
@pytest.mark.parametrize("batch", [0, 2])
def test_bad_inputs(change, message, batch):
    ops().block_sparse_low_precision_mat_mul(**GOOD)
    arguments = {**GOOD, **change}
    if "x" not in change:
        arguments["x"] = np.zeros([batch, 8], np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.compile(message, re.DOTALL)):
        ops().block_sparse_low_precision_mat_mul(**arguments)


def test_sums_that_may_overflow_are_refused():
    """16,449 blocks of 4 rows in one column."""
    n = 16449
    arguments = {
        **GOOD, "x": np.ones([1, 4 * n], np.float32), "blocks": np.full([n, 1, 1, 4], 127, np.int8),
        "indices": np.arange(n, dtype=ints), "indptr": np.array([0, n], ints), "out_features": 1,
        "scales": np.ones([1], np.float32), "bias": np.zeros([0], np.float32),
    }  # fmt: skip
    with pytest.raises(tf.errors.InvalidArgumentError, match="over 16449 blocks of height 4 may exceed 32 bits"):
        ops().block_sparse_low_precision_mat_mul(**arguments)
    y = ops().block_sparse_low_precision_mat_mul(**{**arguments, "x_dtype": "float32"})
    np.testing.assert_allclose(y, [[127.0 * 4 * n]], rtol=1e-6)


def test_huge_blocks_without_any_cost_nothing():
    """Blocks far larger than the matrix, none of them stored."""
    y = ops().block_sparse_low_precision_mat_mul(
        **{**GOOD, "blocks": np.zeros([0, 2**29, 2**31 - 1, 4], np.int8), "indices": NONE["indices"],
           "indptr": np.zeros([2], ints), "block_height": 2**31 - 1}
    )  # fmt: skip
    np.testing.assert_array_equal(y, np.zeros([2, 12]))


def test_indices_changed_behind_the_back():
    w = Matrix(64, 64, (4, 4), "int8")
    indices, indptr = tf.constant(w.indices), tf.constant(w.indptr)
    x = tf.constant(normal([3, 64]))
    arguments = dict(x_dtype="int8", **w.arguments)
    block_sparse_matmul_low_precision(x, w.blocks, w.scales, indices, indptr, **arguments)
    w.indices[:] = 2**30
    w.indptr[1:] = 2**30
    try:
        block_sparse_matmul_low_precision(x, w.blocks, w.scales, indices, indptr, **arguments)
    except tf.errors.InvalidArgumentError:
        pass


@pytest.mark.parametrize("function", [block_sparse_matmul_low_precision, block_sparse_matmul_low_precision_reference])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": np.float32(1)}, ValueError, r"expects `x` of shape \[..., in_features\], got shape \(\)"),
        ({"x": np.zeros([2, 8])}, TypeError, "expects `x` of dtype float32, got float64"),
        ({"blocks": np.zeros([3, 1, 4, 4], np.float32)}, TypeError, "`blocks` of dtype bfloat16 or int8, got float32"),
        ({"blocks": np.zeros([3, 4, 4], np.int8)}, ValueError, "`blocks` of shape .* got shape"),
        ({"scales": np.ones([12])}, TypeError, "`scales` of dtype float32, got float64"),
        ({"scales": np.float32(1)}, ValueError, "`scales` of shape"),
        ({"bias": np.ones([12])}, TypeError, "`bias` of dtype float32, got float64"),
        ({"indices": tf.constant([0, 1, 1], tf.int64)}, TypeError, "`indices` of dtype int32"),
        ({"indptr": np.zeros([1, 4], np.int32)}, ValueError, "`indptr` of shape"),
        ({"block_height": 4.0}, ValueError, "`block_height` must be a positive int, got 4.0"),
        ({"out_features": 0}, ValueError, "`out_features` must be a positive int, got 0"),
        ({"gates": True}, ValueError, "`gates` must be a positive int, got True"),
        ({"gates": 5}, ValueError, "multiple of `gates`.* got out_features=12 and gates=5"),
        ({"x_dtype": "bfloat16"}, ValueError, "`x_dtype` 'float32' or, with int8 blocks, 'int8', got 'bfloat16'"),
        ({"activation": "elu"}, ValueError, "None or one of .*'relu'.*got 'elu'. Apply any other to the output"),
    ],
)
def test_wrong_arguments(function, change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        function(**{**GOOD, **change})
