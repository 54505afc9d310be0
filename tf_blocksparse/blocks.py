"""The grid: how a weight matrix is cut into blocks.

A matrix is seen as `[in, out]`, the way Keras stores a `kernel`. A `BlockGrid` cuts it into blocks of
`(height, width)`; the last block of a row or column may be smaller. The fused kernel of a recurrent layer is
several matrices side by side (`gates`), and the grid is laid on each of them, so no block spans two gates.

>>> grid = BlockGrid(shape=(6, 8), block_shape=(4, 4))
>>> grid.mask_shape
(2, 2)
>>> w = np.zeros((6, 8), "float32")
>>> w[5, 0] = -3.0
>>> np.asarray(grid.scores(w))
array([[0., 0.],
       [3., 0.]], dtype=float32)
"""

import dataclasses
import math

import numpy as np
from keras import ops


def canonical_block_shape(block_shape):
    """Returns `block_shape` as `(height, width)`; an int n means `(n, n)`.

    Raises:
        ValueError: if it is not one or two positive integers.
    """
    sides = block_shape if isinstance(block_shape, (tuple, list)) else (block_shape, block_shape)
    integers = [s for s in sides if isinstance(s, (int, np.integer)) and not isinstance(s, bool)]
    if len(sides) != 2 or len(integers) != 2 or min(sides) < 1:
        raise ValueError(
            "`block_shape` must be (height, width), two integers of at least 1, or one integer for "
            f"square blocks. Received: block_shape={block_shape!r}. Example: block_shape=(4, 4)."
        )
    return tuple(int(s) for s in sides)


def density(block_mask):
    """Fraction of the blocks that are kept, in [0, 1]; 1.0 for an empty grid."""
    block_mask = np.asarray(block_mask)
    return float(np.mean(block_mask)) if block_mask.size else 1.0


def sparsity(block_mask):
    """Fraction of the blocks that are zero, in [0, 1]: `1 - density`."""
    return 1.0 - density(block_mask)


# Score of a block from its elements: [rows, height, cols, width] -> [rows, cols]. Elements that pad an
# edge block are zero; `sizes` counts the real ones.
SCORES = {
    "max": lambda magnitudes, sizes: ops.max(magnitudes, axis=(1, 3)),
    "mean": lambda magnitudes, sizes: ops.sum(magnitudes, axis=(1, 3)) / sizes,
    "l2": lambda magnitudes, sizes: ops.sqrt(ops.sum(ops.square(magnitudes), axis=(1, 3))),
}


def check_score(score):
    """Returns `score` if it names a block score, else raises `ValueError`."""
    if score not in SCORES:
        raise ValueError(f"`score` must be one of {sorted(SCORES)}. Received: score={score!r}.")
    return score


@dataclasses.dataclass(frozen=True)
class BlockGrid:
    """The blocks of one weight matrix.

    Args:
        shape: `(in, out)` of the matrix. Any sizes.
        block_shape: `(height, width)` of a block, or an int for square ones.
        gates: number of matrices of equal width that lie side by side in `out`. The grid is laid on each.
    """

    shape: tuple
    block_shape: tuple
    gates: int = 1

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "block_shape", canonical_block_shape(self.block_shape))
        if len(self.shape) != 2:
            raise ValueError(f"A grid is laid on a matrix [in, out]. Received: shape={self.shape}.")
        if self.gates < 1 or self.shape[1] % self.gates:
            raise ValueError(
                f"`gates` must divide the number of columns. Received: gates={self.gates} for a "
                f"matrix of shape {self.shape}."
            )

    @property
    def gate_width(self):
        """Columns of one gate's matrix."""
        return self.shape[1] // self.gates

    @property
    def rows(self):
        """Block rows."""
        return math.ceil(self.shape[0] / self.block_shape[0])

    @property
    def gate_cols(self):
        """Block columns of one gate's matrix."""
        return math.ceil(self.gate_width / self.block_shape[1])

    @property
    def cols(self):
        """Block columns over all gates; those of the first gate come first."""
        return self.gates * self.gate_cols

    @property
    def mask_shape(self):
        """Shape of a `block_mask`: `(rows, cols)`."""
        return (self.rows, self.cols)

    @property
    def num_blocks(self):
        """Blocks of the whole grid, kept or not."""
        return self.rows * self.cols

    def block_sizes(self):
        """Number of real elements of every block, int64 `[rows, cols]`: smaller at the edges."""
        height, width = self.block_shape
        heights = np.minimum(height, self.shape[0] - height * np.arange(self.rows))
        widths = np.minimum(width, self.gate_width - width * np.arange(self.gate_cols))
        return np.outer(heights, np.tile(widths, self.gates))

    def to_blocks(self, w):
        """Cuts `w` `[in, out]` into blocks `[rows, height, cols, width]`; edges are padded with zeros."""
        height, width = self.block_shape
        below = self.rows * height - self.shape[0]
        right = self.gate_cols * width - self.gate_width
        if below or right:
            w = ops.reshape(w, (self.shape[0], self.gates, self.gate_width))
            w = ops.pad(w, [[0, below], [0, 0], [0, right]])
        return ops.reshape(w, (self.rows, height, self.cols, width))

    def from_blocks(self, blocks):
        """Puts blocks `[rows, height, cols, width]` together to a matrix `[in, out]`."""
        height, width = self.block_shape
        w = ops.reshape(blocks, (self.rows * height, self.gates, self.gate_cols * width))
        return ops.reshape(w[: self.shape[0], :, : self.gate_width], self.shape)

    def scores(self, w, score="max"):
        """Score of every block of `w`: `"max"` |w| ([BSR] 3.1), `"mean"` |w|, or `"l2"` norm.

        Returns:
            float32 `[rows, cols]`.
        """
        magnitudes = ops.abs(self.to_blocks(ops.cast(w, "float32")))
        return SCORES[check_score(score)](magnitudes, self.block_sizes().astype("float32"))

    def expand(self, block_mask):
        """Spreads `block_mask` `[rows, cols]` over the elements: `[in, out]`, same dtype."""
        spread = ops.expand_dims(self.expand_columns(block_mask), 1)
        spread = ops.broadcast_to(spread, (self.rows, self.block_shape[0], self.shape[1]))
        return ops.reshape(spread, (-1, self.shape[1]))[: self.shape[0]]

    def expand_columns(self, block_mask):
        """Spreads `block_mask` `[rows, cols]` over the columns only: `[rows, out]`, same dtype."""
        width = self.block_shape[1]
        spread = ops.broadcast_to(ops.expand_dims(block_mask, 2), (self.rows, self.cols, width))
        spread = ops.reshape(spread, (self.rows, self.gates, self.gate_cols * width))
        return ops.reshape(spread[:, :, : self.gate_width], (self.rows, self.shape[1]))

    def nonzero_blocks(self, w):
        """`block_mask` of the blocks of the array `w` that hold a non-zero element: NumPy bool `[rows, cols]`."""
        nonzero = ops.convert_to_numpy(w) != 0
        return np.asarray(self.to_blocks(nonzero)).any(axis=(1, 3))
