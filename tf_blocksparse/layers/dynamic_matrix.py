"""The weight that every dynamic layer has: a matrix, and the gate that chooses its blocks for each example."""

import keras
from keras import ops

from tf_blocksparse.layers.block_gate import BlockGate
from tf_blocksparse.layers.block_sparse_weight import elementwise_problem
from tf_blocksparse.layers.dynamic_product import chosen_blocks_product, dynamic_product
from tf_blocksparse.layers.softmax_block_gate import SoftmaxBlockGate

STORAGES = ("matrix", "blocks")
GATES = ("top_k", "softmax")
_ACTIVATIONS = {"linear": keras.activations.linear, "relu": keras.activations.relu, "tanh": keras.activations.tanh}


class DynamicMatrix:
    """A trainable matrix of a Keras layer that each example is multiplied with in other blocks.

    Makes one weight of the layer, named `name`: with the storage `"matrix"`, for training, `[in, out]`; with
    `"blocks"`, for inference, `[grid rows * grid cols, height, width]`, each block contiguous, edge blocks in full.

    Args:
        layer: the `keras.layers.Layer` that owns the weight, with an attribute `storage`.
        name: name of the weight.
        grid: the `BlockGrid` of the matrix.
        gate: a `BlockGate` of that grid, an attribute of the layer, built.
        initializer: of the whole matrix.
        regularizer, constraint: None, or as of a Keras layer; with storage in blocks those that act on each element
            alone.

    Attributes:
        variable: the weight.
        name, grid, gate: as given.
    """

    def __init__(self, layer, name, grid, gate, initializer, regularizer, constraint):
        self.name = name
        self.grid = grid
        self.gate = gate
        self.storage = layer.storage
        problem = None if self.storage == "matrix" else elementwise_problem(constraint, regularizer)
        if problem:
            raise ValueError(
                f"The {name} of a layer with storage='blocks' takes the constraint NonNeg and the regularizers L1 and "
                f"L2, which act on each element alone. Received: {problem}, which needs the whole matrix."
            )

        self.variable = self._add_values(layer, initializer, regularizer, constraint)

    def matmul(self, x, bias=None, activation="linear", training=False):
        """`activation(x (G o W) + bias)` for `x` `[..., in]`: `[..., out]`, in the dtype of `x`.

        Args:
            x: the input, of which the gate is computed as well.
            bias: `[out]`, or None.
            activation: `"linear"`, `"relu"` or `"tanh"`.
            training: bool.
        """
        rows = ops.reshape(x, (-1, self.grid.shape[0]))
        if self.storage == "blocks" and not (training and isinstance(self.gate, SoftmaxBlockGate)):
            y = self._chosen_blocks(rows, bias, activation)
        else:
            y = self._all_blocks(rows, bias, activation, training)
        return ops.reshape(ops.cast(y, x.dtype), (*ops.shape(x)[:-1], self.grid.shape[1]))

    def to_matrix(self):
        """The present values, `[in, out]`, as a tensor."""
        value = ops.convert_to_tensor(self.variable)
        return value if self.storage == "matrix" else from_stored_blocks(self.grid, value)

    def assign(self, w):
        """Takes the values of the matrix `w` `[in, out]`."""
        self.variable.assign(w if self.storage == "matrix" else to_stored_blocks(self.grid, w))

    def _add_values(self, layer, initializer, regularizer, constraint):
        """Makes the weight of the layer."""
        is_matrix = self.storage == "matrix"

        def cut_out(shape, dtype=None):
            return to_stored_blocks(self.grid, initializer(self.grid.shape, dtype=dtype))

        return layer.add_weight(
            shape=self.grid.shape if is_matrix else (self.grid.num_blocks, *self.grid.block_shape),
            initializer=initializer if is_matrix else cut_out,
            autocast=is_matrix,  # the op computes in float32 whatever the layer's policy
            regularizer=regularizer,
            constraint=constraint,
            name=self.name,
        )

    def stored(self):
        """`(blocks, scales)` as `chosen_blocks_product` takes them."""
        return ops.convert_to_tensor(self.variable), None

    def _chosen_blocks(self, rows, bias, activation):
        block_ids, block_gates = self.gate.choose(rows)
        bias = None if bias is None else ops.cast(bias, "float32")
        rows = ops.cast(rows, "float32")
        return chosen_blocks_product(rows, self.stored(), block_ids, block_gates, self.grid, bias, activation)

    def _all_blocks(self, rows, bias, activation, training):
        gates = ops.cast(self.gate(rows, training=training), rows.dtype)
        y = dynamic_product(rows, ops.cast(self.to_matrix(), rows.dtype), gates, self.grid)
        return _ACTIVATIONS[activation](y if bias is None else y + ops.cast(bias, y.dtype))


def make_gate(layer, grid, name, gate_inputs=None):
    """The gate of a matrix of a dynamic layer, from the layer's own arguments; built.

    Args:
        layer: layer or cell with the attributes that `set_dynamic_arguments()` sets.
        grid: the `BlockGrid` of the matrix.
        name: of the gate.
        gate_inputs: in place of the layer's, or None.
    """
    settings = {
        "mask_shape": grid.mask_shape,
        "groups": grid.gates,
        "sparsity": layer.sparsity,
        "gate_inputs": layer.gate_inputs if gate_inputs is None else gate_inputs,
        "kernel_initializer": layer.gate_kernel_initializer,
        "name": name,
    }
    if layer.gate == "softmax":
        gate = SoftmaxBlockGate(**settings, temperature=layer.temperature)
    else:
        gate = BlockGate(**settings, bias_initializer=layer.gate_bias_initializer)
    gate.build((None, grid.shape[0]))
    return gate


def check_gate(gate, storage):
    """Refuses kinds of gates and of storage that there are not.

    Raises:
        ValueError: if one of them is unknown.
    """
    for name, value, known in (("gate", gate, GATES), ("storage", storage, STORAGES)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}.")


def to_stored_blocks(grid, w):
    """Cuts a matrix `[in, out]` into `[grid blocks, height, width]`, in the order of its rows."""
    blocks = ops.transpose(grid.to_blocks(ops.convert_to_tensor(w)), (0, 2, 1, 3))
    return ops.reshape(blocks, (grid.num_blocks, *grid.block_shape))


def from_stored_blocks(grid, blocks):
    """Puts `[grid blocks, height, width]` together to a matrix `[in, out]`."""
    blocks = ops.reshape(blocks, (*grid.mask_shape, *grid.block_shape))
    return grid.from_blocks(ops.transpose(blocks, (0, 2, 1, 3)))
