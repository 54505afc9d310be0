"""`DynamicBlockQRNN`: a quasi-recurrent layer that chooses the blocks of its filters at every step."""

import keras

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.layers.dynamic_arguments import DEFAULTS, dynamic_config, set_dynamic_arguments
from tf_blocksparse.layers.dynamic_matrix import make_gate
from tf_blocksparse.layers.low_precision_dynamic_matrix import make_dynamic_matrix
from tf_blocksparse.layers.qrnn import QRNN, QRNNCell
from tf_blocksparse.layers.storage_dtype import refuse_training


class _Cell(QRNNCell):
    def __init__(self, *args, **kwargs):
        dynamic = {name: kwargs.pop(name) for name in DEFAULTS if name in kwargs}
        super().__init__(*args, **kwargs)
        set_dynamic_arguments(self, dynamic)

    def build_kernel(self, window_features):
        grid = BlockGrid((window_features, self.gates * self.units), self.block_shape, self.gates)
        gate_inputs = self.gate_inputs
        if gate_inputs is not None:  # counted in the present input, the last of the window
            if gate_inputs[1] > self.in_features:
                raise ValueError(f"`gate_inputs` is {gate_inputs}, but the input has {self.in_features} features only.")
            first = window_features - self.in_features
            gate_inputs = tuple(first + n for n in gate_inputs)
        self.kernel_gate = make_gate(self, grid, "kernel_gate", gate_inputs)
        self.kernel_matrix = make_dynamic_matrix(
            self,
            "kernel",
            grid,
            self.kernel_gate,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )
        self.kernel = self.kernel_matrix.variable

    def project(self, windows, training=False):
        return self.kernel_matrix.matmul(windows, self.bias, training=training)

    def get_config(self):
        return {**super().get_config(), **dynamic_config(self)}


@keras.saving.register_keras_serializable("tf_blocksparse")
class DynamicBlockQRNN(QRNN):
    """Quasi-recurrent layer whose filters' blocks are chosen for each example at every step.

    The grid is laid on the filters of Z, F, O and I each, which have k open blocks each; their gates are computed from
    the window that is convolved. `DynamicBlockDense` says what the gates are, and what training costs.

    Args:
        units: int, size of the output.
        kernel_size: int, steps in a window: the present one and those before.
        pooling: `"f"`, `"fo"` or `"ifo"`.
        block_shape: `(height, width)` of a block in the kernel `[kernel_size * in, banks * units]`, or an int.
        sparsity: float in [0, 1) or schedule, as of `DynamicBlockDense`.
        gate_inputs: what the gates are computed from: None, the whole window; an int, so many features of the present
            input from the first on; or `(start, stop)` in the present input.
        **kwargs: `gate`, `temperature`, `gate_kernel_initializer`, `gate_bias_initializer`, `storage` and
            `storage_dtype` of `DynamicBlockDense`, and all other arguments of `QRNN`.

    Input shape:
        `[batch, time, in]`; masks, `initial_state` and `training` as in Keras.

    Output shape:
        `[batch, units]`, or `[batch, time, units]` with `return_sequences=True`.

    Example:

    >>> layer = DynamicBlockQRNN(16, block_shape=(4, 4), sparsity=0.75)
    >>> layer(np.ones((2, 5, 8), "float32")).shape
    TensorShape([2, 16])

    Reference:
        [BDS] section 4.2.1; Hadifar et al., 2020
    """

    cell_class = _Cell

    def __init__(
        self,
        units,
        kernel_size=2,
        pooling="fo",
        *,
        block_shape=(128, 128),
        sparsity=0.5,
        gate_inputs=None,
        **kwargs,
    ):
        super().__init__(
            units, kernel_size, pooling, block_shape=block_shape, sparsity=sparsity, gate_inputs=gate_inputs, **kwargs
        )

    def inner_loop(self, sequences, initial_state, mask, training=False):
        refuse_training(self, self.cell.storage_dtype, training)
        return super().inner_loop(sequences, initial_state, mask, training)
