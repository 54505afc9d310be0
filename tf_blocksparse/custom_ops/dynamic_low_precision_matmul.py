"""Product with chosen blocks that are stored as bfloat16 or int8, for inference.

`tf_blocksparse.quantize.quantize_grid` makes the stored blocks and the scales from float32 blocks.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.dynamic_matmul import convert_choices, dynamic_block_matmul_reference
from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import (
    ACTIVATIONS,
    check_choice,
    check_float32,
    check_sizes,
    convert_with_hint,
    flatten,
    unflatten,
)


def dynamic_block_matmul_low_precision(
    x, blocks, scales, block_ids, block_gates, in_features, out_features, bias=None, activation="linear", name=None
):
    """Multiplies each example by the bfloat16 or int8 blocks that it has chosen.

    The same as `dynamic_block_matmul` with blocks that take a half or a quarter of the bytes: they are widened to
    float32 when they are read, and sums are float32. An element of an int8 block k stands for `blocks[k] * scales[k]`.

    Not differentiable.

    Args:
        x: Tensor `[..., in_features]`, float32, of rank 1 or more.
        blocks: Tensor `[r * c, height, width]`, bfloat16 or int8.
        scales: Tensor `[r * c]`, float32, for int8; `[0]` (or `[]`) for bfloat16.
        block_ids: Tensor `[..., k]`, int32.
        block_gates: Tensor `[..., k]`, float32.
        in_features: int. Rows of the matrix.
        out_features: int. Columns of the matrix.
        bias: Tensor `[out_features]`, float32, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        name: Optional name of the op.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: as `dynamic_block_matmul`.
        tf.errors.InvalidArgumentError: as `dynamic_block_matmul`, and if the scales do not fit the blocks.

    Example:

    >>> blocks = tf.constant([[[1]], [[2]]], tf.int8)
    >>> dynamic_block_matmul_low_precision(
    ...     tf.constant([[10.0]]), blocks, [0.5, 0.25], [[1]], [[2.0]], in_features=1, out_features=2
    ... ).numpy()
    array([[ 0., 10.]], dtype=float32)
    """
    caller = "dynamic_block_matmul_low_precision"
    x, blocks, scales, block_ids, block_gates, bias = _checked(
        x, blocks, scales, block_ids, block_gates, bias, activation, caller
    )
    check_sizes(in_features=in_features, out_features=out_features)
    y = ops().block_sparse_dynamic_low_precision_mat_mul(
        flatten(x), blocks, flatten(block_ids), flatten(block_gates), scales, bias,
        in_features=in_features, out_features=out_features, activation=activation, name=name,
    )  # [batch, out_features]  # fmt: skip
    return unflatten(y, x, out_features)


def dynamic_block_matmul_low_precision_reference(
    x, blocks, scales, block_ids, block_gates, in_features, out_features, bias=None, activation="linear", name=None
):
    """The same function as `dynamic_block_matmul_low_precision`, of standard TensorFlow ops.

    Widens all blocks: for tests, and for graphs that have to run where the ops are not.

    Args:
        x: Tensor `[..., in_features]`, float32.
        blocks: Tensor `[r * c, height, width]`, bfloat16 or int8.
        scales: Tensor `[r * c]`, or `[0]` for bfloat16.
        block_ids: Tensor `[..., k]`, int32.
        block_gates: Tensor `[..., k]`, float32.
        in_features: int. Rows of the matrix.
        out_features: int. Columns of the matrix.
        bias: Tensor `[out_features]`, float32, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: as `dynamic_block_matmul_low_precision`.
        ValueError: as `dynamic_block_matmul_low_precision`.
    """
    caller = "dynamic_block_matmul_low_precision_reference"
    with tf.name_scope(name or caller):
        x, blocks, scales, block_ids, block_gates, bias = _checked(
            x, blocks, scales, block_ids, block_gates, bias, activation, caller
        )
        wide = tf.cast(blocks, tf.float32)
        if blocks.dtype == tf.int8:
            wide *= scales[:, None, None]
        bias = bias[0] if bias else None
        return dynamic_block_matmul_reference(
            x, wide, block_ids, block_gates, in_features, out_features, bias=bias, activation=activation
        )


def _checked(x, blocks, scales, block_ids, block_gates, bias, activation, caller):
    """Tensors of all arguments, of checked dtypes and ranks; the bias as a list of one or none."""
    x, blocks, block_ids, block_gates = convert_choices(x, blocks, block_ids, block_gates, caller)
    scales = convert_with_hint(scales, tf.float32, "scales")
    bias = [] if bias is None else [tf.convert_to_tensor(bias, name="bias")]
    floats = [("x", x), ("block_gates", block_gates), ("scales", scales), *(("bias", b) for b in bias)]
    for argument, tensor in floats:
        check_float32(argument, tensor, caller)
    if blocks.dtype not in (tf.bfloat16, tf.int8):
        raise TypeError(f"`{caller}` expects `blocks` of dtype bfloat16 or int8, got {blocks.dtype.name}.")
    if scales.shape.rank not in (None, 1):
        raise ValueError(
            f"`{caller}` expects `scales` of shape [r * c] (int8) or [0] (bfloat16), got shape {scales.shape}."
        )
    check_choice("activation", activation, ACTIVATIONS)
    return x, blocks, scales, block_ids, block_gates, bias


@tf.RegisterGradient("BlockSparse>DynamicLowPrecisionMatMul")
def _no_gradient(op, dy):
    """Rounded blocks have none."""
    del op, dy
    raise NotImplementedError(
        "BlockSparse>DynamicLowPrecisionMatMul has no gradient: bfloat16 and int8 blocks are for inference only. Train "
        "with float32 blocks and round them again, or call `tf.stop_gradient` on the output."
    )
