"""What the cells of the block-sparse recurrent layers share: their weights, a time step, and all of them in one op."""

import keras
from keras import ops

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape
from tf_blocksparse.custom_ops import block_sparse_sequence_low_precision
from tf_blocksparse.layers.storage_dtype import check_dtypes, is_trainable, make_weight

# The activations that the op for whole sequences has.
KERNELS = {
    keras.activations.linear: "linear",
    keras.activations.relu: "relu",
    keras.activations.tanh: "tanh",
    keras.activations.sigmoid: "sigmoid",
}
# Arguments that a cell and its layer share: name -> (how to read it, how to write it in a config).
_SHARED = {
    name: getattr(keras, module)
    for module, names in {
        "activations": ("activation", "recurrent_activation"),
        "initializers": ("kernel_initializer", "recurrent_initializer", "bias_initializer"),
        "regularizers": ("kernel_regularizer", "recurrent_regularizer", "bias_regularizer"),
        "constraints": ("kernel_constraint", "recurrent_constraint", "bias_constraint"),
    }.items()
    for name in names
}
_PLAIN = ("units", "use_bias", "dropout", "recurrent_dropout", "seed", "block_shape", "storage_dtype", "product_dtype")


class BlockSparseCell(keras.layers.Layer):
    """A recurrent cell with block-sparse kernels whose input comes already multiplied by the kernel.

    Subclasses say what `kind` of cell they are and how many `gates` and states they have, compute a step, and name the
    op that computes all of them and the `activations` that it takes.
    """

    gates = 1
    num_states = 1
    kind = None
    sequence_op = None
    activations = ("activation", "recurrent_activation")

    def __init__(
        self,
        units,
        activation="tanh",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        block_shape=(4, 4),
        num_blocks=None,
        storage_dtype="float32",
        product_dtype=None,
        recurrent_activation=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise ValueError(f"`units` must be a positive integer. Received: units={units!r}.")
        check_dtypes(storage_dtype, product_dtype)
        given = dict(locals())
        for name, module in _SHARED.items():
            setattr(self, name, module.get(given[name]))
        self.units = units
        self.use_bias = use_bias
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.block_shape = canonical_block_shape(block_shape)
        self.num_blocks = dict(num_blocks or {})
        self.storage_dtype = storage_dtype
        self.product_dtype = product_dtype
        self.state_size = [units] * self.num_states
        self.output_size = units
        self.supports_jit = False  # the op has no XLA kernel
        self._recurrent_mask = None

    def build(self, input_shape):
        self.kernel = self._weight("kernel", input_shape[-1], self.gates, "kernel")
        self._build_recurrent()
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=self._bias_shape(),
                initializer=self._bias_initializer(),
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=is_trainable(self),
                name="bias",
            )

    def _build_recurrent(self):
        self.recurrent_kernel = self._weight("recurrent_kernel", self.units, self.gates, "recurrent")

    def _weight(self, name, in_features, gates, settings):
        unknown = sorted(set(self.num_blocks) - set(self.matrices()))
        if unknown:
            raise ValueError(
                f"`num_blocks` of {type(self).__name__} is a dict with keys of {self.matrices()}. Received: {unknown}."
            )
        return make_weight(
            self,
            name,
            BlockGrid((in_features, gates * self.units), self.block_shape, gates),
            self.num_blocks.get(name),
            getattr(self, f"{settings}_initializer"),
            getattr(self, f"{settings}_regularizer"),
            getattr(self, f"{settings}_constraint"),
        )

    def matrices(self):
        """Names of the block-sparse weights, in the order of the Keras twin's columns."""
        return ("kernel", "recurrent_kernel")

    def _bias_shape(self):
        return (self.gates * self.units,)

    def _bias_initializer(self):
        return self.bias_initializer

    def project(self, inputs, training=False):
        """`inputs @ kernel + bias` for `inputs` `[..., in]`: `[..., gates * units]`."""
        return self.kernel.matmul(inputs, None if self.bias is None else self._input_bias())

    def _input_bias(self):
        return self.bias

    def call(self, inputs, states, training=False):
        h = states[0]  # [batch, units]
        dropped = h if self._recurrent_mask is None else h * self._recurrent_mask
        new_states = self.step(inputs, dropped, states)
        return new_states[0], new_states

    def step(self, projected, h, states):
        """One time step: new states, the output first.

        Args:
            projected: `[batch, gates * units]`, from `project()`.
            h: `[batch, units]`, the last output, after recurrent dropout.
            states: the last states.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement step().")

    def sequence(self, inputs, states, mask=None, **options):
        """All time steps in one op: the output, and the states after the last step.

        Args:
            inputs: `[batch, time, in]`, float32.
            states: list of `[batch, units]`, float32.
            mask: `[batch, time]`, bool, or None.
            **options: of the op.
        """
        weights = [getattr(self, name) for name in self.matrices()]
        options |= {name: KERNELS[getattr(self, name)] for name in self.activations}
        options["bias"] = None if self.bias is None else ops.cast(self.bias, "float32")
        if is_trainable(self):
            matrices = [(w.blocks, w.indices, w.indptr) for w in weights]
            return type(self).sequence_op(inputs, *states, *matrices, mask=mask, **options)
        del options["save"]  # there is no gradient
        return block_sparse_sequence_low_precision(
            inputs,
            states,
            [w.stored() for w in weights],
            cell=self.kind,
            block_height=self.block_shape[0],
            x_dtype=weights[0].product_dtype,
            mask=mask,
            **options,
        )

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, d), dtype=self.compute_dtype) for d in self.state_size]

    def dropout_mask(self, shape, rate):
        """Mask of `shape` for inputs (or states) that all time steps share."""
        ones = ops.ones(shape, dtype=self.compute_dtype)
        return keras.random.dropout(ones, rate, seed=self.seed_generator)

    def get_config(self):
        config = super().get_config()
        for name, module in _SHARED.items():
            config[name] = module.serialize(getattr(self, name))
        for name in _PLAIN:
            config[name] = getattr(self, name)
        config["num_blocks"] = dict(self.num_blocks) or None
        return config
