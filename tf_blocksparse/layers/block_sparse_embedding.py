"""`BlockSparseEmbedding`: `keras.layers.Embedding` whose table stores only some blocks."""

import keras
from keras import ops

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseEmbedding(keras.layers.Layer):
    """Turns ids into the rows of a block-sparse table.

    `convert()` makes it from a pruned `keras.layers.Embedding`. An id outside the table is an error.

    Args:
        input_dim: int, number of rows: ids are from 0 to `input_dim - 1`.
        output_dim: int, length of a row.
        embeddings_initializer, embeddings_regularizer, embeddings_constraint, mask_zero: as in
            `keras.layers.Embedding`; of the regularizers L1 and L2 are taken, of the constraints NonNeg.
        block_shape: `(height, width)` of a block in the table `[input_dim, output_dim]`, or an int.
        num_blocks: int, number of blocks that the table stores, at random places unless loaded or converted.
            None: all of the grid.

    Input shape:
        `[...]`, integers.

    Output shape:
        `[..., output_dim]`.

    Example:

    >>> layer = BlockSparseEmbedding(100, 16, block_shape=(4, 4), num_blocks=20)
    >>> layer(np.array([[1, 2, 3]])).shape
    TensorShape([1, 3, 16])

    Reference:
        [BSR] section 4.2
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        *,
        block_shape=(4, 4),
        num_blocks=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (("input_dim", input_dim), ("output_dim", output_dim)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.block_shape = canonical_block_shape(block_shape)
        self.num_blocks = num_blocks
        self.supports_masking = mask_zero
        self.supports_jit = False  # the op has no XLA kernel
        self.autocast = False  # ids must not become half floats

    def build(self, input_shape=None):
        self.embeddings = BlockSparseWeight(
            self,
            "embeddings",
            BlockGrid((self.input_dim, self.output_dim), self.block_shape),
            self.num_blocks,
            self.embeddings_initializer,
            self.embeddings_regularizer,
            self.embeddings_constraint,
            order="row",
        )

    def call(self, inputs):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        ids = inputs if dtype in ("int32", "int64") else ops.cast(inputs, "int32")
        return ops.cast(self.embeddings.gather(ids), self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
            "block_shape": self.block_shape,
            "num_blocks": self.num_blocks,
        }
