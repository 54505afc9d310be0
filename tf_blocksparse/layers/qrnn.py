"""`QRNN`: the quasi-recurrent layer, a causal convolution over time and an element-wise recurrence."""

import keras
from keras import ops

from tf_blocksparse.layers.cell_rnn import CellRNN
from tf_blocksparse.layers.storage_dtype import is_trainable

POOLINGS = {"f": 2, "fo": 3, "ifo": 4}  # to the number of filter banks: z, f, o, i
_READ = {"initializer": keras.initializers, "regularizer": keras.regularizers, "constraint": keras.constraints}
_SETTINGS = {
    "kernel_initializer": "glorot_uniform",
    "bias_initializer": "zeros",
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
}


class QRNNCell(keras.layers.Layer):
    """The weights of a quasi-recurrent layer, and its recurrence, whose input is convolved already."""

    storage_dtype = "float32"

    def __init__(
        self,
        units,
        kernel_size=2,
        pooling="fo",
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        zoneout=0.0,
        dropout=0.0,
        seed=None,
        **kwargs,
    ):
        settings = {name: kwargs.pop(name, default) for name, default in _SETTINGS.items()}
        super().__init__(**kwargs)
        for name, value in (("units", units), ("kernel_size", kernel_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {tuple(POOLINGS)}. Received: pooling={pooling!r}.")
        for name, rate in (("zoneout", zoneout), ("dropout", dropout)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"`{name}` is a fraction, at least 0 and below 1. Received: {name}={rate!r}.")
        self.units = units
        self.kernel_size = kernel_size
        self.pooling = pooling
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.zoneout = zoneout
        self.dropout = dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        for name, value in settings.items():
            setattr(self, name, _READ[name.split("_")[1]].get(value))
        self.gates = POOLINGS[pooling]
        self.state_size = [units] * min(kernel_size, 2)  # the size of the second is known when the layer is built
        self.output_size = units

    def build(self, input_shape):
        self.in_features = input_shape[-1]
        if self.kernel_size > 1:
            self.state_size = [self.units, (self.kernel_size - 1) * self.in_features]
        self.build_kernel(self.kernel_size * self.in_features)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                shape=(self.gates * self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=is_trainable(self),
                name="bias",
            )

    def build_kernel(self, window_features):
        """Makes the filters, `kernel`, for windows of so many features."""
        self.kernel = self.add_weight(
            shape=(window_features, self.gates * self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )

    def project(self, windows, training=False):
        """`windows @ kernel + bias` for `windows` `[batch, time, kernel_size * in]`: `[batch, time, gates * units]`."""
        y = ops.matmul(windows, ops.cast(self.kernel, windows.dtype))
        return y if self.bias is None else y + ops.cast(self.bias, y.dtype)

    def banks(self, windows, training=False):
        """What the recurrence takes, `[batch, time, gates * units]`: z, f, o, i with their activations."""
        z, f, *others = ops.split(self.project(windows, training), self.gates, axis=-1)
        f, *others = map(self.recurrent_activation, (f, *others))
        if training and self.zoneout:
            # Keras scales what dropout leaves; here it must stay what it is.
            f = 1.0 - (1.0 - self.zoneout) * keras.random.dropout(1.0 - f, self.zoneout, seed=self.seed_generator)
        return ops.concatenate([self.activation(z), f, *others], axis=-1)

    def call(self, inputs, states):
        z, f, *others = ops.split(inputs, self.gates, axis=-1)  # [batch, units] each
        i = others[1] if self.pooling == "ifo" else 1.0 - f
        c = f * states[0] + i * z
        return (others[0] * c if others else c), [c]

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, n), dtype=self.compute_dtype) for n in self.state_size]

    def get_config(self):
        config = {
            **super().get_config(),
            "units": self.units,
            "kernel_size": self.kernel_size,
            "pooling": self.pooling,
            "activation": keras.activations.serialize(self.activation),
            "recurrent_activation": keras.activations.serialize(self.recurrent_activation),
            "use_bias": self.use_bias,
            "zoneout": self.zoneout,
            "dropout": self.dropout,
            "seed": self.seed,
        }
        for name in _SETTINGS:
            config[name] = _READ[name.split("_")[1]].serialize(getattr(self, name))
        return config


