import ml_dtypes
import numpy as np
import pytest

from helpers import random_block_sparse
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.quantize import dequantize_blocks, quantize_blocks


def column_ordered(grid, density=0.5, seed=0):
    """A random matrix, and its blocks `[n, h, w]`, block rows and starts of columns, by plain loops."""
    w, block_mask = random_block_sparse(np.random.default_rng(seed), grid, density)
    padded = np.asarray(grid.to_blocks(w))  # [rows, height, cols, width]
    blocks, indices, indptr = [], [], [0]
    for j in range(grid.cols):
        for i in range(grid.rows):
            if block_mask[i, j]:
                blocks.append(padded[i, :, j, :])
                indices.append(i)
        indptr.append(len(indices))
    blocks = np.reshape(np.array(blocks, np.float32), [len(indices), *grid.block_shape])
    return w, blocks, np.array(indices, np.int32), np.array(indptr, np.int32)


def to_dense(blocks, indices, indptr, grid):
    """The matrix of column-ordered blocks."""
    padded = np.zeros([grid.rows, grid.block_shape[0], grid.cols, grid.block_shape[1]], np.float32)
    for j in range(grid.cols):
        for k in range(indptr[j], indptr[j + 1]):
            padded[indices[k], :, j, :] = blocks[k]
    return np.asarray(grid.from_blocks(padded))


GRIDS = [
    BlockGrid((16, 24), (4, 8)),
    BlockGrid((37, 45), (5, 4), gates=3),
    BlockGrid((10, 9), (1, 16), gates=3),
    BlockGrid((3, 2), (8, 8)),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_bfloat16_is_the_nearest(grid):
    w, *arrays = column_ordered(grid)
    stored, scales = quantize_blocks(*arrays, grid, "bfloat16")
    assert stored.dtype == ml_dtypes.bfloat16 and scales.shape == (0,)
    back = to_dense(dequantize_blocks(stored, scales, *arrays[1:], grid), *arrays[1:], grid)
    np.testing.assert_array_equal(back, w.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("grid", GRIDS)
def test_int8_is_within_half_a_step_of_its_column(grid):
    w, *arrays = column_ordered(grid)
    stored, scales = quantize_blocks(*arrays, grid, "int8")
    assert stored.dtype == np.int8 and stored.min(initial=0) >= -127
    largest = np.abs(w).max(axis=0)
    np.testing.assert_allclose(scales, np.where(largest == 0, 1, largest / 127), rtol=1e-6)
    back = to_dense(dequantize_blocks(stored, scales, *arrays[1:], grid), *arrays[1:], grid)
    assert np.all(np.abs(back - w) <= scales / 2 * (1 + 1e-5))
    column = int(np.argmax(largest))  # the largest of a column is met
    assert np.abs(back[:, column]).max() == pytest.approx(largest[column], rel=1e-6)


@pytest.mark.parametrize("dtype, p", [("bfloat16", 2), ("int8", 4)])
def test_layout(dtype, p):
    grid = BlockGrid((5, 3), (5, 3))
    blocks = np.arange(1, 16, dtype=np.float32).reshape(1, 5, 3)
    stored, scales = quantize_blocks(blocks, [0], [0, 1], grid, dtype)
    assert stored.shape == (1, -(-5 // p), 3, p)
    for row in range(stored.shape[1] * p):
        for c in range(3):
            value = float(stored[0, row // p, c, row % p]) * (scales[c] if dtype == "int8" else 1)
            assert value == pytest.approx(blocks[0, row, c] if row < 5 else 0, abs=0.06)
    assert np.all(stored[0, -1, :, 5 % p :] == 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_lies_outside_is_ignored(dtype):
    grid = BlockGrid((5, 6), (4, 4), gates=2)
    blocks = np.ones([8, 4, 4], np.float32)
    indices, indptr = [0, 1] * 4, [0, 2, 4, 6, 8][: grid.cols + 1]
    blocks, indices = blocks[: indptr[-1]], indices[: indptr[-1]]
    blocks[1::2, 1:] = np.nan
    blocks[:, :, 3] = np.inf
    stored, scales = quantize_blocks(blocks, indices, indptr, grid, dtype)
    back = dequantize_blocks(stored, scales, indices, indptr, grid)
    np.testing.assert_allclose(to_dense(back, indices, indptr, grid), np.ones([5, 6]), rtol=1e-6)
    assert np.all(back[1::2, 1:] == 0) and np.all(back[:, :, 3] == 0)


def test_empty_and_tiny_columns_have_scale_one():
    grid = BlockGrid((4, 3), (4, 1))
    blocks = np.array([[0, 0, 0, 0], [1e-38, 0, 0, -1e-40]], np.float32)[:, :, None]
    stored, scales = quantize_blocks(blocks, [0, 0], [0, 0, 1, 2], grid, "int8")
    np.testing.assert_array_equal(scales, [1, 1, 1])
    assert not stored.any()


def test_no_blocks():
    grid = BlockGrid((8, 8), (4, 4))
    for dtype, p in (("bfloat16", 2), ("int8", 4)):
        stored, scales = quantize_blocks(np.zeros([0, 4, 4], np.float32), [], [0, 0, 0], grid, dtype)
        assert stored.shape == (0, 4 // p, 4, p)
        assert dequantize_blocks(stored, scales, [], [0, 0, 0], grid).shape == (0, 4, 4)


def test_errors():
    grid = BlockGrid((8, 8), (4, 4))
    blocks = np.ones([2, 4, 4], np.float32)
    good = dict(blocks=blocks, indices=[0, 1], indptr=[0, 1, 2], grid=grid, dtype="int8")
    quantize_blocks(**good)
    for change, message in [
        ({"dtype": "int4"}, "`dtype` must be 'bfloat16' or 'int8'. Received: dtype='int4'"),
        ({"blocks": np.ones([2, 4, 3])}, r"expected shape \(2, 4, 4\). Received: shape \(2, 4, 3\)"),
        ({"indices": [0, 1, 1]}, r"3 indices: expected shape \(3, 4, 4\)"),
        ({"indices": [0, 2]}, "block rows from 0 to 1 .* column order"),
        ({"indices": [-1, 1]}, "block rows from 0 to 1"),
        ({"indices": [1, 0], "indptr": [0, 2, 2]}, "rise within each block column"),
        ({"indices": [1, 1], "indptr": [0, 2, 2]}, "rise within each block column"),
        ({"indptr": [0, 2]}, "from 0 to the number of blocks, 2, in 3 elements"),
        ({"indptr": [1, 2, 2]}, "`indptr` must rise from 0"),
        ({"indptr": [0, 3, 2]}, "`indptr` must rise from 0"),
        ({"indptr": [0, 1, 3]}, "`indptr` must rise from 0"),
        ({"grid": (8, 8)}, "must be the BlockGrid"),
        ({"blocks": blocks * np.nan}, "Weights must be finite in float32. Received: 32 that are not, the first nan"),
        ({"blocks": blocks * np.inf}, "the first inf"),
        ({"blocks": blocks * np.finfo(np.float32).max, "dtype": "bfloat16"}, "finite in bfloat16"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize_blocks(**{**good, **change})
    stored, scales = quantize_blocks(**good)
    with pytest.raises(ValueError, match=r"`scales` of int8 blocks must have shape \(8,\). Received: shape \(7,\)"):
        dequantize_blocks(stored, scales[1:], [0, 1], [0, 1, 2], grid)
    with pytest.raises(ValueError, match="'bfloat16' or 'int8'. Received: dtype='float32'"):
        dequantize_blocks(blocks, scales, [0, 1], [0, 1, 2], grid)
