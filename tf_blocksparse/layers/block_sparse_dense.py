"""`BlockSparseDense`: `keras.layers.Dense` whose kernel stores only some blocks."""

import keras

from tf_blocksparse.layers.keras_dense import KerasDense
from tf_blocksparse.layers.storage_dtype import check_dtypes, make_weight


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseDense(KerasDense):
    """Densely-connected layer with a block-sparse kernel: `activation(x @ kernel + bias)`.

    `convert()` makes it from a pruned `keras.layers.Dense`. It trains like any layer: the stored blocks change,
    their places do not.

    Args:
        units: int, size of the output.
        activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint: as in `keras.layers.Dense`. Of the kernel's
            regularizers L1 and L2 are taken, of its constraints NonNeg: those that act on each element alone.
        block_shape: `(height, width)` of a block in the kernel `[in, units]`, or an int.
        num_blocks: int, number of blocks that the kernel stores, at random places unless loaded or converted.
            None: all of the grid.
        storage_dtype: `"float32"`, or `"bfloat16"` or `"int8"`, for inference only: no weight of such a layer is
            trainable.
        product_dtype: what the inputs are rounded to for a product with `bfloat16` or `int8` blocks: None is the
            same, `"float32"` not at all.

    Input shape:
        `[..., in]`, any rank of at least 2.

    Output shape:
        `[..., units]`.

    Example:

    >>> layer = BlockSparseDense(64, block_shape=(4, 4), num_blocks=20)
    >>> layer(np.ones((2, 32), "float32")).shape
    TensorShape([2, 64])

    Reference:
        [BSR] section 5
    """

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        block_shape=(4, 4),
        num_blocks=None,
        storage_dtype="float32",
        product_dtype=None,
        **kwargs,
    ):
        super().__init__(units, activation, use_bias, block_shape, **kwargs)
        check_dtypes(storage_dtype, product_dtype)
        self.num_blocks = num_blocks
        self.storage_dtype = storage_dtype
        self.product_dtype = product_dtype
        self.supports_jit = False  # the op has no XLA kernel

    def build_kernel(self, grid):
        self.kernel = make_weight(
            self,
            "kernel",
            grid,
            self.num_blocks,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )

    def product(self, inputs, activation, training):
        return self.kernel.matmul(inputs, self.bias, activation)

    def get_config(self):
        return {
            **super().get_config(),
            "num_blocks": self.num_blocks,
            "storage_dtype": self.storage_dtype,
            "product_dtype": self.product_dtype,
        }
