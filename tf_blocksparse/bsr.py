"""Block compressed sparse row matrices, with SciPy's names and order.

>>> w = np.zeros((4, 4), "float32")
>>> w[2:, :2] = 1.0
>>> m = BsrMatrix.from_dense(w, BlockGrid((4, 4), (2, 2)))
>>> m.indices, m.indptr
(array([0], dtype=int32), array([0, 0, 1], dtype=int32))
"""

import dataclasses

import numpy as np

from tf_blocksparse.blocks import BlockGrid


@dataclasses.dataclass(frozen=True)
class BsrMatrix:
    """A matrix of which only some blocks are stored.

    Args:
        grid: the `BlockGrid` of the matrix.
        blocks: `[num_blocks, height, width]`, row by row of the grid. Edge blocks are stored in full;
            what lies outside the matrix is zero.
        indices: int32 `[num_blocks]`, block column of each block, ascending in a block row.
        indptr: int32 `[grid.rows + 1]`; block row i holds the blocks `indptr[i]:indptr[i + 1]`.
        order: "row" as above, or "column": column by column of the grid, with block rows as `indices` and an
            `indptr` `[grid.cols + 1]`. The elements of a block are in row order all the same.
    """

    grid: BlockGrid
    blocks: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    order: str = "row"

    def __post_init__(self):
        expected = (len(self.indices), *self.grid.block_shape)
        lines = self.grid.rows if self.order == "row" else self.grid.cols
        if self.blocks.shape != expected or self.indptr.shape != (lines + 1,):
            raise ValueError(
                f"The parts do not fit the grid {self.grid}. Received: blocks {self.blocks.shape}, "
                f"indptr {self.indptr.shape}; expected {expected} and {(lines + 1,)}."
            )

    @classmethod
    def from_dense(cls, w, grid, block_mask=None, order="row"):
        """Stores the blocks of `w` that `block_mask` keeps; by default those with a non-zero element."""
        w = np.asarray(w)
        if w.shape != grid.shape:
            raise ValueError(f"Expected a matrix of shape {grid.shape}. Received: shape {w.shape}.")
        block_mask = grid.nonzero_blocks(w) if block_mask is None else np.asarray(block_mask)
        indices, indptr = pattern(block_mask, order)
        # [rows, height, cols, width] -> [rows, cols, height, width] -> the kept ones
        blocks = np.asarray(grid.to_blocks(w)).transpose(0, 2, 1, 3)
        blocks = blocks[block_mask] if order == "row" else blocks.transpose(1, 0, 2, 3)[block_mask.T]
        return cls(grid, np.ascontiguousarray(blocks), indices, indptr, order)

    @property
    def num_blocks(self):
        """Number of stored blocks."""
        return len(self.indices)

    @property
    def block_mask(self):
        """Bool `[grid.rows, grid.cols]`, True where a block is stored."""
        return mask_of_pattern(self.grid, self.indices, self.indptr, self.order)

    def to_dense(self):
        """The matrix `[in, out]`, zero where no block is stored."""
        rows, cols = self.grid.mask_shape
        blocks = np.zeros((rows, cols, *self.grid.block_shape), self.blocks.dtype)
        if self.order == "row":
            blocks[self.block_mask] = self.blocks
        else:
            blocks.transpose(1, 0, 2, 3)[self.block_mask.T] = self.blocks  # through a view
        return np.asarray(self.grid.from_blocks(blocks.transpose(0, 2, 1, 3)))


def pattern(block_mask, order="row"):
    """`(indices, indptr)`, both int32, of the True entries of `block_mask` `[rows, cols]`."""
    block_mask = np.asarray(block_mask) if order == "row" else np.asarray(block_mask).T
    indices = np.nonzero(block_mask)[1].astype("int32")
    indptr = np.concatenate([[0], np.cumsum(block_mask.sum(axis=1))]).astype("int32")
    return indices, indptr


def mask_of_pattern(grid, indices, indptr, order="row"):
    """Bool `[rows, cols]`: True where `indices` and `indptr` name a block."""
    block_mask = np.zeros(grid.mask_shape, bool)
    lines = block_mask if order == "row" else block_mask.T  # a view
    lines[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), indices] = True
    return block_mask
