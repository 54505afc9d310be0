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
    """

    grid: BlockGrid
    blocks: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray

    def __post_init__(self):
        expected = (len(self.indices), *self.grid.block_shape)
        if self.blocks.shape != expected or self.indptr.shape != (self.grid.rows + 1,):
            raise ValueError(
                f"The parts do not fit the grid {self.grid}. Received: blocks {self.blocks.shape}, "
                f"indptr {self.indptr.shape}; expected {expected} and {(self.grid.rows + 1,)}."
            )

    @classmethod
    def from_dense(cls, w, grid, block_mask=None):
        """Stores the blocks of `w` that `block_mask` keeps; by default those with a non-zero element."""
        w = np.asarray(w)
        if w.shape != grid.shape:
            raise ValueError(f"Expected a matrix of shape {grid.shape}. Received: shape {w.shape}.")
        block_mask = grid.nonzero_blocks(w) if block_mask is None else np.asarray(block_mask)
        indices, indptr = pattern(block_mask)
        # [rows, height, cols, width] -> [rows, cols, height, width] -> the kept ones
        blocks = np.asarray(grid.to_blocks(w)).transpose(0, 2, 1, 3)[block_mask]
        return cls(grid, np.ascontiguousarray(blocks), indices, indptr)

    @property
    def num_blocks(self):
        """Number of stored blocks."""
        return len(self.indices)

    @property
    def block_mask(self):
        """Bool `[grid.rows, grid.cols]`, True where a block is stored."""
        return mask_of_pattern(self.grid, self.indices, self.indptr)

    def to_dense(self):
        """The matrix `[in, out]`, zero where no block is stored."""
        rows, cols = self.grid.mask_shape
        blocks = np.zeros((rows, cols, *self.grid.block_shape), self.blocks.dtype)
        blocks[self.block_mask] = self.blocks
        return np.asarray(self.grid.from_blocks(blocks.transpose(0, 2, 1, 3)))


def pattern(block_mask):
    """`(indices, indptr)`, both int32, of the True entries of `block_mask` `[rows, cols]`."""
    block_mask = np.asarray(block_mask)
    indices = np.nonzero(block_mask)[1].astype("int32")
    indptr = np.concatenate([[0], np.cumsum(block_mask.sum(axis=1))]).astype("int32")
    return indices, indptr


def mask_of_pattern(grid, indices, indptr):
    """Bool `[rows, cols]`: True where `indices` and `indptr` name a block."""
    block_mask = np.zeros(grid.mask_shape, bool)
    block_mask[np.repeat(np.arange(grid.rows), np.diff(indptr)), indices] = True
    return block_mask
