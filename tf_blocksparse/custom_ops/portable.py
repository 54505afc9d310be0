"""The same products of standard TensorFlow ops alone, for graphs that run where the library of ops is not.

`tf_blocksparse.export(portable=True)` makes its graphs of these. For few rows of x the stored blocks are multiplied one
by one in a batched product: what is stored is all that is read. Its intermediate results grow with rows times
blocks, so that for many rows the dense matrix is made first, which costs a fixed time. Which of both is faster was
measured, for blocks from 1x1 to 32x32 of a matrix of 512x2048 with a tenth of its blocks, on 1 to 256 rows: the dense
matrix gains from about 32 rows times the height of a block.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.low_precision_matmul import check_options, convert_arguments, take_rows
from tf_blocksparse.custom_ops.matmul import ACTIVATIONS, flatten, static_or_dynamic, unflatten

_DENSE_FROM = 32  # rows of x for each row of a block


def portable_matmul(
    x, blocks, indices, indptr, out_features, gates=1, bias=None, activation="linear", order="row", name=None
):
    """`block_sparse_matmul` of standard ops: a gather, a batched product and a segment sum.

    Indices are not checked, and what blocks hold outside of the matrix has to be finite.

    Args:
        x: Tensor `[..., in_features]`, float32, float16 or bfloat16. Sums are float32.
        blocks: Tensor `[num_blocks, height, width]`, of the dtype of `x`.
        indices: Tensor `[num_blocks]`, int32.
        indptr: Tensor `[lines + 1]`, int32.
        out_features, gates, bias, activation, order: as of `block_sparse_matmul`.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, of the dtype of `x`.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    >>> portable_matmul(tf.constant([1.0, 10.0]), blocks, [0], [0, 1], out_features=2).numpy()
    array([31., 42.], dtype=float32)
    """
    with tf.name_scope(name or "block_sparse_matmul"):
        x = tf.convert_to_tensor(x)
        flat, blocks = tf.cast(flatten(x), tf.float32), tf.cast(blocks, tf.float32)
        y = _product(flat, blocks, indices, indptr, out_features, gates, order)
        y = y if bias is None else y + tf.cast(bias, tf.float32)
        return unflatten(tf.cast(ACTIVATIONS[activation](y), x.dtype), x, out_features)


def portable_gather(ids, blocks, indices, indptr, in_features, out_features, name=None):
    """`block_sparse_gather` of standard ops, which read the stored blocks of the rows asked for.

    Indices are not checked; ids are.

    Args:
        ids: Tensor of any shape, int32 or int64.
        blocks: Tensor `[num_blocks, height, width]`, float32.
        indices: Tensor `[num_blocks]`, int32.
        indptr: Tensor `[ceil(in_features / height) + 1]`, int32.
        in_features: int. Rows of the matrix.
        out_features: int. Columns of the matrix.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        tf.errors.InvalidArgumentError: if an id is not a row of the matrix.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])
    >>> portable_gather([1], blocks, [0], [0, 1], 2, 2).numpy()
    array([[3., 4.]], dtype=float32)
    """
    with tf.name_scope(name or "block_sparse_gather"):
        ids, blocks = tf.convert_to_tensor(ids), tf.convert_to_tensor(blocks)
        indices, indptr = tf.convert_to_tensor(indices, tf.int32), tf.convert_to_tensor(indptr, tf.int32)
        flat = tf.reshape(ids, [-1])
        outside = f"An id is not in [0, {in_features}), the rows of the matrix."
        checks = [
            tf.debugging.assert_non_negative(flat, outside),
            tf.debugging.assert_less(flat, tf.cast(in_features, flat.dtype), outside),
        ]
        with tf.control_dependencies([check for check in checks if check is not None]):  # eager checks return None
            flat = tf.identity(tf.cast(flat, tf.int32))  # a cast of int32 is no op that could wait
        height, width = static_or_dynamic(blocks, 1), static_or_dynamic(blocks, 2)
        lines = flat // height
        stored = tf.ragged.range(tf.gather(indptr, lines), tf.gather(indptr, lines + 1))  # blocks of each id's line
        block, of_id = stored.flat_values, stored.value_rowids()  # [look-ups] each
        rows = tf.gather(tf.reshape(blocks, [-1, width]), block * height + tf.gather(flat % height, of_id))
        cols = -(-out_features // width)
        places = tf.cast(of_id, tf.int32) * cols + tf.gather(indices, block)
        table = tf.scatter_nd(places[:, None], rows, [tf.size(flat) * cols, width])
        y = tf.reshape(table, [tf.size(flat), cols * width])[:, :out_features]
        y = tf.reshape(y, tf.concat([tf.shape(ids), [out_features]], axis=0))
        return tf.ensure_shape(y, ids.shape.concatenate(out_features))


def portable_matmul_low_precision(
    x,
    blocks,
    scales,
    indices,
    indptr,
    *,
    block_height,
    out_features,
    gates=1,
    x_dtype="float32",
    bias=None,
    activation=None,
    name=None,
):
    """`block_sparse_matmul_low_precision` of standard ops: numbers are rounded alike, then multiplied in float32.

    Sums of integers are exact up to 2^24, and rounded to float32 beyond. Indices are not checked.

    Args:
        x, blocks, scales, indices, indptr: as of `block_sparse_matmul_low_precision`.
        block_height, out_features, gates, x_dtype, bias, activation: as of `block_sparse_matmul_low_precision`.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: as `block_sparse_matmul_low_precision`.
        ValueError: as `block_sparse_matmul_low_precision`.
    """
    with tf.name_scope(name or "block_sparse_matmul_low_precision"):
        caller = "portable_matmul_low_precision"
        x, blocks, scales, indices, indptr, bias = convert_arguments(x, blocks, scales, indices, indptr, bias, caller)
        activation = check_options(blocks, block_height, out_features, gates, x_dtype, activation, caller)
        rows, row_scales = take_rows(flatten(x), x_dtype)  # [rows, in_features], [rows, 1]
        words, width, p = (static_or_dynamic(blocks, axis) for axis in (1, 2, 3))
        wide = tf.reshape(tf.transpose(tf.cast(blocks, tf.float32), [0, 1, 3, 2]), [-1, words * p, width])
        y = _product(rows, wide[:, :block_height], indices, indptr, out_features, gates, "column")
        if blocks.dtype == tf.int8:
            y *= scales
        y = y if row_scales is None else y * row_scales
        y = y if bias.shape[0] == 0 else y + bias
        return unflatten(ACTIVATIONS[activation](y), x, out_features)


def portable_gate_scores(x, kernel, bias=None, name=None):
    """`gate_scores` of standard ops: one dense product.

    Args:
        x: Tensor `[..., features]`, float32.
        kernel: Tensor `[features, n]`, float32.
        bias: Tensor `[n]`, float32, or None.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., n]`, float32.
    """
    with tf.name_scope(name or "gate_scores"):
        y = tf.matmul(x, kernel)
        return y if bias is None else y + bias


def _product(x, blocks, indices, indptr, out_features, gates, order):
    """`x W` for a matrix x `[rows, in_features]`: `[rows, out_features]`."""
    height, width = static_or_dynamic(blocks, 1), static_or_dynamic(blocks, 2)
    gate_cols = -(-(out_features // gates) // width)
    grid = (-(-static_or_dynamic(x, 1) // height), gates * gate_cols)
    indices, indptr = tf.convert_to_tensor(indices, tf.int32), tf.convert_to_tensor(indptr, tf.int32)
    lines = tf.searchsorted(indptr, tf.range(tf.size(indices)), side="right") - 1  # [num_blocks]
    block_rows, block_cols = (lines, indices) if order == "row" else (indices, lines)

    def by_blocks():
        sums = _sums_of_columns(x, blocks, block_rows, block_cols, grid, order == "column")
        return _without_edges(tf.transpose(sums, [1, 0, 2]), out_features, gates)

    def through_dense():
        places = tf.stack([block_rows, block_cols], axis=1)
        w = tf.scatter_nd(places, blocks, [*grid, height, width])
        w = tf.transpose(w, [0, 2, 1, 3])  # [grid rows, height, grid columns, width]
        w = tf.reshape(w, [grid[0] * height, grid[1], width])[: static_or_dynamic(x, 1)]
        return tf.matmul(x, _without_edges(w, out_features, gates))

    many = static_or_dynamic(x, 0) > _DENSE_FROM * height
    if isinstance(many, bool):
        return through_dense() if many else by_blocks()
    return tf.cond(many, through_dense, by_blocks)


def _sums_of_columns(x, blocks, block_rows, block_cols, grid, ascending):
    """The product for each block column: `[grid columns, rows, width]`."""
    rows, features = static_or_dynamic(x, 0), static_or_dynamic(x, 1)
    height = static_or_dynamic(blocks, 1)
    x = tf.pad(x, [[0, 0], [0, grid[0] * height - features]])
    x = tf.transpose(tf.reshape(x, [rows, grid[0], height]), [1, 0, 2])  # [grid rows, rows, height]
    products = tf.matmul(tf.gather(x, block_rows), blocks)  # [num_blocks, rows, width]
    if not ascending:
        return tf.math.unsorted_segment_sum(products, block_cols, grid[1])
    sums = tf.math.segment_sum(products, block_cols)  # up to the last column that has a block
    return tf.pad(sums, [[0, grid[1] - tf.shape(sums)[0]], [0, 0], [0, 0]])


def _without_edges(y, out_features, gates):
    """`[lines, grid columns, width]` as `[lines, out_features]`, without what lies beyond the edges of gates."""
    lines, width = tf.shape(y)[0], static_or_dynamic(y, 2)
    gate_features = out_features // gates
    padded = -(-gate_features // width) * width
    y = tf.reshape(y, [lines, gates, padded])
    return tf.reshape(y[:, :, :gate_features], [lines, out_features])
