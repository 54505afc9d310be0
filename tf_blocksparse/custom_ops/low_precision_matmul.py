"""Product with a block-sparse matrix stored as bfloat16 or int8, for inference.

`tf_blocksparse.quantize.quantize_blocks` makes the stored blocks and the scales from float32 blocks.

```python
stored, scales = quantize_blocks(blocks, indices, indptr, grid, "int8")
y = block_sparse_matmul_low_precision(
    x, stored, scales, indices, indptr, block_height=16, out_features=grid.shape[1], x_dtype="int8"
)
```
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import (
    ACTIVATIONS,
    check_features,
    check_sizes,
    convert_with_hint,
    flatten,
    row_of_blocks,
    unflatten,
)

# Consecutive rows of a column that are stored side by side.
_ROWS_PER_WORD = {tf.bfloat16: 2, tf.int8: 4}


def block_sparse_matmul_low_precision(
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
    """Multiplies by a block-sparse matrix whose blocks are bfloat16 or int8.

    Computes `y = activation(x W + bias)`. The blocks of `W` `[in_features, out_features]` are in *column
    order*: block column `j` holds the blocks `indptr[j] <= k < indptr[j + 1]`, and block `k` is in block row
    `indices[k]`. Row `p * g + r` and column `c` of a block is `blocks[k, g, c, r]`, where p is 2 for bfloat16
    and 4 for int8; of int8, column `o` of `W` is that times `scales[o]`.

    Edge blocks are stored in full; what lies outside of `W` is ignored, whatever it is.

    `x_dtype` says in which numbers is multiplied:

    - `"float32"`: x as it is, blocks widened to float32.
    - `"bfloat16"`, with bfloat16 blocks: x rounded to bfloat16, sums in float32.
    - `"int8"`, with int8 blocks: each row of x times `127 / max|x|` rounded to integers, halves to even; sums of
      integers, exact. A row with an infinity or a NaN gives NaN in all of its outputs, a row whose largest
      magnitude is below 2^-100 counts as zeros.

    Not differentiable.

    Args:
        x: Tensor `[..., in_features]`, float32, of rank 1 or more.
        blocks: Tensor `[num_blocks, ceil(block_height / p), width, p]`, bfloat16 or int8.
        scales: Tensor `[out_features]`, float32, for int8; `[0]` (or `[]`) for bfloat16.
        indices: Tensor `[num_blocks]`, int32. Block rows, strictly increasing within a block column.
        indptr: Tensor `[block_columns + 1]`, int32. Where each block column's blocks start.
        block_height: int. Rows of a block, which the shape of `blocks` tells only in multiples of p.
        out_features: int. Columns of `W`.
        gates: int. `W` is this many matrices side by side, and the grid of blocks is laid on each of them;
            block columns are counted through all of them.
        x_dtype: `"float32"`, `"bfloat16"` or `"int8"`.
        bias: Optional Tensor `[out_features]`, float32.
        activation: None, `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`.
        name: Optional name of the op.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if an argument has a wrong rank or a wrong value.
        tf.errors.InvalidArgumentError: if the tensors do not fit each other, or `indices` and `indptr` are not
            a pattern of `W`. In a graph, as a ValueError where shapes alone show it.

    Example:

    >>> blocks = tf.constant([[[[1, 2, 3, 4], [5, 6, 7, 8]]]], tf.int8)  # columns of a 4x2 block
    >>> x = tf.constant([[1.0, 1.0, 1.0, 10.0]])
    >>> block_sparse_matmul_low_precision(
    ...     x, blocks, [1.0, 0.5], [0], [0, 1], block_height=4, out_features=2
    ... ).numpy()
    array([[46., 49.]], dtype=float32)
    """
    caller = "block_sparse_matmul_low_precision"
    x, blocks, scales, indices, indptr, bias = convert_arguments(x, blocks, scales, indices, indptr, bias, caller)
    activation = check_options(blocks, block_height, out_features, gates, x_dtype, activation, caller)
    y = ops().block_sparse_low_precision_mat_mul(
        flatten(x), blocks, indices, indptr, scales, bias,
        block_height=block_height,
        out_features=out_features,
        gates=gates,
        x_dtype=x_dtype,
        activation=activation,
        name=name,
    )  # [rows, out_features]  # fmt: skip
    return unflatten(y, x, out_features)


def block_sparse_matmul_low_precision_reference(
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
    """The same function as `block_sparse_matmul_low_precision`, of standard TensorFlow ops.

    Widens the blocks and sums in float64: for tests. Indices are not checked.

    Args:
        x: Tensor `[..., in_features]`, float32.
        blocks: Tensor `[num_blocks, ceil(block_height / p), width, p]`, bfloat16 or int8.
        scales: Tensor `[out_features]`, or `[0]` for bfloat16.
        indices: Tensor `[num_blocks]`, int32.
        indptr: Tensor `[block_columns + 1]`, int32.
        block_height: int. Rows of a block.
        out_features: int. Columns of `W`.
        gates: int. Matrices that `W` is made of, side by side.
        x_dtype: `"float32"`, `"bfloat16"` or `"int8"`.
        bias: Optional Tensor `[out_features]`.
        activation: None, `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`.
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: as `block_sparse_matmul_low_precision`.
        ValueError: as `block_sparse_matmul_low_precision`.
    """
    with tf.name_scope(name or "block_sparse_matmul_low_precision_reference"):
        caller = "block_sparse_matmul_low_precision_reference"
        x, blocks, scales, indices, indptr, bias = convert_arguments(x, blocks, scales, indices, indptr, bias, caller)
        activation = check_options(blocks, block_height, out_features, gates, x_dtype, activation, caller)
        rows, row_scales = take_rows(flatten(x), x_dtype)  # [rows, in_features], [rows, 1]
        w = _dense(blocks, indices, indptr, block_height, tf.shape(rows)[1], out_features, gates)
        y = tf.matmul(tf.cast(rows, tf.float64), w)  # [rows, out_features]
        if blocks.dtype == tf.int8:
            y *= tf.cast(scales, tf.float64)
        y = y if row_scales is None else y * tf.cast(row_scales, tf.float64)
        if bias.shape.rank is None or bias.shape[0] != 0:
            y += tf.cast(bias, tf.float64)
        return unflatten(tf.cast(ACTIVATIONS[activation](y), tf.float32), x, out_features)


@tf.RegisterGradient("BlockSparse>LowPrecisionMatMul")
def _no_gradient(op, dy):
    """Rounded blocks have none."""
    del op, dy
    raise NotImplementedError(
        "BlockSparse>LowPrecisionMatMul has no gradient: bfloat16 and int8 blocks are for inference only. Train the "
        "model in float32 and convert it again, or call `tf.stop_gradient` on the output."
    )


def convert_arguments(x, blocks, scales, indices, indptr, bias, caller):
    """Tensors of all arguments, of checked dtypes and ranks; no bias is an empty one."""
    no_bias = tf.zeros([0], tf.float32)
    tensors = {
        "x": tf.convert_to_tensor(x, name="x"),
        "blocks": tf.convert_to_tensor(blocks, name="blocks"),
        "scales": convert_with_hint(scales, tf.float32, "scales"),
        "indices": convert_with_hint(indices, tf.int32, "indices"),
        "indptr": convert_with_hint(indptr, tf.int32, "indptr"),
        "bias": no_bias if bias is None else convert_with_hint(bias, tf.float32, "bias"),
    }
    expected = {
        "x": ((tf.float32,), None, "[..., in_features]"),
        "blocks": (tuple(_ROWS_PER_WORD), 4, "[num_blocks, ceil(block_height / p), width, p]"),
        "scales": ((tf.float32,), 1, "[out_features] (int8 blocks) or [0] (bfloat16 blocks)"),
        "indices": ((tf.int32,), 1, "[num_blocks]"),
        "indptr": ((tf.int32,), 1, "[block_columns + 1]"),
        "bias": ((tf.float32,), 1, "[out_features]"),
    }
    for argument, (dtypes, rank, shape) in expected.items():
        tensor = tensors[argument]
        if tensor.dtype not in dtypes:
            names = " or ".join(dtype.name for dtype in dtypes)
            raise TypeError(f"`{caller}` expects `{argument}` of dtype {names}, got {tensor.dtype.name}.")
        if tensor.shape.rank == 0 or (rank is not None and tensor.shape.rank not in (None, rank)):
            raise ValueError(f"`{caller}` expects `{argument}` of shape {shape}, got shape {tensor.shape}.")
    return tuple(tensors.values())


def check_options(blocks, block_height, out_features, gates, x_dtype, activation, caller):
    """Refuses what no matrix has; returns the activation's name."""
    check_sizes(block_height=block_height)
    check_features(out_features, gates)
    if x_dtype not in ("float32", blocks.dtype.name):
        raise ValueError(
            f"`{caller}` expects `x_dtype` 'float32' or, with {blocks.dtype.name} blocks, "
            f"'{blocks.dtype.name}', got {x_dtype!r}."
        )
    activation = "linear" if activation is None else activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be None or one of {list(ACTIVATIONS)}, got {activation!r}. "
            "Apply any other to the output."
        )
    return activation


