"""The product with chosen bfloat16 and int8 blocks against float64 NumPy, and their rounding."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import assert_close
from test_dynamic_matmul import GOOD as GOOD_FLOATS
from test_dynamic_matmul import normal, random_case
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.custom_ops import (
    dynamic_block_matmul_low_precision,
    dynamic_block_matmul_low_precision_reference,
)
from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.quantize import quantize_grid

DTYPES = pytest.mark.parametrize("dtype", ["bfloat16", "int8"])


def rounded_case(in_features, out_features, block_shape, batch, dtype, **options):
    """`(case, stored, scales)`: the case's blocks are what the stored ones stand for."""
    case = random_case(in_features, out_features, block_shape, batch, **options)
    grid = BlockGrid((in_features, out_features), block_shape)
    stored, scales = quantize_grid(np.nan_to_num(case.blocks), grid, dtype)
    case.blocks = stored.astype(np.float32) * (scales[:, None, None] if dtype == "int8" else 1)
    return case, stored, scales


def call(function, case, stored, scales, **options):
    return function(case.x, stored, scales, case.block_ids, case.block_gates, **case.sizes, **options)


@DTYPES
@pytest.mark.parametrize("block_shape", [(1, 1), (4, 4), (3, 5), (16, 16), (8, 20), (64, 24), (128, 128)])
def test_product(dtype, block_shape):
    for batch in (1, 3, 16):
        for sizes in ((96, 128), (101, 131)):
            case, stored, scales = rounded_case(*sizes, block_shape, batch, dtype)
            y = call(dynamic_block_matmul_low_precision, case, stored, scales)
            assert_close(y, case.product(), sizes[0], 8)


@DTYPES
@pytest.mark.parametrize("function", [dynamic_block_matmul_low_precision, dynamic_block_matmul_low_precision_reference])
def test_bias_activation_and_leading_dimensions(dtype, function):
    case, stored, scales = rounded_case(40, 36, (16, 8), 6, dtype)
    bias = normal([36], seed=4)
    expected = np.maximum(case.product() + bias, 0)
    case.x, case.block_ids, case.block_gates = (
        a.reshape([2, 3, -1]) for a in (case.x, case.block_ids, case.block_gates)
    )
    y = call(function, case, stored, scales, bias=bias, activation="relu")
    assert_close(y, expected.reshape([2, 3, 36]), 40, 8)


@DTYPES
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_block_and_all(dtype, share):
    for batch in (0, 5):
        case, stored, scales = rounded_case(40, 36, (16, 8), batch, dtype, share=share)
        y = call(dynamic_block_matmul_low_precision, case, stored, scales)
        assert_close(y, case.product(), 40, 8)


@DTYPES
def test_rounding(dtype):
    grid = BlockGrid((20, 30), (8, 16))
    blocks = normal([6, 8, 16]) * np.float32([1, 1e-3, 0, 1e5, 1, 1])[:, None, None]
    outside = np.where(blocks == 0, 0, np.nan).astype(np.float32)
    inside = np.zeros([24, 32], bool)
    inside[:20, :30] = True
    inside = inside.reshape(3, 8, 2, 16).transpose(0, 2, 1, 3).reshape(6, 8, 16)
    stored, scales = quantize_grid(np.where(inside, blocks, outside), grid, dtype)
    assert stored.shape == blocks.shape and not np.any(stored[~inside])
    if dtype == "bfloat16":
        assert scales.shape == (0,)
        np.testing.assert_array_equal(stored[inside], blocks[inside].astype(ml_dtypes.bfloat16))
        return
    assert scales[2] == 1
    error = np.abs(stored * scales[:, None, None].astype(np.float64) - blocks)
    assert np.all((error <= 0.5001 * scales[:, None, None])[inside])


@pytest.mark.parametrize(
    "blocks, grid, dtype, message",
    [
        (np.zeros([5, 8, 16]), BlockGrid((20, 30), (8, 16)), "int8", r"expected shape \(6, 8, 16\).*\(5, 8, 16\)"),
        (np.zeros([6, 8, 16]), BlockGrid((20, 30), (8, 16), gates=2), "int8", "must have one gate"),
        (np.full([6, 8, 16], np.inf), BlockGrid((20, 30), (8, 16)), "int8", "must be finite in float32"),
        (np.full([6, 8, 16], 3.4e38), BlockGrid((20, 30), (8, 16)), "bfloat16", "must be finite in bfloat16"),
        (np.zeros([6, 8, 16]), BlockGrid((20, 30), (8, 16)), "int4", "'bfloat16' or 'int8'"),
    ],
)
def test_what_cannot_be_rounded(blocks, grid, dtype, message):
    with pytest.raises(ValueError, match=message):
        quantize_grid(blocks, grid, dtype)


GOOD = {**GOOD_FLOATS, "blocks": np.ones([6, 4, 4], np.int8), "scales": np.ones([6], np.float32)}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scales": np.ones([5], np.float32)}, r"dimension 0 of scales must be 6 \(the blocks\), got shape \[5\]"),
        ({"scales": np.ones([6, 1], np.float32)}, r"scales must have shape"),
        ({"blocks": np.ones([6, 4, 4], ml_dtypes.bfloat16)}, r"dimension 0 of scales must be 0 \(bfloat16 has none\)"),
        (
            {"blocks": np.ones([5, 4, 4], np.int8), "scales": np.ones([5], np.float32)},
            r"dimension 0 of blocks must be 6",
        ),
        ({"block_ids": np.array([[0, 6], [3, 1]], np.int32)}, r"block_ids\[0, 1\] = 6 is not in \[0, 6\)"),
        ({"block_gates": np.ones([2, 3], np.float32)}, r"dimension 1 of block_gates must be 2"),
        ({"bias": [np.zeros([11], np.float32)]}, r"dimension 0 of bias must be 12"),
        ({"bias": [np.zeros([12], np.float32)] * 2}, r"at most one bias"),
    ],
)
def test_bad_inputs(change, message):
    op = ops().block_sparse_dynamic_low_precision_mat_mul
    op(**{"bias": [], **GOOD})
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        op(**{"bias": [], **GOOD, **change})


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"blocks": np.zeros([6, 4, 4], np.float32)}, TypeError, "`blocks` of dtype bfloat16 or int8, got float32"),
        ({"scales": np.zeros([6])}, TypeError, "`scales` of dtype float32, got float64"),
        ({"scales": np.zeros([6, 1], np.float32)}, ValueError, "`scales` of shape"),
        ({"activation": "gelu"}, ValueError, "`activation` must be one of"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        dynamic_block_matmul_low_precision(**{**GOOD, **change})


def test_has_no_gradient():
    x = tf.constant(GOOD["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = dynamic_block_matmul_low_precision(**{**GOOD, "x": x})
    with pytest.raises(NotImplementedError, match="for inference only"):
        tape.gradient(y, x)
