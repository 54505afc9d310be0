"""Rows of a block-sparse matrix: an embedding look-up that reads only stored blocks.

```python
w = scipy.sparse.bsr_matrix(embeddings, blocksize=(16, 16))  # a pruned [vocabulary, units] matrix
rows = block_sparse_gather(ids, w.data, w.indices, w.indptr, *embeddings.shape)
```
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import (
    check_sizes,
    convert_pattern,
    inside_matrix,
    row_of_blocks,
)


def block_sparse_gather(ids, blocks, indices, indptr, in_features, out_features, name=None):
    """Looks up rows of a block-sparse matrix.

    Computes `y[..., :] = W[ids[...], :]`, where `W` is `[in_features, out_features]` in block
    compressed sparse row format, as in `block_sparse_matmul`; rows are zero where no block is.

    Differentiable with respect to `blocks`, any number of times; equal ids add up.

    Args:
        ids: Tensor of any shape, int32 or int64. Rows of `W`, from 0 to `in_features - 1`.
        blocks: Tensor `[num_blocks, height, width]`, float32.
        indices: Tensor `[num_blocks]`, int32. Block columns, strictly increasing within a block
            row.
        indptr: Tensor `[ceil(in_features / height) + 1]`, int32. Where each block row's blocks
            start.
        in_features: int. Rows of `W`: the vocabulary.
        out_features: int. Columns of `W`.
        name: Optional name of the op.

    Returns:
        Tensor `[..., out_features]`, float32: the shape of `ids`, and a row for each.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if an argument has a wrong rank, or a size a wrong value.
        tf.errors.InvalidArgumentError: if an id is not a row of `W` (the message names it), or
            `indices` and `indptr` are not a pattern of it.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])  # the only block, lower right of W
    >>> block_sparse_gather([3, 0], blocks, [1], [0, 0, 1], 4, 4).numpy()
    array([[0., 0., 3., 4.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    ids, blocks, indices, indptr = _convert(ids, blocks, indices, indptr, "block_sparse_gather")
    if blocks.dtype != tf.float32:
        raise TypeError(
            f"`block_sparse_gather` expects `blocks` of dtype float32, got {blocks.dtype.name}. "
            "Convert it, by `tf.cast(blocks, tf.float32)`, or use `block_sparse_gather_reference`."
        )
    check_sizes(in_features=in_features, out_features=out_features)
    rows = ops().block_sparse_gather(
        tf.reshape(ids, [-1]), blocks, indices, indptr,
        in_features=in_features, out_features=out_features, name=name,
    )  # fmt: skip
    return _with_shape_of(ids, rows, out_features)


def block_sparse_gather_reference(ids, blocks, indices, indptr, in_features, out_features, name=None):
    """The same function as `block_sparse_gather`, of standard TensorFlow ops.

    Builds the dense matrix, of any floating dtype: for tests. Indices are not checked.

    Args:
        ids: Tensor of any shape, int32 or int64.
        blocks: Tensor `[num_blocks, height, width]`, of any floating dtype.
        indices: Tensor `[num_blocks]`, int32.
        indptr: Tensor `[ceil(in_features / height) + 1]`, int32.
        in_features: int. Rows of `W`.
        out_features: int. Columns of `W`.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, of the dtype of `blocks`.

    Raises:
        ValueError: as `block_sparse_gather`.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]], tf.float64)
    >>> block_sparse_gather_reference(1, blocks, [0], [0, 1], 2, 2).numpy()
    array([3., 4.])
    """
    with tf.name_scope(name or "block_sparse_gather_reference"):
        caller = "block_sparse_gather_reference"
        ids, blocks, indices, indptr = _convert(ids, blocks, indices, indptr, caller)
        check_sizes(in_features=in_features, out_features=out_features)
        height, width = tf.shape(blocks)[1], tf.shape(blocks)[2]
        grid_rows = tf.size(indptr) - 1
        grid_columns = -(-out_features // width)
        block_rows = row_of_blocks(indptr)  # [num_blocks]
        inside = inside_matrix(block_rows, indices, height, width, in_features, out_features)
        blocks = tf.where(inside, blocks, tf.zeros([], blocks.dtype))
        grid = tf.scatter_nd(
            tf.stack([block_rows, indices], axis=1),
            blocks,
            tf.stack([grid_rows, grid_columns, height, width]),
        )
        dense = tf.reshape(tf.transpose(grid, [0, 2, 1, 3]), [grid_rows * height, grid_columns * width])
        rows = tf.gather(dense[:in_features, :out_features], tf.reshape(ids, [-1]))
        return _with_shape_of(ids, rows, out_features)


def _convert(ids, blocks, indices, indptr, caller):
    """Tensors of the four arguments, of checked ranks and integer dtypes."""
    ids = tf.convert_to_tensor(ids, name="ids")
    if ids.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            f"`{caller}` expects `ids` of dtype int32 or int64, got {ids.dtype.name}. Convert "
            "them, by `tf.cast(ids, tf.int32)`."
        )
    blocks = tf.convert_to_tensor(blocks, name="blocks")
    indices, indptr = convert_pattern(blocks, indices, indptr, caller)
    return ids, blocks, indices, indptr


def _with_shape_of(ids, rows, features):
    """`rows` `[num_ids, features]` in the shape of `ids`; static sizes are kept."""
    if ids.shape.is_fully_defined():
        return tf.reshape(rows, [*ids.shape, features])
    rows = tf.reshape(rows, tf.concat([tf.shape(ids), [features]], axis=0))
    return tf.ensure_shape(rows, ids.shape.concatenate(features))


@tf.RegisterGradient("BlockSparse>Gather")
def _gather_grad(op, dy):
    """Gradient of the look-up with respect to the blocks."""
    ids, blocks, indices, indptr = op.inputs
    dblocks = ops().block_sparse_gather_grad_blocks(
        ids, dy, blocks, indices, indptr,
        in_features=op.get_attr("in_features"),
        out_features=op.get_attr("out_features"),
    )  # fmt: skip
    return None, dblocks, None, None


@tf.RegisterGradient("BlockSparse>GatherGradBlocks")
def _gather_grad_blocks_grad(op, ddblocks):
    """Gradient of the blocks' gradient, which is linear in `dy`: the look-up itself."""
    ids, _, _, indices, indptr = op.inputs
    ddy = ops().block_sparse_gather(
        ids, ddblocks, indices, indptr,
        in_features=op.get_attr("in_features"),
        out_features=op.get_attr("out_features"),
    )  # fmt: skip
    return None, ddy, None, None, None