def take_rows(x, x_dtype):
    """The numbers that x `[rows, features]` is taken as, and what each row is to be multiplied by: both float32.

    The second, `[rows, 1]`, is None if rows are not scaled.
    """
    if x_dtype != "int8":
        return (tf.cast(tf.cast(x, tf.bfloat16), tf.float32) if x_dtype == "bfloat16" else x), None
    largest = tf.reduce_max(tf.abs(x), axis=1, keepdims=True)  # [rows, 1]
    finite = tf.reduce_all(tf.math.is_finite(x), axis=1, keepdims=True)
    served = finite & (largest >= 2.0**-100)
    q = tf.round(x * (127.0 / tf.where(served, largest, 1.0)))
    scale = tf.where(served, largest / 127.0, tf.where(finite, 0.0, float("nan")))
    return tf.where(served, q, 0.0), scale


def _dense(blocks, indices, indptr, block_height, in_features, out_features, gates):
    """The matrix of the stored numbers, float64 `[in_features, out_features]`, zero elsewhere."""
    shape = tf.shape(blocks)
    width = shape[2]
    blocks = tf.reshape(tf.transpose(blocks, [0, 1, 3, 2]), [shape[0], shape[1] * shape[3], width])
    blocks = tf.cast(blocks[:, :block_height], tf.float64)  # [num_blocks, height, width]
    gate_features = out_features // gates
    gate_columns = -(-gate_features // width)
    block_columns = row_of_blocks(indptr)  # [num_blocks]; the lines of indptr are columns here
    grid_rows = -(-in_features // block_height)
    grid = tf.scatter_nd(
        tf.stack([indices, block_columns], axis=1),
        blocks,
        tf.stack([grid_rows, gates * gate_columns, block_height, width]),
    )
    w = tf.transpose(grid, [0, 2, 1, 3])  # [grid_rows, height, grid_columns, width]
    w = tf.reshape(w, [grid_rows * block_height, gates, gate_columns * width])
    return tf.reshape(w[:in_features, :, :gate_features], [in_features, out_features])
