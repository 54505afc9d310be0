"""`y = (G o W) x`: products with a matrix whose blocks each example multiplies by gates of its own ([BDS] Equation 1).

`dynamic_product()` computes all blocks, for training, in one of two equivalent forms; `chosen_blocks_product()`
multiplies only the blocks that an example has chosen, and wants the matrix stored block by block.

No form makes a matrix `G o W` for each example. The gradients are written out: the scaled copies of inputs or outputs
are made anew for them, one block row or column at a time, so memory does not grow with the number of blocks. Left to
TensorFlow, the gradient of each slice is padded to the whole matrix, which takes 2 to 15 times as long.
"""

import tensorflow as tf
from keras import ops

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.custom_ops.implementation import active

# Scaling outputs makes a product for each block row and, in the gradient, one product more than scaling inputs,
# which makes one for each block column. Measured against the product without gates, forward and gradient, 128x128
# blocks: at (1536, 6144) with 20 rows 1.6 against 1.9 times, at (512, 1536) with 2100 rows 1.7 against 1.5 times,
# at (1024, 1024) with 128 rows alike.
_MANY_COLUMNS = 4  # times as many block columns as block rows


def dynamic_product(x, kernel, gates, grid, form=None):
    """`y[n, o] = sum_i gates[n, block of (i, o)] x[n, i] kernel[i, o]`, with all blocks computed.

    Differentiable in `x`, `kernel` and `gates`.

    Args:
        x: `[rows, in]`.
        kernel: `[in, out]`, of the dtype of `x`.
        gates: `[rows, grid rows, grid cols]`, of the dtype of `x`.
        grid: the `BlockGrid` of the kernel.
        form: `scaled_inputs_product` or `scaled_outputs_product`. None: the one for the shape.

    Returns:
        `[rows, out]`.
    """
    if form is None:
        form = scaled_outputs_product if grid.cols >= _MANY_COLUMNS * grid.rows else scaled_inputs_product
    height, width = grid.block_shape
    whole = BlockGrid((grid.rows * height, grid.cols * width), grid.block_shape, grid.gates)
    if whole == grid:
        return form(x, kernel, gates, grid)
    # Made once, a copy with whole blocks costs less than edges in every step of the loop.
    below, right = whole.shape[0] - grid.shape[0], whole.gate_width - grid.gate_width
    kernel = ops.reshape(kernel, (grid.shape[0], grid.gates, grid.gate_width))
    kernel = ops.reshape(ops.pad(kernel, [[0, below], [0, 0], [0, right]]), whole.shape)
    y = form(ops.pad(x, [[0, 0], [0, below]]), kernel, gates, whole)
    y = ops.reshape(y, (-1, grid.gates, whole.gate_width))
    return ops.reshape(y[:, :, : grid.gate_width], (-1, grid.shape[1]))


def scaled_inputs_product(x, kernel, gates, grid):
    """`dynamic_product()` with a product for each block column, of inputs scaled by the gates of that column.

    The grid has whole blocks only.
    """
    columns = _slices(grid.cols, grid.block_shape[1])

    @ops.custom_gradient
    def product(x, kernel, gates):
        def gradient(dy):
            dx, d_kernel, d_gates = 0.0, [], []
            for j, c in enumerate(columns):
                with _after(dx, d_kernel):
                    d_scaled = ops.matmul(dy[:, c], ops.transpose(kernel[:, c]))  # [rows, in]
                    dx += _scale_inputs(d_scaled, gates[:, :, j], grid)
                    d_gates.append(_sum_over_inputs(x * d_scaled, grid))
                    d_kernel.append(ops.matmul(ops.transpose(_scale_inputs(x, gates[:, :, j], grid)), dy[:, c]))
            return dx, ops.concatenate(d_kernel, axis=1), ops.stack(d_gates, axis=2)

        x_, kernel_, gates_ = map(ops.stop_gradient, (x, kernel, gates))  # outside of a graph a tape would keep all
        y = []
        for j, c in enumerate(columns):
            with _after(y):
                y.append(ops.matmul(_scale_inputs(x_, gates_[:, :, j], grid), kernel_[:, c]))
        return ops.concatenate(y, axis=1), gradient

    return product(x, kernel, gates)