@keras.saving.register_keras_serializable("tf_blocksparse")
class QRNN(CellRNN):
    """Quasi-recurrent layer: a causal convolution computes all gates, an element-wise recurrence pools over time.

    With X the windows of the last `kernel_size` inputs, `Z = tanh(X W_z)` and `F, O, I = sigmoid(X W_f, W_o, W_i)`:

    - `pooling="f"`: `h_t = f_t h_(t-1) + (1 - f_t) z_t`
    - `pooling="fo"`: `c_t = f_t c_(t-1) + (1 - f_t) z_t` and `h_t = o_t c_t`
    - `pooling="ifo"`: `c_t = f_t c_(t-1) + i_t z_t` and `h_t = o_t c_t`

    All products are made before the loop over time, for all steps at once.

    Args:
        units: int, size of the output.
        kernel_size: int, steps in a window: the present one and those before.
        pooling: `"f"`, `"fo"` or `"ifo"`.
        activation: function of Z, by default tanh.
        recurrent_activation: function of F, O and I, by default sigmoid.
        use_bias: bool.
        zoneout: float in [0, 1): in training, the share of the channels that keep their state at a step:
            `F = 1 - dropout(1 - F)`, without scaling.
        dropout: float in [0, 1), share of the input features that are dropped in training, the same at every step.
        seed: int, for zoneout and dropout.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint, return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask,
            activity_regularizer: as in `keras.layers.LSTM`.

    The kernel is `[kernel_size * in, banks * units]`: the rows those of the oldest input first, as in a reshaped
    `keras.layers.Conv1D` kernel, the columns those of Z, F, O and I.

    Input shape:
        `[batch, time, in]`; masks, `initial_state` and `training` as in Keras. A masked step changes no state, and in
        the windows of later steps counts as zeros.

    Output shape:
        `[batch, units]`, or `[batch, time, units]` with `return_sequences=True`. The states are c (h in f-pooling),
        `[batch, units]`, and if `kernel_size` is above 1 the last inputs, `[batch, (kernel_size - 1) * in]`.

    Example:

    >>> layer = QRNN(16, kernel_size=2)
    >>> layer(np.ones((2, 5, 8), "float32")).shape
    TensorShape([2, 16])

    Reference:
        Bradbury, Merity, Xiong, Socher, 2017, "Quasi-Recurrent Neural Networks", https://arxiv.org/abs/1611.01576
    """

    cell_class = QRNNCell

    def __init__(self, units, kernel_size=2, pooling="fo", **kwargs):
        super().__init__(units, kernel_size=kernel_size, pooling=pooling, **kwargs)
        self.supports_jit = self.cell.supports_jit

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape, initial_state_shape)
        self.state_size = list(self.cell.state_size)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        c, *history = initial_state
        if training and self.cell.dropout:
            ones = ops.ones((ops.shape(sequences)[0], 1, sequences.shape[2]), dtype=sequences.dtype)
            sequences = sequences * keras.random.dropout(ones, self.cell.dropout, seed=self.cell.seed_generator)
        if mask is not None:
            sequences = ops.where(ops.expand_dims(mask, -1), sequences, ops.zeros_like(sequences))
        # Keras turns the inputs of its loop round for go_backwards: windows are those of the order it goes through.
        windows, last_inputs = self._windows(self._in_order(sequences), history)
        banks = self._in_order(self.cell.banks(windows, training))
        last_output, outputs, states = super().inner_loop(banks, [c], mask, training)
        return last_output, outputs, [*states, *last_inputs]

    def _in_order(self, sequences):
        return ops.flip(sequences, axis=1) if self.go_backwards else sequences

    def _windows(self, sequences, history):
        """`[batch, time, in]` -> `[batch, time, kernel_size * in]`, oldest input first, and the next history."""
        steps, in_features = self.cell.kernel_size, self.cell.in_features
        if steps == 1:
            return sequences, []
        before = ops.reshape(history[0], (-1, steps - 1, in_features))
        extended = ops.concatenate([ops.cast(before, sequences.dtype), sequences], axis=1)
        time = ops.shape(sequences)[1]
        windows = ops.concatenate([extended[:, i : i + time] for i in range(steps)], axis=-1)
        return windows, [ops.reshape(extended[:, -(steps - 1) :], (-1, (steps - 1) * in_features))]
