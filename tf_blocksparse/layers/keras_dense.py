"""What the layers in the place of `keras.layers.Dense` share: its arguments, its bias and activation."""

import keras

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape
from tf_blocksparse.layers.storage_dtype import is_trainable, refuse_training

# What the product applies itself. Not sigmoid: Keras's losses look for the logits that `keras.activations.sigmoid`
# leaves.
_FUSED = {keras.activations.linear: "linear", keras.activations.relu: "relu", keras.activations.tanh: "tanh"}
_READ = {"initializer": keras.initializers, "regularizer": keras.regularizers, "constraint": keras.constraints}
_DEFAULTS = {"kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}
_SETTINGS = [f"{weight}_{kind}" for kind in _READ for weight in ("kernel", "bias")]


class KerasDense(keras.layers.Layer):
    """Base of densely-connected layers whose kernel is laid out in blocks.

    A subclass has the attributes `block_shape` and `storage_dtype`, makes its kernel in `build_kernel(grid)` and
    multiplies by it in `product(inputs, activation, training)`.

    Args:
        units: int, size of the output.
        activation, use_bias: as in `keras.layers.Dense`.
        block_shape: `(height, width)` or an int.
        **kwargs: the other arguments of `keras.layers.Dense`.
    """

    def __init__(self, units, activation, use_bias, block_shape, **kwargs):
        settings = {name: kwargs.pop(name, _DEFAULTS.get(name)) for name in _SETTINGS}
        super().__init__(**kwargs)
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise ValueError(f"`units` must be a positive integer. Received: units={units!r}.")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        for name, value in settings.items():
            setattr(self, name, _READ[name.split("_")[1]].get(value))
        self.block_shape = canonical_block_shape(block_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build_kernel(self, grid):
        """Makes the weights of the kernel, whose `BlockGrid` is given."""
        raise NotImplementedError

    def product(self, inputs, activation, training):
        """`activation(inputs kernel + bias)`, activation one of those that the product applies itself."""
        raise NotImplementedError

    def build(self, input_shape):
        self.build_kernel(BlockGrid((input_shape[-1], self.units), self.block_shape))
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
        outputs = self.product(inputs, fused or "linear", training)
        return outputs if fused else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **{name: _READ[name.split("_")[1]].serialize(getattr(self, name)) for name in _SETTINGS},
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "block_shape": self.block_shape,
        }
