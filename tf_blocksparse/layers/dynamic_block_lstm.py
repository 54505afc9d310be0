"""`DynamicBlockLSTM`: `keras.layers.LSTM` that chooses the blocks of its kernels at every step."""

import keras
from keras import ops

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.layers.block_gate import check_gate_inputs
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN
from tf_blocksparse.layers.dynamic_arguments import DEFAULTS, dynamic_config, set_dynamic_arguments
from tf_blocksparse.layers.dynamic_matrix import make_gate
from tf_blocksparse.layers.low_precision_dynamic_matrix import make_dynamic_matrix
from tf_blocksparse.layers.storage_dtype import is_trainable

_GATES = 4  # input, forget, cell, output: Keras's order
_KINDS = ("initializer", "regularizer", "constraint")
_READ = {"initializer": keras.initializers, "regularizer": keras.regularizers, "constraint": keras.constraints}
_INITIALIZERS = {"kernel": "glorot_uniform", "recurrent": "orthogonal", "bias": "zeros"}


class _Cell(keras.layers.Layer):
    """An LSTM cell with dynamic kernels whose input comes already multiplied by the kernel."""

    sequence_op = None  # each step chooses blocks of its own

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        unit_forget_bias=True,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        recurrent_gate_inputs=None,
        **kwargs,
    ):
        dynamic = {name: kwargs.pop(name) for name in DEFAULTS if name in kwargs}
        own = {f"{m}_{kind}": kwargs.pop(f"{m}_{kind}", None) for m in _INITIALIZERS for kind in _KINDS}
        super().__init__(**kwargs)
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise ValueError(f"`units` must be a positive integer. Received: units={units!r}.")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.unit_forget_bias = unit_forget_bias
        for name, value in own.items():
            matrix, kind = name.split("_")
            if kind == "initializer" and value is None:
                value = _INITIALIZERS[matrix]
            setattr(self, name, _READ[kind].get(value))
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        set_dynamic_arguments(self, dynamic)
        self.recurrent_gate_inputs = check_gate_inputs(recurrent_gate_inputs, "recurrent_gate_inputs")
        self.state_size = [units, units]
        self.output_size = units
        self._recurrent_mask = None

    def build(self, input_shape):
        kernel_grid, recurrent_grid = (
            BlockGrid((n, _GATES * self.units), self.block_shape, _GATES) for n in (input_shape[-1], self.units)
        )
        self.kernel_gate = make_gate(self, kernel_grid, "kernel_gate", self.gate_inputs)
        self.recurrent_gate = make_gate(self, recurrent_grid, "recurrent_gate", self.recurrent_gate_inputs)
        self.kernel_matrix = make_dynamic_matrix(
            self,
            "kernel",
            kernel_grid,
            self.kernel_gate,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )
        self.recurrent_matrix = make_dynamic_matrix(
            self,
            "recurrent_kernel",
            recurrent_grid,
            self.recurrent_gate,
            self.recurrent_initializer,
            self.recurrent_regularizer,
            self.recurrent_constraint,
        )
        self.kernel, self.recurrent_kernel = self.kernel_matrix.variable, self.recurrent_matrix.variable
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(_GATES * self.units,),
                initializer=self._initial_bias if self.unit_forget_bias else self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=is_trainable(self),
                name="bias",
            )

    def _initial_bias(self, shape, dtype=None):
        bias = ops.reshape(self.bias_initializer(shape, dtype=dtype), (_GATES, self.units))
        return ops.reshape(ops.concatenate([bias[:1], ops.ones_like(bias[:1]), bias[2:]]), shape)

    def project(self, inputs, training=False):
        """`inputs (G o kernel) + bias` for `inputs` `[..., in]`, G that of each step: `[..., 4 * units]`."""
        return self.kernel_matrix.matmul(inputs, self.bias, training=training)

    def call(self, inputs, states, training=False):
        h, c = states
        h = h if self._recurrent_mask is None else h * self._recurrent_mask
        z = inputs + self.recurrent_matrix.matmul(h, training=training)
        i, f, g, o = ops.split(z, _GATES, axis=1)  # [batch, units] each
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        h = self.recurrent_activation(o) * self.activation(c)
        return h, [h, c]

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, n), dtype=self.compute_dtype) for n in self.state_size]

    def dropout_mask(self, shape, rate):
        """Mask of `shape` for inputs (or states) that all time steps share."""
        return keras.random.dropout(ops.ones(shape, dtype=self.compute_dtype), rate, seed=self.seed_generator)

    def get_config(self):
        config = {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "recurrent_activation": keras.activations.serialize(self.recurrent_activation),
            "use_bias": self.use_bias,
            "unit_forget_bias": self.unit_forget_bias,
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
            "recurrent_gate_inputs": self.recurrent_gate_inputs,
            **dynamic_config(self),
        }
        for matrix in _INITIALIZERS:
            for kind in _KINDS:
                config[f"{matrix}_{kind}"] = _READ[kind].serialize(getattr(self, f"{matrix}_{kind}"))
        return config


@keras.saving.register_keras_serializable("tf_blocksparse")
class DynamicBlockLSTM(BlockSparseRNN):
    """Long Short-Term Memory layer whose kernels' blocks are chosen for each example at every step.

    Input-to-hidden and hidden-to-hidden kernel each have a gate, computed from the step's input and from the last
    output. Each is four matrices side by side, in Keras's order input, forget, cell, output; the grid is laid on each,
    and each has its own k open blocks. `DynamicBlockDense` says what the gates are, and what training costs.

    Args:
        units: int, size of the output.
        activation: function of cell and output, by default tanh.
        recurrent_activation: function of the LSTM's own gates, by default sigmoid.
        use_bias: bool.
        block_shape: `(height, width)` of a block in both kernels, or an int.
        sparsity: float in [0, 1) or schedule, as of `DynamicBlockDense`, for both.
        gate_inputs: what of the step's input the gates of the kernel are computed from: None, all; an int, so many
            features from the first on; or `(start, stop)`.
        recurrent_gate_inputs: the same of the last output, for the gates of the recurrent kernel.
        **kwargs: `gate`, `temperature`, `gate_kernel_initializer`, `gate_bias_initializer`, `storage` and
            `storage_dtype` of `DynamicBlockDense`, and all other arguments of `keras.layers.LSTM`, with its defaults,
            but for `use_cudnn`.

    Input shape:
        `[batch, time, in]`; masks, `initial_state` and `training` as in Keras.

    Output shape:
        `[batch, units]`, or `[batch, time, units]` with `return_sequences=True`.

    Example:

    >>> layer = DynamicBlockLSTM(16, block_shape=(4, 4), sparsity=0.75)
    >>> layer(np.ones((2, 5, 8), "float32")).shape
    TensorShape([2, 16])

    Reference:
        [BDS] section 4.2.2; Hadifar et al., 2020
    """

    cell_class = _Cell

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        *,
        block_shape=(128, 128),
        sparsity=0.5,
        gate_inputs=None,
        recurrent_gate_inputs=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            block_shape=block_shape,
            sparsity=sparsity,
            gate_inputs=gate_inputs,
            recurrent_gate_inputs=recurrent_gate_inputs,
            **kwargs,
        )
        self.supports_jit = self.cell.supports_jit
