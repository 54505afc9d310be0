"""`BlockSparseDense`: `keras.layers.Dense` whose kernel stores only some blocks."""

import keras

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape
from tf_blocksparse.layers.storage_dtype import check_dtypes, is_trainable, make_weight, refuse_training

# What the op applies itself. Not sigmoid: Keras's losses look for the logits that `keras.activations.sigmoid` leaves.
_FUSED = {keras.activations.linear: "linear", keras.activations.relu: "relu", keras.activations.tanh: "tanh"}


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseDense(keras.layers.Layer):
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
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        *,
        block_shape=(4, 4),
        num_blocks=None,
        storage_dtype="float32",
        product_dtype=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise ValueError(f"`units` must be a positive integer. Received: units={units!r}.")
        check_dtypes(storage_dtype, product_dtype)
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.block_shape = canonical_block_shape(block_shape)
        self.num_blocks = num_blocks
        self.storage_dtype = storage_dtype
        self.product_dtype = product_dtype
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True
        self.supports_jit = False  # the op has no XLA kernel

    def build(self, input_shape):
        self.kernel = make_weight(
            self,
            "kernel",
            BlockGrid((input_shape[-1], self.units), self.block_shape),
            self.num_blocks,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=is_trainable(self),
                name="bias",
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs, training=False):
        refuse_training(self, self.storage_dtype, training)
        fused = _FUSED.get(self.activation)
        outputs = self.kernel.matmul(inputs, self.bias, fused or "linear")
        return outputs if fused else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "block_shape": self.block_shape,
            "num_blocks": self.num_blocks,
            "storage_dtype": self.storage_dtype,
            "product_dtype": self.product_dtype,
        }
