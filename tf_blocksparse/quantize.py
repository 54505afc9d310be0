"""Blocks as bfloat16 or int8, for the low-precision product.

The blocks are in column order: sorted by block column, then by block row, with `indices` the block row of each
and `indptr` where each block column's blocks start.

>>> grid = BlockGrid((4, 2), (4, 2))
>>> blocks = np.float32([[[1.0, 0.1], [-2.0, 0.2], [0.5, 0.3], [0.0, -0.4]]])
>>> stored, scales = quantize_blocks(blocks, [0], [0, 1], grid, "int8")
>>> stored.shape  # four rows of each column side by side
(1, 1, 2, 4)
>>> stored[0, 0, 0]
array([  64, -127,   32,    0], dtype=int8)
>>> scales
array([0.01574803, 0.00314961], dtype=float32)
>>> back = dequantize_blocks(stored, scales, [0], [0, 1], grid)
>>> bool(np.all(np.abs(back - blocks) <= scales / 2))
True
"""

import ml_dtypes
import numpy as np

from tf_blocksparse.blocks import BlockGrid

# Consecutive rows of a column that share a word of 32 bits.
ROWS_PER_WORD = {"bfloat16": 2, "int8": 4}


def quantize_blocks(blocks, indices, indptr, grid, dtype):
    """Rounds float32 blocks to bfloat16 or int8 and lays them out for `block_sparse_matmul_low_precision`.

    bfloat16 takes the nearest value, halves to even. int8 is symmetric: each column of the matrix has a scale,
    its largest magnitude divided by 127, and holds `round(w / scale)`.

    Args:
        blocks: float32 `[num_blocks, height, width]`, in column order. What lies outside of the matrix is
            ignored, and stored as zero.
        indices: int `[num_blocks]`, block row of each block.
        indptr: int `[grid.cols + 1]`; block column j holds the blocks `indptr[j]:indptr[j + 1]`.
        grid: the `BlockGrid` of the matrix.
        dtype: `"bfloat16"` or `"int8"`.

    Returns:
        `(stored, scales)`: `stored` of that dtype, `[num_blocks, ceil(height / p), width, p]`, where p is 2 for
        bfloat16 and 4 for int8 and `stored[k, g, c, r]` is `blocks[k, p * g + r, c]`; `scales` float32
        `[out_features]`, 1 for a column of zeros, or `[0]` for bfloat16.

    Raises:
        ValueError: if the arguments do not fit each other, or a weight is not finite.
    """
    _check_dtype(dtype)
    _check_grid(grid)
    blocks = np.asarray(blocks, np.float32)
    columns = _check_pattern(blocks, (len(indices), *grid.block_shape), indices, indptr, grid)
    inside = _inside(indices, columns, grid)
    weights = np.where(inside, blocks, np.float32(0))
    _check_finite(weights, "float32")
    if dtype == "bfloat16":
        with np.errstate(over="ignore"):
            rounded = weights.astype(ml_dtypes.bfloat16)
        _check_finite(rounded.astype(np.float32), "bfloat16")
        return _interleave(rounded, ROWS_PER_WORD[dtype]), np.zeros([0], np.float32)
    features = _features(columns, grid)
    scales = _column_scales(weights, features, grid.shape[1])
    scale_of_element = scales[np.minimum(features, grid.shape[1] - 1)][:, None, :]  # [num_blocks, 1, width]
    rounded = np.clip(np.rint(weights / scale_of_element), -127, 127).astype(np.int8)
    return _interleave(rounded, ROWS_PER_WORD[dtype]), scales


def quantize_grid(blocks, grid, dtype):
    """Rounds all blocks of a grid to bfloat16 or int8 for `dynamic_block_matmul_low_precision`.

    As `quantize_blocks`, but the elements of a block stay in row order and int8 has one scale for each block, its
    largest magnitude divided by 127: a product that chooses its blocks multiplies each by its gate anyway.

    Args:
        blocks: float32 `[grid.rows * grid.cols, height, width]`, block `i * grid.cols + j` that of grid row i and grid
            column j. What lies outside of the matrix is ignored, and stored as zero.
        grid: the `BlockGrid` of the matrix, without gates.
        dtype: `"bfloat16"` or `"int8"`.

    Returns:
        `(stored, scales)`: `stored` of that dtype and the shape of `blocks`; `scales` float32
        `[grid.rows * grid.cols]`, 1 for a block of zeros, or `[0]` for bfloat16.

    Raises:
        ValueError: if the arguments do not fit each other, or a weight is not finite.

    Example:

    >>> blocks = np.float32([[[1.0, -2.0]], [[0.0, 0.5]]])
    >>> stored, scales = quantize_grid(blocks, BlockGrid((1, 4), (1, 2)), "int8")
    >>> stored[:, 0]
    array([[  64, -127],
           [   0,  127]], dtype=int8)
    """
    _check_dtype(dtype)
    _check_grid(grid)
    blocks = np.asarray(blocks, np.float32)
    expected = (grid.rows * grid.cols, *grid.block_shape)
    if grid.gates != 1 or blocks.shape != expected:
        raise ValueError(
            f"`blocks` must be all of the grid {grid}, which must have one gate: expected shape {expected}. Received: "
            f"shape {blocks.shape}."
        )
    rows, columns = np.divmod(np.arange(len(blocks)), grid.cols)
    weights = np.where(_inside(rows, columns, grid), blocks, np.float32(0))
    _check_finite(weights, "float32")
    if dtype == "bfloat16":
        with np.errstate(over="ignore"):
            rounded = weights.astype(ml_dtypes.bfloat16)
        _check_finite(rounded.astype(np.float32), "bfloat16")
        return rounded, np.zeros([0], np.float32)
    scales = _scales(np.abs(weights).max(axis=(1, 2)))
    return np.clip(np.rint(weights / scales[:, None, None]), -127, 127).astype(np.int8), scales


