"""Product with a block-sparse matrix: `y = x W`, of which only the stored blocks of `W` are read.

```python
w = scipy.sparse.bsr_matrix(kernel, blocksize=(16, 16))  # kernel: a pruned [in, out] matrix
y = block_sparse_matmul(x, w.data, w.indices, w.indptr, out_features=kernel.shape[1])
```

The gradients are registered for the ops themselves, so that a model loaded from a SavedModel can
be trained on. Three ops are closed under differentiation: the product is linear in `x` and in
`blocks`, so the derivatives of each are again products of these three kinds.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops

ACTIVATIONS = {"linear": tf.identity, "relu": tf.nn.relu, "tanh": tf.tanh, "sigmoid": tf.sigmoid}
ORDERS = ("row", "column")
NUMBERS = (tf.float32, tf.float16, tf.bfloat16)


def block_sparse_matmul(
    x, blocks, indices, indptr, out_features, gates=1, bias=None, activation="linear", order="row", name=None
):
    """Multiplies by a block-sparse matrix.

    Computes `y[..., o] = activation(sum_i x[..., i] W[i, o] + bias[o])`, where `W` is
    `[in_features, out_features]` in block compressed sparse row format, exactly that of
    `scipy.sparse.bsr_matrix(W)`. Block `blocks[k]` of block row `i` (`indptr[i] <= k < indptr[i + 1]`)
    and block column `j = indices[k]` holds
    `W[i * height : (i + 1) * height, j * width : (j + 1) * width]`.

    Neither side of `W` needs to be a multiple of the block's. The blocks at the edge are stored in
    full; what lies outside of `W` is ignored, whatever it is, and its gradient is 0.

    Differentiable with respect to `x`, `blocks` and `bias`, any number of times.

    Sums are float32 for every dtype, and are rounded once, to the dtype of `x`. float16 and bfloat16 are what tensor
    cores of GPUs multiply; on a CPU they are converted to float32 and back, which takes longer than float32 does.

    Args:
        x: Tensor `[..., in_features]`, float32, float16 or bfloat16, of rank 1 or more.
        blocks: Tensor `[num_blocks, height, width]`, of the dtype of `x`.
        indices: Tensor `[num_blocks]`, int32. Block columns, strictly increasing within a block
            row; with `order="column"`, block rows, strictly increasing within a block column.
        indptr: Tensor `[ceil(in_features / height) + 1]`, int32. Where each block row's blocks
            start; with `order="column"`, `[gates * c + 1]`, where each block column's do.
        out_features: int. Columns of `W`.
        gates: int. `W` is this many matrices side by side, and the grid of blocks is laid on each
            of them (4 for the kernel of an LSTM). With `c = ceil(out_features / gates / width)`
            block columns a gate, block column `j` is the `j % c`-th one of gate `j // c`.
        bias: Tensor `[out_features]`, of the dtype of `x`, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        order: "row", or "column" where the blocks are sorted by block column: the product then reads
            them in one stream, and remembers nothing for each block.
        name: Optional name of the op.

    Returns:
        Tensor `[..., out_features]`, of the dtype of `x`.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if an argument has a wrong rank, or `out_features`, `gates`, `activation` or
            `order` a wrong value.
        tf.errors.InvalidArgumentError: if `indices` and `indptr` are not a pattern of `W`. In a
            graph, as a ValueError where shapes alone show it.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]])  # the only block, lower right of W
    >>> x = tf.constant([[1.0, 1.0, 1.0, 10.0]])
    >>> block_sparse_matmul(x, blocks, indices=[1], indptr=[0, 0, 1], out_features=4).numpy()
    array([[ 0.,  0., 31., 42.]], dtype=float32)
    """
    x, blocks, indices, indptr = _convert(x, blocks, indices, indptr, "block_sparse_matmul")
    bias = [] if bias is None else [tf.convert_to_tensor(bias, name="bias")]
    _check_numbers(x, ("blocks", blocks), *(("bias", b) for b in bias))
    check_features(out_features, gates)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("order", order, ORDERS)
    flat = flatten(x)  # [rows, in_features]
    y = ops().block_sparse_mat_mul(
        flat, blocks, indices, indptr, bias,
        out_features=out_features, gates=gates, order=order, activation=activation, name=name,
    )  # [rows, out_features]  # fmt: skip
    return unflatten(y, x, out_features)


def block_sparse_matmul_reference(
    x, blocks, indices, indptr, out_features, gates=1, bias=None, activation="linear", order="row", name=None
):
    """The same function as `block_sparse_matmul`, of standard TensorFlow ops.

    Plain and slow, of any floating dtype: for tests. Indices are not checked.

    Args:
        x: Tensor `[..., in_features]`, of any floating dtype.
        blocks: Tensor `[num_blocks, height, width]`, of the same dtype.
        indices: Tensor `[num_blocks]`, int32.
        indptr: Tensor `[ceil(in_features / height) + 1]`, int32; with `order="column"`, one for each
            block column.
        out_features: int. Columns of `W`.
        gates: int. Matrices that `W` is made of, side by side.
        bias: Tensor `[out_features]`, of the same dtype, or None.
        activation: "linear", "relu", "tanh" or "sigmoid".
        order: "row" or "column".
        name: Optional name of the scope.

    Returns:
        Tensor `[..., out_features]`, of the dtype of `x`.

    Raises:
        ValueError: as `block_sparse_matmul`.

    Example:

    >>> blocks = tf.constant([[[1.0, 2.0], [3.0, 4.0]]], tf.float64)
    >>> x = tf.constant([1.0, 10.0], tf.float64)
    >>> block_sparse_matmul_reference(x, blocks, [0], [0, 1], out_features=2).numpy()
    array([31., 42.])
    """
    with tf.name_scope(name or "block_sparse_matmul_reference"):
        caller = "block_sparse_matmul_reference"
        x, blocks, indices, indptr = _convert(x, blocks, indices, indptr, caller)
        check_features(out_features, gates)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("order", order, ORDERS)
        flat = flatten(x)  # [rows, in_features]
        height, width = static_or_dynamic(blocks, 1), static_or_dynamic(blocks, 2)
        block_rows, block_columns = row_of_blocks(indptr), indices  # [num_blocks]
        if order == "column":
            block_rows, block_columns = block_columns, block_rows
        grid_rows = -(-tf.shape(flat)[1] // height)
        gate_features = out_features // gates
        gate_columns = -(-gate_features // width)

        # Zero what lies outside of W first: 0 * nan would spoil the sums.
        blocks = tf.where(
            inside_matrix(block_rows, block_columns, height, width, tf.shape(flat)[1], gate_features),
            blocks,
            tf.zeros([], blocks.dtype),
        )
        x_padded = tf.pad(flat, [[0, 0], [0, grid_rows * height - tf.shape(flat)[1]]])
        x_blocks = tf.reshape(x_padded, [-1, grid_rows, height])
        x_blocks = tf.gather(tf.transpose(x_blocks, [1, 0, 2]), block_rows)  # [num_blocks, rows, h]
        products = tf.matmul(x_blocks, blocks)  # [num_blocks, rows, width]
        sums = tf.math.unsorted_segment_sum(products, block_columns, gates * gate_columns)
        sums = tf.reshape(sums, [gates, gate_columns, -1, width])
        sums = tf.transpose(sums, [2, 0, 1, 3])  # [rows, gates, gate_columns, width]
        sums = tf.reshape(sums, [tf.shape(flat)[0], gates, gate_columns * width])
        y = tf.reshape(sums[:, :, :gate_features], [tf.shape(flat)[0], out_features])
        y = y if bias is None else y + bias
        return unflatten(ACTIVATIONS[activation](y), x, out_features)


def row_of_blocks(indptr):
    """Block row of each stored block, `[num_blocks]`, from `indptr`."""
    return tf.repeat(tf.range(tf.size(indptr) - 1, dtype=indptr.dtype), indptr[1:] - indptr[:-1])


def inside_matrix(block_rows, indices, height, width, in_features, gate_features):
    """Which elements of the stored blocks lie in the matrix: bool `[num_blocks, height, width]`."""
    gate_columns = -(-gate_features // width)
    rows = block_rows[:, None] * height + tf.range(height)  # [num_blocks, height]
    columns = (indices % gate_columns)[:, None] * width + tf.range(width)  # [num_blocks, width]
    return (rows < in_features)[:, :, None] & (columns < gate_features)[:, None, :]


def _convert(x, blocks, indices, indptr, caller):
    """Tensors of the four arguments, of checked ranks."""
    x = tf.convert_to_tensor(x, name="x")
    blocks = tf.convert_to_tensor(blocks, name="blocks")
    if x.shape.rank == 0:
        raise ValueError(
            f"`{caller}` expects `x` of shape [..., in_features], got a scalar. Give a vector a "
            "shape, e.g. by `tf.reshape(x, [1, -1])`."
        )
    indices, indptr = convert_pattern(blocks, indices, indptr, caller)
    return x, blocks, indices, indptr


def convert_pattern(blocks, indices, indptr, caller):
    """Tensors of `indices` and `indptr`, after checks of all three ranks."""
    indices = convert_with_hint(indices, tf.int32, "indices")
    indptr = convert_with_hint(indptr, tf.int32, "indptr")
    for argument, tensor in (("indices", indices), ("indptr", indptr)):
        if tensor.dtype != tf.int32:
            raise TypeError(
                f"`{caller}` expects `{argument}` of dtype int32, got {tensor.dtype.name}. "
                f"Convert it once, by `np.asarray({argument}, np.int32)`."
            )
    expected = (
        ("blocks", blocks, 3, "[num_blocks, height, width]"),
        ("indices", indices, 1, "[num_blocks]"),
        ("indptr", indptr, 1, "[block_rows + 1]"),
    )
    for argument, tensor, rank, shape in expected:
        if tensor.shape.rank not in (None, rank):
            raise ValueError(
                f"`{caller}` expects `{argument}` of shape {shape}, got shape {tensor.shape}. "
                "`scipy.sparse.bsr_matrix` has all three, as `data`, `indices` and `indptr`."
            )
    return indices, indptr


def convert_with_hint(values, dtype, name):
    """Tensor of `values`. A dtype that they have is kept: a cast in every call would be slow."""
    hint = None if hasattr(values, "dtype") else dtype  # of [], above all
    return tf.convert_to_tensor(values, dtype_hint=hint, name=name)


def _check_numbers(x, *others):
    """Refuses dtypes that the kernels do not have, and a mixture of dtypes."""
    if x.dtype not in NUMBERS:
        raise TypeError(
            f"`block_sparse_matmul` expects `x` of dtype float32, float16 or bfloat16, got {x.dtype.name}. Convert "
            "it, by `tf.cast(x, tf.float32)`, or use `block_sparse_matmul_reference`."
        )
    for argument, tensor in others:
        if tensor.dtype != x.dtype:
            raise TypeError(
                f"`block_sparse_matmul` expects `{argument}` of dtype {x.dtype.name}, which is that of `x`, got "
                f"{tensor.dtype.name}. Convert it, by `tf.cast({argument}, x.dtype)`."
            )


def check_float32(argument, tensor, caller):
    """Refuses other dtypes, which the kernels do not have."""
    if tensor.dtype != tf.float32:
        raise TypeError(
            f"`{caller}` expects `{argument}` of dtype float32, got {tensor.dtype.name}. Convert "
            f"it, by `tf.cast({argument}, tf.float32)`, or use `{caller}_reference`."
        )


def check_sizes(**sizes):
    """Refuses sizes that no matrix has."""
    for argument, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{argument}` must be a positive int, got {value!r}.")


def check_features(out_features, gates):
    """Refuses columns that are no whole number of gates."""
    check_sizes(out_features=out_features, gates=gates)
    if out_features % gates:
        raise ValueError(
            f"`out_features` must be a multiple of `gates`, the number of matrices side by side, "
            f"got out_features={out_features} and gates={gates}."
        )


def check_choice(argument, value, choices):
    """Refuses a word that means nothing here."""
    if value not in choices:
        raise ValueError(f"`{argument}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def static_or_dynamic(tensor, axis):
    """Size of a dimension: an int if it is known, else a scalar tensor."""
    return tensor.shape[axis] if tensor.shape[axis] is not None else tf.shape(tensor)[axis]


def flatten(x):
    """`x` as a matrix `[rows, features]`; static sizes are kept."""
    if x.shape.rank == 2:
        return x
    if x.shape.rank is None:
        return tf.reshape(x, [-1, tf.shape(x)[-1]])
    features = static_or_dynamic(x, -1)
    rows = x.shape[:-1].num_elements()
    # Not -1 if it can be helped: with no features at all it cannot be found out.
    rows = tf.reduce_prod(tf.shape(x)[:-1]) if rows is None else rows
    return tf.reshape(x, [rows, features])


def unflatten(y, x, features):
    """`y` `[rows, features]` with the leading dimensions of `x`; static sizes are kept."""
    if x.shape.rank == 2:
        return y
    if x.shape.rank is not None and x.shape[:-1].is_fully_defined():
        return tf.reshape(y, [*x.shape[:-1], features])
    y = tf.reshape(y, tf.concat([tf.shape(x)[:-1], [features]], axis=0))
    return tf.ensure_shape(y, x.shape[:-1].concatenate(features))


def of_output(activation, y, dy):
    """Gradient of what an activation was applied to, from its result `y`; of standard, differentiable ops."""
    if activation == "relu":
        return tf.raw_ops.ReluGrad(gradients=dy, features=y)
    if activation == "tanh":
        return tf.raw_ops.TanhGrad(y=y, dy=dy)
    if activation == "sigmoid":
        return tf.raw_ops.SigmoidGrad(y=y, dy=dy)
    return dy


def _layout(op):
    """The attributes that all products of one matrix share."""
    return {name: op.get_attr(name) for name in ("out_features", "gates")} | {"order": op.get_attr("order").decode()}


@tf.RegisterGradient("BlockSparse>MatMul")
def _matmul_grad(op, dy):
    """Gradient of `y = activation(x W + bias)`."""
    x, blocks, indices, indptr, *bias = op.inputs
    layout = _layout(op)
    dz = of_output(op.get_attr("activation").decode(), op.outputs[0], dy)
    dx = ops().block_sparse_mat_mul_grad_x(dz, x, blocks, indices, indptr, **layout)
    dblocks = ops().block_sparse_mat_mul_grad_blocks(x, dz, blocks, indices, indptr, **layout)
    return dx, dblocks, None, None, *(_sum_of_rows(dz) for _ in bias)


def _sum_of_rows(dz):
    """The gradient of a bias, summed in float32."""
    return tf.cast(tf.reduce_sum(tf.cast(dz, tf.float32), axis=0), dz.dtype)


@tf.RegisterGradient("BlockSparse>MatMulGradX")
def _matmul_grad_x_grad(op, ddx):
    """Gradient of `dx = dy W^T`, whose own gradient with respect to `dy` is `ddx W`."""
    dy, _, blocks, indices, indptr = op.inputs
    layout = _layout(op)
    ddy = ops().block_sparse_mat_mul(ddx, blocks, indices, indptr, [], **layout)
    dblocks = ops().block_sparse_mat_mul_grad_blocks(ddx, dy, blocks, indices, indptr, **layout)
    return ddy, None, dblocks, None, None


@tf.RegisterGradient("BlockSparse>MatMulGradBlocks")
def _matmul_grad_blocks_grad(op, ddblocks):
    """Gradient of the blocks' gradient, which is linear in `x` and in `dy`."""
    x, dy, _, indices, indptr = op.inputs
    layout = _layout(op)
    dx = ops().block_sparse_mat_mul_grad_x(dy, x, ddblocks, indices, indptr, **layout)
    ddy = ops().block_sparse_mat_mul(x, ddblocks, indices, indptr, [], **layout)
    return dx, ddy, None, None, None
