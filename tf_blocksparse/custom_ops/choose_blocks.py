"""Which blocks each example uses: the largest gates, without the cost of TensorFlow's top-k.

```python
scores = gate_scores(x, gate_kernel, gate_bias)  # [batch, num_blocks]
block_ids, block_gates = choose_blocks(scores, k=48)
y = dynamic_block_matmul(x, blocks, block_ids, block_gates, in_features=1536, out_features=6144)
```
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.dynamic_matmul import dynamic_block_matmul
from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import check_float32, convert_with_hint, flatten, unflatten

# Rows of a dense matrix that are read side by side, at most: 16 to 32 are as fast, 4 and a whole matrix are slower.
_ROWS_AT_A_TIME = 32


def choose_blocks(scores, k, epsilon=1e-3, name=None):
    """The k largest gates of each example, divided by the mean over all blocks.

    A block's gate is `max(score, 0)`. Exactly k are kept, of equal ones those of lower index; the others count as zero.
    What is kept is divided by the mean over all n blocks, so that the mean gate is 1: Equation 1 of *Block-wise Dynamic
    Sparseness* (Hadifar, Deleu, Develder, Demeester, 2020). A mean below `epsilon` counts as `epsilon`, so that nothing
    is divided by zero.

    Differentiable with respect to `scores`: through the gates that are kept.

    Args:
        scores: Tensor `[..., n]`, float32.
        k: int or int32 scalar, from 0 to n.
        epsilon: float, the smallest mean to divide by.
        name: Optional name of the op.

    Returns:
        `(block_ids, block_gates)`: int32 and float32, both `[..., k]`, by rising id.

    Raises:
        TypeError: if `scores` has another dtype.
        ValueError: if `scores` is a scalar or `epsilon` is not above zero.
        tf.errors.InvalidArgumentError: if k is less than 0 or more than n. In a graph, as a ValueError where shapes
            alone show it.

    Example:

    >>> block_ids, block_gates = choose_blocks(tf.constant([[3.0, -1.0, 1.0, 3.0]]), k=2)
    >>> block_ids.numpy()
    array([[0, 3]], dtype=int32)
    >>> block_gates.numpy()
    array([[2., 2.]], dtype=float32)
    """
    scores = _convert(scores, epsilon, "choose_blocks")
    check_float32("scores", scores, "choose_blocks")
    flat = flatten(scores)  # [batch, n]
    k = tf.convert_to_tensor(k, tf.int32, name="k")
    found = ops().block_sparse_choose_blocks(flat, k, epsilon=epsilon, name=name)
    return tuple(_unflatten(tensor, scores) for tensor in found)


def choose_blocks_reference(scores, k, epsilon=1e-3, name=None):
    """The same function as `choose_blocks`, of standard TensorFlow ops, for any floating dtype.

    Args:
        scores: Tensor `[..., n]`, of any floating dtype.
        k: int or int32 scalar, from 0 to n.
        epsilon: float, the smallest mean to divide by.
        name: Optional name of the scope.

    Returns:
        `(block_ids, block_gates)`: int32 and the dtype of `scores`, both `[..., k]`, by rising id.

    Raises:
        ValueError: as `choose_blocks`.
    """
    with tf.name_scope(name or "choose_blocks_reference"):
        scores = _convert(scores, epsilon, "choose_blocks_reference")
        gates = tf.nn.relu(scores)
        block_ids = tf.sort(tf.math.top_k(gates, k)[1], axis=-1)
        kept = tf.gather(gates, block_ids, batch_dims=gates.shape.rank - 1)
        return block_ids, kept / _divisor(kept, gates, epsilon)


def gate_scores(x, kernel, bias=None, name=None):
    """Dense `x kernel + bias` for few examples, on all threads: `tf.matmul` takes one at batch 1.

    Args:
        x: Tensor `[..., features]`, float32.
        kernel: Tensor `[features, n]`, float32, of known shape.
        bias: Tensor `[n]`, float32, or None.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., n]`, float32.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if the shape of `kernel` is not known.

    Example:

    >>> gate_scores(tf.constant([[1.0, 10.0]]), tf.constant([[1.0, 2.0], [3.0, 4.0]])).numpy()
    array([[31., 42.]], dtype=float32)
    """
    with tf.name_scope(name or "gate_scores"):
        kernel = tf.convert_to_tensor(kernel, name="kernel")
        if not kernel.shape.is_fully_defined() or kernel.shape.rank != 2:
            raise ValueError(f"`gate_scores` expects `kernel` of a known shape [features, n], got {kernel.shape}.")
        features, n = kernel.shape
        height = max(h for h in range(1, _ROWS_AT_A_TIME + 1) if features % h == 0)
        # The rows of a dense matrix are blocks as wide as itself, of which every example uses all.
        blocks = tf.reshape(kernel, [features // height, height, n])
        x = tf.convert_to_tensor(x, name="x")
        flat = flatten(x)
        shape = [tf.shape(flat)[0], features // height]
        block_ids = tf.broadcast_to(tf.range(features // height), shape)
        y = dynamic_block_matmul(flat, blocks, block_ids, tf.ones(shape), features, n, bias=bias)
        return unflatten(y, x, n)


def _convert(scores, epsilon, caller):
    """Tensor of the scores, after checks."""
    scores = convert_with_hint(scores, tf.float32, "scores")
    if scores.shape.rank == 0:
        raise ValueError(f"`{caller}` expects `scores` of shape [..., n], got a scalar.")
    if not epsilon > 0:
        raise ValueError(f"`epsilon` must be above 0, got {epsilon!r}.")
    return scores


def _unflatten(found, scores):
    """`found` `[batch, k]` with the leading dimensions of `scores`."""
    if scores.shape.rank == 2:
        return found
    return tf.reshape(found, tf.concat([tf.shape(scores)[:-1], tf.shape(found)[1:]], axis=0))


def _divisor(kept, gates, epsilon):
    """What the gates are divided by, `[..., 1]`: the mean over all of what is kept, but for a tiny one."""
    n = tf.cast(tf.shape(gates)[-1], gates.dtype)
    return tf.maximum(tf.reduce_sum(kept, axis=-1, keepdims=True) / n, tf.cast(epsilon, gates.dtype))


@tf.RegisterGradient("BlockSparse>ChooseBlocks")
def _choose_blocks_grad(op, _, dgates):
    """Gradient of `kept / max(mean(kept), epsilon)`, to the scores that were kept."""
    # On a GPU TensorFlow stacks int32 in the host's memory, for which the host would wait in every step.
    scores, block_ids = op.inputs[0], tf.cast(op.outputs[0], tf.int64)
    shape = tf.shape(scores, out_type=tf.int64)
    epsilon = op.get_attr("epsilon")
    kept = tf.nn.relu(tf.gather(scores, block_ids, batch_dims=1))  # [batch, k]
    divisor = _divisor(kept, scores, epsilon)
    n = tf.cast(tf.shape(scores)[1], scores.dtype)
    through_mean = tf.reduce_sum(dgates * kept, axis=1, keepdims=True) / (divisor * n)
    dkept = (dgates - tf.where(divisor > epsilon, through_mean, 0.0)) / divisor
    dkept = tf.where(kept > 0, dkept, 0.0)
    examples = tf.broadcast_to(tf.range(shape[0])[:, None], tf.shape(block_ids))
    return tf.scatter_nd(tf.stack([examples, block_ids], axis=-1), dkept, shape), None
