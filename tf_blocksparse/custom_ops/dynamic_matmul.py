"""Product with a matrix of which every example uses the blocks that it has chosen; the rest is not even read.

```python
block_ids, block_gates = choose(x)  # [batch, k]: which blocks, and what each is multiplied by
y = dynamic_block_matmul(x, blocks, block_ids, block_gates, in_features=1536, out_features=6144)
```

All blocks of the grid are stored, in full: block `i * c + j` is that of grid row i and grid column j, with c grid
columns. The product is that of *Block-wise Dynamic Sparseness* (Hadifar, Deleu, Develder, Demeester, 2020), section 3,
`y = (G o W) x + b` with a matrix `G` of block gates for each example.

The gradients are registered for the ops themselves, so that a model loaded from a SavedModel can be trained on. The
product is linear in `x`, in the blocks and in the block gates: the derivatives of the three ops are again these ops.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import (
    ACTIVATIONS,
    check_choice,
    check_float32,
    check_sizes,
    convert_with_hint,
    flatten,
    of_output,
    static_or_dynamic,
    unflatten,
)


def dynamic_block_matmul(
    x, blocks, block_ids, block_gates, in_features, out_features, bias=None, activation="linear", name=None
):
    """Multiplies each example by the blocks that it has chosen.

    Computes `y[e] = activation(sum_k block_gates[e, k] * x[e, rows of block] B + bias)`, `B` the block
    `blocks[block_ids[e, k]]`. Only blocks that some example wants are read, each once for all of them. A block gate
    that is exactly zero is as good as none: its block is neither read nor multiplied, whatever it holds.

    The grid lies on `W` `[in_features, out_features]`, neither side of which needs to be a multiple of the block's.
    Blocks at the edge are stored in full; what lies outside of `W` is ignored, whatever it is, and its gradient is 0.

    Sums run over the rows of a block, then over the blocks of a grid column by rising grid row: the result of an
    example depends neither on the order of its blocks, nor on the other examples, nor on the number of threads.

    Differentiable with respect to `x`, `blocks`, `block_gates` and `bias`, any number of times.

    Args:
        x: Tensor `[..., in_features]`, float32, of rank 1 or more.
        blocks: Tensor `[r * c, height, width]`, float32, with `r = ceil(in_features / height)` and
            `c = ceil(out_features / width)`.
        block_ids: Tensor `[..., k]`, int32, with the leading dimensions of `x`, in any order. One that comes twice
            counts twice.
        block_gates: Tensor `[..., k]`, float32.
        in_features: int. Rows of `W`.
        out_features: int. Columns of `W`.
        bias: Tensor `[out_features]`, float32, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        name: Optional name of the op.

    Returns:
        Tensor `[..., out_features]`, float32.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if an argument has a wrong rank, or `in_features`, `out_features` or `activation` a wrong value.
        tf.errors.InvalidArgumentError: if a block id is not of the grid, or the tensors do not fit each other. In a
            graph, as a ValueError where shapes alone show it.

    Example:

    >>> blocks = tf.constant([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])  # W is [[1, 2], [3, 4]]
    >>> x = tf.constant([[1.0, 10.0], [1.0, 10.0]])
    >>> block_ids, block_gates = tf.constant([[0, 3], [2, 1]]), tf.constant([[1.0, 1.0], [0.5, 0.0]])
    >>> dynamic_block_matmul(x, blocks, block_ids, block_gates, in_features=2, out_features=2).numpy()
    array([[ 1., 40.],
           [15.,  0.]], dtype=float32)
    """
    caller = "dynamic_block_matmul"
    x, blocks, block_ids, block_gates = convert_choices(x, blocks, block_ids, block_gates, caller)
    bias = [] if bias is None else [tf.convert_to_tensor(bias, name="bias")]
    floats = {"x": x, "blocks": blocks, "block_gates": block_gates} | dict.fromkeys(["bias"][: len(bias)], *bias)
    for argument, tensor in floats.items():
        check_float32(argument, tensor, caller)
    check_sizes(in_features=in_features, out_features=out_features)
    check_choice("activation", activation, ACTIVATIONS)
    y = ops().block_sparse_dynamic_mat_mul(
        flatten(x), blocks, flatten(block_ids), flatten(block_gates), bias,
        in_features=in_features, out_features=out_features, activation=activation, name=name,
    )  # [batch, out_features]  # fmt: skip
    return unflatten(y, x, out_features)


def dynamic_block_matmul_reference(
    x, blocks, block_ids, block_gates, in_features, out_features, bias=None, activation="linear", name=None
):
    """The same function as `dynamic_block_matmul`, of standard TensorFlow ops.

    Needs no library of ops and takes any floating dtype: for tests, and for graphs that have to run where the ops are
    not. It multiplies every block, wanted or not: at least the cost of a dense product, whatever the sparsity. Needs
    memory for `r` results, `[r, batch, out_features]`, and a copy of the blocks where they are ragged. Not every
    device refuses a block id that is not of the grid.

    Args:
        x: Tensor `[..., in_features]`, of any floating dtype.
        blocks: Tensor `[r * c, height, width]`, of the same dtype.
        block_ids: Tensor `[..., k]`, int32.
        block_gates: Tensor `[..., k]`, of the same dtype.
        in_features: int. Rows of `W`.
        out_features: int. Columns of `W`.
        bias: Tensor `[out_features]`, of the same dtype, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, of the dtype of `x`.

    Raises:
        TypeError: if `block_ids` has another dtype.
        ValueError: as `dynamic_block_matmul`.

    Example:

    >>> blocks = tf.constant([[[1.0]], [[2.0]]], tf.float64)
    >>> gates = tf.constant([0.5], tf.float64)
    >>> x = tf.constant([10.0], tf.float64)
    >>> dynamic_block_matmul_reference(x, blocks, [1], gates, in_features=1, out_features=2).numpy()
    array([ 0., 10.])
    """
    with tf.name_scope(name or "dynamic_block_matmul_reference"):
        caller = "dynamic_block_matmul_reference"
        x, blocks, block_ids, block_gates = convert_choices(x, blocks, block_ids, block_gates, caller)
        check_sizes(in_features=in_features, out_features=out_features)
        check_choice("activation", activation, ACTIVATIONS)
        height, width = static_or_dynamic(blocks, 1), static_or_dynamic(blocks, 2)
        rows, columns = -(-in_features // height), -(-out_features // width)
        blocks = tf.reshape(_inside(blocks, rows, columns, in_features, out_features), [rows, columns, height, width])
        x_rows = _by_row(flatten(x), rows, height)  # [rows, 1, batch, height]
        products = tf.matmul(x_rows, blocks)  # [rows, columns, batch, width]
        gates = _dense_gates(flatten(block_ids), flatten(block_gates), rows, columns)  # [rows, columns, batch, 1]
        # A product that is not wanted may be anything: 0 * inf would spoil the sums.
        y = tf.reduce_sum(tf.math.multiply_no_nan(products, gates), axis=0)  # [columns, batch, width]
        y = tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, columns * width])[:, :out_features]
        y = y if bias is None else y + bias
        return unflatten(ACTIVATIONS[activation](y), x, out_features)


def _inside(blocks, rows, columns, in_features, out_features):
    """`blocks` with zeros outside of the matrix; as they are where none is ragged."""
    height, width = static_or_dynamic(blocks, 1), static_or_dynamic(blocks, 2)
    if isinstance(height, int) and isinstance(width, int) and not in_features % height and not out_features % width:
        return blocks
    real_rows = tf.reshape(tf.range(rows * height) < in_features, [rows, 1, height, 1])
    real_columns = tf.reshape(tf.range(columns * width) < out_features, [1, columns, 1, width])
    inside = tf.reshape(real_rows & real_columns, [rows * columns, height, width])
    return tf.where(inside, blocks, tf.zeros([], blocks.dtype))


def _by_row(x, rows, height):
    """`x` `[batch, in_features]` as what each grid row multiplies, `[rows, 1, batch, height]`."""
    x = tf.pad(x, [[0, 0], [0, rows * height - tf.shape(x)[1]]])
    return tf.transpose(tf.reshape(x, [-1, rows, 1, height]), [1, 2, 0, 3])


def _dense_gates(block_ids, block_gates, rows, columns):
    """The block gates of all blocks, zero of those that are not wanted: `[rows, columns, batch, 1]`."""
    batch = tf.shape(block_ids)[0]
    examples = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(block_ids))  # [batch, k]
    places = tf.stack([block_ids, examples], axis=-1)
    gates = tf.scatter_nd(places, block_gates, [rows * columns, batch])
    return tf.reshape(gates, [rows, columns, batch, 1])


def convert_choices(x, blocks, block_ids, block_gates, caller):
    """Tensors of the four arguments, of checked ranks."""
    x = tf.convert_to_tensor(x, name="x")
    blocks = tf.convert_to_tensor(blocks, name="blocks")
    block_ids = convert_with_hint(block_ids, tf.int32, "block_ids")
    block_gates = convert_with_hint(block_gates, x.dtype, "block_gates")
    if block_ids.dtype != tf.int32:
        raise TypeError(
            f"`{caller}` expects `block_ids` of dtype int32, got {block_ids.dtype.name}. Convert them, by "
            "`tf.cast(block_ids, tf.int32)`."
        )
    if blocks.shape.rank not in (None, 3):
        raise ValueError(f"`{caller}` expects `blocks` of shape [r * c, height, width], got shape {blocks.shape}.")
    for argument, tensor, last in (("x", x, "in_features"), ("block_ids", block_ids, "k")):
        if tensor.shape.rank == 0:
            raise ValueError(f"`{caller}` expects `{argument}` of shape [..., {last}], got a scalar.")
    if not block_ids.shape.is_compatible_with(block_gates.shape):
        raise ValueError(
            f"`{caller}` expects `block_ids` and `block_gates` of the same shape [..., k], got shapes "
            f"{block_ids.shape} and {block_gates.shape}."
        )
    if None not in (x.shape.rank, block_ids.shape.rank):
        if not x.shape[:-1].is_compatible_with(block_ids.shape[:-1]):
            raise ValueError(
                f"`{caller}` expects `x` of shape [..., in_features] and `block_ids` of shape [..., k] with the same "
                f"leading dimensions, got shapes {x.shape} and {block_ids.shape}."
            )
    return x, blocks, block_ids, block_gates


def _sizes(op):
    """The attributes that all ops of one matrix share."""
    return {name: op.get_attr(name) for name in ("in_features", "out_features")}


@tf.RegisterGradient("BlockSparse>DynamicMatMul")
def _dynamic_matmul_grad(op, dy):
    """Gradient of `y = activation(sum of gated products + bias)`."""
    x, blocks, block_ids, block_gates, *bias = op.inputs
    dz = of_output(op.get_attr("activation").decode(), op.outputs[0], dy)
    dx, dgates = ops().block_sparse_dynamic_mat_mul_grad_inputs(dz, x, blocks, block_ids, block_gates, **_sizes(op))
    dblocks = ops().block_sparse_dynamic_mat_mul_grad_blocks(x, dz, blocks, block_ids, block_gates, **_sizes(op))
    return dx, dblocks, None, dgates, *(tf.reduce_sum(dz, axis=0) for _ in bias)


@tf.RegisterGradient("BlockSparse>DynamicMatMulGradInputs")
def _grad_inputs_grad(op, ddx, ddgates):
    """Gradient of `dx = gates * B dy` and `dgates = x B dy`, which are linear in all four."""
    dy, x, blocks, block_ids, block_gates = op.inputs
    sizes = _sizes(op)
    product = ops().block_sparse_dynamic_mat_mul
    grad_blocks = ops().block_sparse_dynamic_mat_mul_grad_blocks
    ddy = product(ddx, blocks, block_ids, block_gates, [], **sizes)
    ddy += product(x, blocks, block_ids, ddgates, [], **sizes)
    dblocks = grad_blocks(ddx, dy, blocks, block_ids, block_gates, **sizes)
    dblocks += grad_blocks(x, dy, blocks, block_ids, ddgates, **sizes)
    # Of x through dgates, and of the gates through dx: with their cotangents in each other's places.
    grad_inputs = ops().block_sparse_dynamic_mat_mul_grad_inputs
    dx, dgates = grad_inputs(dy, ddx, blocks, block_ids, ddgates, **sizes)
    return ddy, dx, dblocks, None, dgates


@tf.RegisterGradient("BlockSparse>DynamicMatMulGradBlocks")
def _grad_blocks_grad(op, ddblocks):
    """Gradient of `dblocks = (gates * x)^T dy`."""
    x, dy, _, block_ids, block_gates = op.inputs
    sizes = _sizes(op)
    grad_inputs = ops().block_sparse_dynamic_mat_mul_grad_inputs
    dx, dgates = grad_inputs(dy, x, ddblocks, block_ids, block_gates, **sizes)
    ddy = ops().block_sparse_dynamic_mat_mul(x, ddblocks, block_ids, block_gates, [], **sizes)
    return dx, ddy, None, None, dgates