def scaled_outputs_product(x, kernel, gates, grid):
    """`dynamic_product()` with a product for each block row, whose outputs are scaled by the gates of that row.

    The grid has whole blocks only.
    """
    rows = _slices(grid.rows, grid.block_shape[0])

    @ops.custom_gradient
    def product(x, kernel, gates):
        def gradient(dy):
            dx, d_kernel, d_gates = [], [], []
            for i, r in enumerate(rows):
                with _after(dx, d_kernel, d_gates):
                    d_product = _scale_outputs(dy, gates[:, i], grid)  # [rows, out]
                    dx.append(ops.matmul(d_product, ops.transpose(kernel[r])))
                    d_kernel.append(ops.matmul(ops.transpose(x[:, r]), d_product))
                    d_gates.append(_sum_over_outputs(dy * ops.matmul(x[:, r], kernel[r]), grid))
            return ops.concatenate(dx, axis=1), ops.concatenate(d_kernel, axis=0), ops.stack(d_gates, axis=1)

        x_, kernel_, gates_ = map(ops.stop_gradient, (x, kernel, gates))
        y = 0.0
        for i, r in enumerate(rows):
            with _after(y):
                y += _scale_outputs(ops.matmul(x_[:, r], kernel_[r]), gates_[:, i], grid)
        return y, gradient

    return product(x, kernel, gates)


def chosen_blocks_product(x, stored, block_ids, block_gates, grid, bias=None, activation="linear"):
    """`activation(y + bias)`, y the product of each example with the blocks it has chosen; no other block is read.

    Args:
        x: `[rows, in]`, float32.
        stored: `(blocks, scales)`: blocks `[grid blocks, height, width]`, of which block `i * grid.cols + j` is that of
            row i and column j, float32 with scales None; or bfloat16 or int8 with scales as
            `dynamic_block_matmul_low_precision` takes them.
        block_ids: `[rows, k]`, int32, different in each row.
        block_gates: `[rows, k]`, float32; a block whose gate is zero is skipped.
        grid: the `BlockGrid` of the matrix.
        bias: `[out]`, float32, or None.
        activation: `"linear"`, `"relu"` or `"tanh"`.

    Returns:
        `[rows, out]`, float32.
    """
    width, (in_features, out_features) = grid.block_shape[1], grid.shape
    right = grid.gate_cols * width - grid.gate_width
    choices = (block_ids, block_gates)
    if grid.gates == 1 or not right:
        return _product(x, stored, choices, in_features, out_features, bias, activation)
    # The op knows no edges inside of a matrix: every gate gets whole blocks, and what is too much is cut off again.
    if bias is not None:
        bias = ops.pad(ops.reshape(bias, (grid.gates, grid.gate_width)), [[0, 0], [0, right]])
        bias = ops.reshape(bias, (-1,))
    y = _product(x, stored, choices, in_features, grid.cols * width, bias, activation)
    y = ops.reshape(y, (-1, grid.gates, grid.gate_cols * width))
    return ops.reshape(y[:, :, : grid.gate_width], (-1, out_features))


def _product(x, stored, choices, in_features, out_features, bias, activation):
    """The op for blocks that are stored so."""
    blocks, scales = stored
    sizes = {"in_features": in_features, "out_features": out_features, "bias": bias, "activation": activation}
    if scales is None:
        return active().dynamic_matmul(x, blocks, *choices, **sizes)
    return active().dynamic_matmul_low_precision(x, blocks, scales, *choices, **sizes)


def _after(*results):
    """Whatever is made in this context waits, in a graph, for the given tensors; of a list for the last.

    Else all scaled copies may be made at once, or kept from the product to its gradient, where they are made again.
    """
    lasts = [r[-1:] if isinstance(r, list) else [r] for r in results if not isinstance(r, float)]
    return tf.control_dependencies([tensor for last in lasts for tensor in last])


def _slices(count, size):
    """`count` slices of `size`, one after another."""
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def _scale_inputs(x, gates, grid):
    """Multiplies `x` `[rows, in]` by one gate for each block row: `gates` `[rows, grid rows]`."""
    blocks = ops.reshape(x, (-1, grid.rows, grid.block_shape[0]))
    return ops.reshape(blocks * ops.expand_dims(gates, 2), (-1, grid.shape[0]))


def _scale_outputs(y, gates, grid):
    """Multiplies `y` `[rows, out]` by one gate for each block column: `gates` `[rows, grid cols]`."""
    blocks = ops.reshape(y, (-1, grid.cols, grid.block_shape[1]))
    return ops.reshape(blocks * ops.expand_dims(gates, 2), (-1, grid.shape[1]))


def _sum_over_inputs(x, grid):
    """Sums `x` `[rows, in]` over each block row: `[rows, grid rows]`."""
    return ops.sum(ops.reshape(x, (-1, grid.rows, grid.block_shape[0])), axis=2)


def _sum_over_outputs(y, grid):
    """Sums `y` `[rows, out]` over each block column: `[rows, grid cols]`."""
    return ops.sum(ops.reshape(y, (-1, grid.cols, grid.block_shape[1])), axis=2)
