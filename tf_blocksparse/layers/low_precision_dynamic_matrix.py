"""The matrix of a dynamic layer stored as bfloat16 or int8, for inference."""

import functools

import numpy as np
from keras import ops

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.layers.dynamic_matrix import DynamicMatrix, from_stored_blocks, to_stored_blocks
from tf_blocksparse.layers.low_precision_weight import add_rounded_weight
from tf_blocksparse.layers.storage_dtype import is_trainable
from tf_blocksparse.quantize import quantize_grid


class LowPrecisionDynamicMatrix(DynamicMatrix):
    """A matrix whose blocks each example chooses, rounded and not trainable.

    Makes these weights of the layer, not trainable: the blocks, `[grid rows * grid cols, height, width]` of the
    layer's `storage_dtype`, named `name`; for int8 a float32 scale of each block, `name_scales`.

    Products widen the blocks to float32 as they read them; inputs and sums are float32.

    Args:
        layer, name, grid, gate, initializer: as of `DynamicMatrix`; the gate is not trained either.
        regularizer, constraint: checked as there; they act in training, so not here.
    """

    def _add_values(self, layer, initializer, regularizer, constraint):
        self.gate.trainable = False
        self.storage_dtype = layer.storage_dtype
        initial = functools.cache(lambda: self._quantize(initializer(self.grid.shape, dtype="float32")))
        shape = (self.grid.num_blocks, *self.grid.block_shape)
        blocks = add_rounded_weight(layer, lambda: initial()[0], shape, self.storage_dtype, self.name)
        self.scales = None
        if self.storage_dtype == "int8":
            self.scales = add_rounded_weight(layer, lambda: initial()[1], shape[:1], "float32", f"{self.name}_scales")
        return blocks

    def to_matrix(self):
        """The present values, widened: `[in, out]`, float32."""
        blocks = ops.cast(self.variable, "float32")
        if self.scales is not None:
            blocks = blocks * ops.reshape(self.scales, (-1, 1, 1))
        return from_stored_blocks(self.grid, blocks)

    def assign(self, w):
        """Takes the values of the matrix `w` `[in, out]`, rounded."""
        blocks, scales = self._quantize(w)
        self.variable.assign(blocks)
        if self.scales is not None:
            self.scales.assign(scales)

    def stored(self):
        scales = np.zeros([0], "float32") if self.scales is None else ops.convert_to_tensor(self.scales)
        return ops.convert_to_tensor(self.variable), scales

    def _quantize(self, w):
        blocks = ops.convert_to_numpy(to_stored_blocks(self.grid, w))
        height, width = self.grid.block_shape
        whole = BlockGrid((self.grid.rows * height, self.grid.cols * width), self.grid.block_shape)
        return quantize_grid(blocks, whole, self.storage_dtype)


def make_dynamic_matrix(layer, *arguments):
    """The matrix of a dynamic layer or cell, of the class that stores in its `storage_dtype`.

    Args:
        layer: with `storage` and `storage_dtype`.
        *arguments: the other arguments of `DynamicMatrix`.
    """
    return (DynamicMatrix if is_trainable(layer) else LowPrecisionDynamicMatrix)(layer, *arguments)
