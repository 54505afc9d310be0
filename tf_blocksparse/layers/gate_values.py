"""The arithmetic of block gates: from scores of the blocks to gates of which few are above zero.

All functions take scores `[..., blocks]`, float32, and never divide by zero: an example whose scores are all zero
gets gates that are all zero, with gradients that are zero.
"""

import math

from keras import ops

# What the mean gate is divided by at least. Smaller, and the gradient of an example whose gates are all close to zero
# grows with its inverse.
SMALLEST_MEAN = 1e-3


def num_open(sparsity, num_blocks):
    """Blocks that stay open: the nearest integer to `(1 - sparsity) * num_blocks`, but at least one.

    >>> num_open(0.9, 64), num_open(0.99, 4)
    (6, 1)
    """
    if isinstance(sparsity, float):
        return max(1, math.floor((1.0 - sparsity) * num_blocks + 0.5))
    open_blocks = ops.floor((1.0 - ops.cast(sparsity, "float64")) * num_blocks + 0.5)
    return ops.maximum(ops.cast(open_blocks, "int32"), 1)


def keep_largest(scores, k):
    """Zeroes all but the `k` largest scores of each example; of equal ones those of lower index are kept.

    Args:
        scores: `[..., blocks]`.
        k: int, or int32 scalar tensor.

    Returns:
        `[..., blocks]`, differentiable in the scores that are kept. A score that is NaN is kept.
    """
    num_blocks = scores.shape[-1]
    if isinstance(k, int) and k >= num_blocks:
        return scores
    is_static = isinstance(k, int)
    largest, _ = ops.top_k(ops.stop_gradient(scores), k if is_static else num_blocks)
    threshold = largest[..., -1:] if is_static else ops.take(largest, ops.reshape(k - 1, (1,)), axis=-1)
    above, tied = scores > threshold, ops.equal(scores, threshold)
    free = k - _count(above)  # places for those that equal the threshold: [..., 1]
    dropped = ops.logical_or(
        scores < threshold,
        ops.logical_and(tied, ops.cumsum(ops.cast(tied, "int32"), axis=-1) > free),
    )
    return ops.where(dropped, ops.zeros_like(scores), scores)


def normalize(kept, num_blocks):
    """Divides the gates of each example by their mean over all `num_blocks` blocks ([BDS] Equation 1).

    Args:
        kept: `[..., n]`, gates that are at least 0; those of the blocks left out are zero.
        num_blocks: int.

    Returns:
        `[..., n]` of mean 1 over all blocks, unless the mean of `kept` is below `SMALLEST_MEAN`.
    """
    mean = ops.sum(kept, axis=-1, keepdims=True) / num_blocks
    return kept / ops.maximum(mean, SMALLEST_MEAN)


def _count(condition):
    return ops.sum(ops.cast(condition, "int32"), axis=-1, keepdims=True)
