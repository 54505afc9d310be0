"""A block-sparse weight stored as bfloat16 or int8, for inference."""

import functools

import numpy as np
from keras import ops

from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.custom_ops import implementation
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight
from tf_blocksparse.quantize import ROWS_PER_WORD, dequantize_blocks, quantize_blocks


class LowPrecisionBlockSparseWeight(BlockSparseWeight):
    """A matrix of which a Keras layer stores only some blocks, rounded and not trainable.

    Makes these weights of the layer, all of them not trainable: the blocks, `[num_blocks, ceil(height / p), width, p]`
    with p 2 for bfloat16 and 4 for int8, named `name`; for int8 a float32 scale of each column, `name_scales`
    `[out]`; `indices` and `indptr`. `tf_blocksparse.quantize` says how they come from float32.

    Args:
        layer, name, grid, num_blocks, initializer: as of `BlockSparseWeight`.
        regularizer, constraint: checked as there; they act in training, so not here.
        storage_dtype: `"bfloat16"` or `"int8"`.
        product_dtype: what x is rounded to for the product: `storage_dtype` or `"float32"`, not at all.
    """

    def __init__(
        self, layer, name, grid, num_blocks, initializer, regularizer, constraint, *, storage_dtype, product_dtype
    ):
        self.storage_dtype = storage_dtype
        self.product_dtype = product_dtype
        super().__init__(layer, name, grid, num_blocks, initializer, regularizer, constraint)

    def _add_values(self, layer, num_blocks, initial, regularizer, constraint):
        quantized = functools.cache(lambda: self._quantize(initial()))  # blocks and scales are of one matrix
        height, width = self.grid.block_shape
        p = ROWS_PER_WORD[self.storage_dtype]

        shape = (num_blocks, -(-height // p), width, p)
        self.blocks = add_rounded_weight(layer, lambda: quantized()[0], shape, self.storage_dtype, self.name)
        if self.storage_dtype != "int8":
            self.scales = None
            return (self.blocks,)
        self.scales = add_rounded_weight(
            layer, lambda: quantized()[1], self.grid.shape[1:], "float32", f"{self.name}_scales"
        )
        return self.blocks, self.scales

    def _quantize(self, matrix):
        """`(blocks, scales)` as they are stored, of a `BsrMatrix`."""
        return quantize_blocks(matrix.blocks, matrix.indices, matrix.indptr, self.grid, self.storage_dtype)

    def matmul(self, x, bias=None, activation="linear"):
        """`activation(x @ W + bias)` for `x` `[..., in]`: `[..., out]`, in the dtype of `x`; not differentiable."""
        y = implementation.active().matmul_low_precision(
            ops.cast(x, "float32"),
            self.blocks,
            self._scales(),
            self.indices,
            self.indptr,
            block_height=self.grid.block_shape[0],
            out_features=self.grid.shape[1],
            gates=self.grid.gates,
            x_dtype=self.product_dtype,
            bias=None if bias is None else ops.cast(bias, "float32"),
            activation=activation,
        )
        return ops.cast(y, x.dtype)

    def stored(self):
        """`(blocks, scales, indices, indptr)`, as `block_sparse_sequence_low_precision` takes them."""
        return self.blocks, self._scales(), self.indices, self.indptr

    def bsr(self):
        """The present values as a `BsrMatrix` of NumPy arrays, widened to float32."""
        parts = [ops.convert_to_numpy(v) for v in (self.blocks, self._scales(), self.indices, self.indptr)]
        return BsrMatrix(self.grid, dequantize_blocks(*parts, self.grid), *parts[2:], self.order)

    def _assign_values(self, matrix):
        blocks, scales = self._quantize(matrix)
        self.blocks.assign(blocks)
        if self.scales is not None:
            self.scales.assign(scales)

    def _scales(self):
        return np.zeros([0], "float32") if self.scales is None else self.scales


def add_rounded_weight(layer, initial, shape, dtype, name):
    """Adds a weight that is not trained to a layer; `initial()` is the NumPy array that it starts from."""
    return layer.add_weight(
        shape=shape,
        initializer=lambda shape, dtype=None: ops.convert_to_tensor(initial(), dtype=dtype),
        dtype=dtype,
        autocast=False,
        trainable=False,
        name=name,
    )
