"""Finds the block shape in the zeros of a weight matrix."""

import numpy as np

from tf_blocksparse.blocks import BlockGrid

_SIDES = (1, 2, 4, 8, 12, 16, 32, 64, 128)
_VALUE_BYTES = 4
_INDEX_BYTES = 4


def best_block_shape(matrices):
    """The block shape that holds the non-zeros of some matrices in the fewest bytes.

    Counted are the elements in blocks that are not zero, without the padding of edge blocks, and one index a block.

    Args:
        matrices: list of `(w, gates)`, arrays `[in, out]` and the number of gates in each.

    Returns:
        `(height, width)`, both of 1, 2, 4, 8, 12, 16, 32, 64, 128; the larger block where bytes are equal.
    """
    candidates = {}  # block shape -> bytes
    for w, gates in matrices:
        nonzero = (w != 0).reshape(w.shape[0], gates, -1)
        for width in _SIDES:
            in_cols = _any_of(nonzero, width, axis=2)
            for height in _SIDES:
                sizes = BlockGrid(w.shape, (height, width), gates).block_sizes()
                live = _any_of(in_cols, height, axis=0).reshape(sizes.shape)
                size = _VALUE_BYTES * int(sizes[live].sum()) + _INDEX_BYTES * int(live.sum())
                candidates[height, width] = candidates.get((height, width), 0) + size
    return min(candidates, key=lambda shape: (candidates[shape], -shape[0] * shape[1]))


def _any_of(values, length, axis):
    """Logical or over runs of `length` along an axis; the last run may be shorter."""
    return np.logical_or.reduceat(values, np.arange(0, values.shape[axis], length), axis=axis)