def dequantize_blocks(stored, scales, indices, indptr, grid):
    """The float32 blocks that `quantize_blocks` stored.

    Args:
        stored: bfloat16 or int8 `[num_blocks, ceil(height / p), width, p]`.
        scales: float32 `[out_features]`, or `[0]` for bfloat16.
        indices: int `[num_blocks]`.
        indptr: int `[grid.cols + 1]`.
        grid: the `BlockGrid` of the matrix.

    Returns:
        float32 `[num_blocks, height, width]`, zero outside of the matrix.

    Raises:
        ValueError: if the arguments do not fit each other.
    """
    _check_grid(grid)
    stored, scales = np.asarray(stored), np.asarray(scales, np.float32)
    dtype = _check_dtype(stored.dtype.name)
    p = ROWS_PER_WORD[dtype]
    height, width = grid.block_shape
    words = -(-height // p)
    columns = _check_pattern(stored, (len(indices), words, width, p), indices, indptr, grid)
    expected = (grid.shape[1],) if dtype == "int8" else (0,)
    if scales.shape != expected:
        raise ValueError(f"`scales` of {dtype} blocks must have shape {expected}. Received: shape {scales.shape}.")
    weights = stored.transpose(0, 1, 3, 2).reshape(len(indices), words * p, width)[:, :height].astype(np.float32)
    if dtype == "int8":
        weights = weights * scales[np.minimum(_features(columns, grid), grid.shape[1] - 1)][:, None, :]
    return np.where(_inside(indices, columns, grid), weights, np.float32(0))


def _check_dtype(dtype):
    """Returns `dtype` if blocks can be stored so."""
    if dtype not in ROWS_PER_WORD:
        raise ValueError(f"`dtype` must be 'bfloat16' or 'int8'. Received: dtype={dtype!r}.")
    return dtype


def _check_grid(grid):
    """Refuses a shape in the place of a grid."""
    if not isinstance(grid, BlockGrid):
        raise ValueError(f"`grid` must be the BlockGrid of the matrix. Received: grid={grid!r}.")


def _check_pattern(blocks, shape, indices, indptr, grid):
    """Block column of each block, `[num_blocks]`, after checks."""
    indices, indptr = np.asarray(indices), np.asarray(indptr)
    if blocks.shape != shape:
        raise ValueError(
            f"The blocks do not fit the grid {grid} and {len(indices)} indices: expected shape {shape}. "
            f"Received: shape {blocks.shape}."
        )
    counts = np.diff(indptr)
    if indptr.shape != (grid.cols + 1,) or indptr[0] != 0 or indptr[-1] != len(indices) or np.any(counts < 0):
        raise ValueError(
            f"`indptr` must rise from 0 to the number of blocks, {len(indices)}, in {grid.cols + 1} elements, one more "
            f"than block columns. Received: indptr={indptr}. Are the blocks in column order?"
        )
    columns = np.repeat(np.arange(grid.cols), counts)
    same_column = columns[1:] == columns[:-1]
    inside = len(indices) == 0 or (indices.min() >= 0 and indices.max() < grid.rows)
    if not inside or np.any(np.diff(indices)[same_column] <= 0):
        raise ValueError(
            f"`indices` must be block rows from 0 to {grid.rows - 1} that rise within each block column. Received: "
            f"indices={indices}. Are the blocks in column order?"
        )
    return columns


def _features(columns, grid):
    """Column of the matrix of each column of each block, `[num_blocks, width]`; any beyond the edge of a gate."""
    gate, col = np.divmod(columns, grid.gate_cols)
    width = grid.block_shape[1]
    return (gate * grid.gate_width + col * width)[:, None] + np.arange(width)


def _inside(indices, columns, grid):
    """Which elements of the blocks lie in the matrix: bool `[num_blocks, height, width]`."""
    height, width = grid.block_shape
    rows = np.asarray(indices, np.int64)[:, None] * height + np.arange(height)
    cols = (columns % grid.gate_cols)[:, None] * width + np.arange(width)
    return (rows < grid.shape[0])[:, :, None] & (cols < grid.gate_width)[:, None, :]


def _check_finite(weights, dtype):
    """Refuses what no scale serves."""
    bad = weights[~np.isfinite(weights)]
    if bad.size:
        raise ValueError(
            f"Weights must be finite in {dtype}. Received: {bad.size} that are not, the first {bad[0]}. Has the "
            "training diverged?"
        )


def _column_scales(weights, features, out_features):
    """Scale of each column of the matrix from its largest magnitude: float32 `[out_features]`."""
    largest = np.zeros([out_features], np.float32)
    magnitudes = np.abs(weights).max(axis=1, initial=0)  # [num_blocks, width]; zero outside of the matrix
    np.maximum.at(largest, np.minimum(features, out_features - 1), magnitudes)
    return _scales(largest)


def _scales(largest):
    """Scales of int8 from the largest magnitudes; below the first, the quotient is no normal number and counts as 0."""
    return np.where(largest >= 127 * np.finfo(np.float32).tiny, largest / np.float32(127), np.float32(1))


def _interleave(blocks, p):
    """`[num_blocks, height, width]` to `[num_blocks, ceil(height / p), width, p]`, with zero rows at the end."""
    count, height, width = blocks.shape
    words = -(-height // p)
    padded = np.zeros([count, words * p, width], blocks.dtype)
    padded[:, :height] = blocks
    return np.ascontiguousarray(padded.reshape(count, words, p, width).transpose(0, 1, 3, 2))
