"""The weight that every block-sparse layer has: some blocks of a matrix, and where they are."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_blocksparse.bsr import BsrMatrix, mask_of_pattern, pattern
from tf_blocksparse.custom_ops import implementation
from tf_blocksparse.layers.product_dtype import product_dtype

# These treat every element alike, so they give the same on the stored blocks as on the whole matrix.
ELEMENTWISE = (
    keras.constraints.NonNeg,
    keras.regularizers.L1,
    keras.regularizers.L2,
    keras.regularizers.L1L2,
)


class BlockSparseWeight(tf.__internal__.tracking.AutoTrackable):  # so that tf.train.Checkpoint finds its variables
    """A trainable matrix of which a Keras layer stores only some blocks, in float32.

    Makes three weights of the layer: the blocks, trainable, named `name`; their `indices` and `indptr`, int32 and
    not trainable. All other elements are zero and stay zero in training. `variables` are all three.

    Args:
        layer: the `keras.layers.Layer` that owns the weights.
        name: name of the weight, as in the layer's Keras twin.
        grid: the `BlockGrid` of the matrix.
        num_blocks: int, blocks to store, at random places until `assign()` or loading says which. None: all.
        initializer: of the whole matrix; the stored blocks are cut out of it.
        regularizer: None, L1, L2 or L1L2.
        constraint: None or `NonNeg`.
        order: "column", in which `matmul()` reads the blocks in one stream, or "row", which `gather()` needs.
    """

    storage_dtype = "float32"

    def __init__(self, layer, name, grid, num_blocks, initializer, regularizer, constraint, order="column"):
        problem = elementwise_problem(constraint, regularizer)
        if problem:
            raise ValueError(
                f"The {name} of a block-sparse layer takes the constraint NonNeg and the regularizers L1 and L2, "
                f"which act on each element alone. Received: {problem}, which needs the whole matrix."
            )
        self.grid = grid
        self.name = name
        self.order = order
        indices, indptr = pattern(_random_mask(grid, num_blocks), order)
        self.indices = self._index_weight(layer, "indices", indices)
        self.indptr = self._index_weight(layer, "indptr", indptr)

        def cut_out():
            with tf.init_scope():  # a layer may be built while a function is traced, and the values are needed now
                w = ops.convert_to_numpy(initializer(grid.shape, dtype="float32"))
                return BsrMatrix.from_dense(w, grid, mask_of_pattern(grid, indices, indptr, order), order)

        values = self._add_values(layer, len(indices), cut_out, regularizer, constraint)
        self.variables = (*values, self.indices, self.indptr)

    def _add_values(self, layer, num_blocks, initial, regularizer, constraint):
        """Makes the weights that hold values, returns them; `initial` returns a `BsrMatrix` of the first values."""
        self.blocks = layer.add_weight(
            shape=(num_blocks, *self.grid.block_shape),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(initial().blocks, dtype=dtype),
            dtype="float32",
            autocast=False,  # whether they are rounded depends on more than the layer's policy: see product_dtype
            regularizer=regularizer,
            constraint=constraint,
            name=self.name,
        )
        return (self.blocks,)

    def _index_weight(self, layer, part, values):
        return layer.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype),
            dtype="int32",
            trainable=False,
            name=f"{self.name}_{part}",
        )

    def matmul(self, x, bias=None, activation="linear"):
        """`activation(x @ W + bias)` for `x` `[..., in]`: `[..., out]`, in the dtype of `x`, summed in float32."""
        dtype = product_dtype(x.dtype)
        y = implementation.active().matmul(
            ops.cast(x, dtype),
            ops.cast(self.blocks, dtype),
            self.indices,
            self.indptr,
            out_features=self.grid.shape[1],
            gates=self.grid.gates,
            bias=None if bias is None else ops.cast(bias, dtype),
            activation=activation,
            order=self.order,
        )
        return ops.cast(y, x.dtype)

    def gather(self, ids):
        """Rows `ids` of W: `[..., out]`, float32."""
        in_features, out_features = self.grid.shape
        gather = implementation.active().gather
        return gather(ids, self.blocks, self.indices, self.indptr, in_features, out_features)

    def bsr(self):
        """The present values as a `BsrMatrix` of NumPy arrays."""
        parts = [ops.convert_to_numpy(v) for v in (self.blocks, self.indices, self.indptr)]
        return BsrMatrix(self.grid, *parts, self.order)

    def assign(self, w, block_mask=None):
        """Takes the values of the dense matrix `w`.

        Args:
            w: array `[in, out]`.
            block_mask: bool `[rows, cols]` of the grid: the blocks to store, as many as are stored now. None: those
                of `w` that are not zero.
        """
        matrix = BsrMatrix.from_dense(w, self.grid, block_mask, self.order)
        if matrix.num_blocks != self.blocks.shape[0]:
            raise ValueError(
                f"{self.name} stores {self.blocks.shape[0]} blocks, but the matrix has {matrix.num_blocks} blocks "
                f"that are not zero. Make the layer with num_blocks={matrix.num_blocks}."
            )
        self._assign_values(matrix)
        self.indices.assign(matrix.indices)
        self.indptr.assign(matrix.indptr)

    def _assign_values(self, matrix):
        self.blocks.assign(matrix.blocks)


def elementwise_problem(constraint, regularizer):
    """Name of the one of both that needs the whole matrix and not each element alone, or None."""
    for given in (constraint, regularizer):
        if given is not None and type(given) not in ELEMENTWISE:
            return type(given).__name__
    return None


def _random_mask(grid, num_blocks):
    """`block_mask` with `num_blocks` blocks kept; random places follow `keras.utils.set_random_seed()`."""
    num_blocks = grid.num_blocks if num_blocks is None else num_blocks
    if not 0 <= num_blocks <= grid.num_blocks:
        raise ValueError(
            f"`num_blocks` must be from 0 to {grid.num_blocks}, the blocks of a {grid.shape} matrix with "
            f"block_shape={grid.block_shape} and gates={grid.gates}. Received: num_blocks={num_blocks}."
        )
    kept = np.arange(grid.num_blocks) < num_blocks
    if num_blocks < grid.num_blocks:
        kept = np.random.permutation(kept)
    return kept.reshape(grid.mask_shape)
