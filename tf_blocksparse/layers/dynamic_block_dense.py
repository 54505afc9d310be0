"""`DynamicBlockDense`: `keras.layers.Dense` that chooses the blocks of its kernel for each example."""

import keras

from tf_blocksparse.layers.dynamic_arguments import DEFAULTS, dynamic_config, set_dynamic_arguments
from tf_blocksparse.layers.dynamic_matrix import make_gate
from tf_blocksparse.layers.keras_dense import KerasDense
from tf_blocksparse.layers.low_precision_dynamic_matrix import make_dynamic_matrix


@keras.saving.register_keras_serializable("tf_blocksparse")
class DynamicBlockDense(KerasDense):
    """Densely-connected layer whose kernel's blocks are chosen for each example: `activation(x (G o W) + bias)`.

    The gates G are computed from x, one for each block; the `k = round((1 - sparsity) * blocks)` largest stay, the
    others are zero, and their mean is 1. `BlockGate` has the details.

    In training all blocks are multiplied: a step takes up to 2.5 times that of a `Dense` layer. It is at inference,
    after `convert()`, that blocks whose gate is zero are neither read nor multiplied.

    Args:
        units: int, size of the output.
        activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint: as in `keras.layers.Dense`.
        block_shape: `(height, width)` of a block in the kernel `[in, units]`, or an int. Any sizes; those at the edges
            may be smaller.
        sparsity: float in [0, 1), the share of the blocks that an example does without; or a schedule over the
            optimizer steps, such as `GradualSparsity(0.5, begin_step, end_step, power=1)`, which raises it linearly.
        gate_inputs: what of x the gates are computed from: None, all; an int, so many features from the first on; or
            `(start, stop)`. The fewer, the cheaper the gate.
        gate: `"top_k"`, or `"softmax"` for a `SoftmaxBlockGate`.
        temperature: of the softmax gate, float or function of the step.
        gate_kernel_initializer, gate_bias_initializer: of the weights of the gate; the latter of `"top_k"`.
        storage: `"matrix"`, for training, or `"blocks"`, what `convert()` makes: the kernel block by block, for an op
            that reads the chosen ones only.
        storage_dtype: of blocks: `"float32"`, or `"bfloat16"` or `"int8"`, for inference only: no weight of such a
            layer is trainable.

    Input shape:
        `[..., in]`, any rank of at least 2; each vector of the last axis has gates of its own.

    Output shape:
        `[..., units]`.

    Example:

    >>> layer = DynamicBlockDense(64, block_shape=(16, 16), sparsity=0.75)
    >>> layer(np.ones((2, 32), "float32")).shape
    TensorShape([2, 64])

    Reference:
        [BDS] section 3; Hadifar et al., 2020
    """

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        *,
        block_shape=(128, 128),
        sparsity=0.5,
        gate_inputs=None,
        **kwargs,
    ):
        dynamic = {name: kwargs.pop(name) for name in DEFAULTS if name in kwargs}
        super().__init__(units, activation, use_bias, block_shape, **kwargs)
        dynamic.update(block_shape=block_shape, sparsity=sparsity, gate_inputs=gate_inputs)
        set_dynamic_arguments(self, dynamic)

    def build_kernel(self, grid):
        self.block_gate = make_gate(self, grid, "block_gate")
        self.matrix = make_dynamic_matrix(
            self,
            "kernel",
            grid,
            self.block_gate,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )
        self.kernel = self.matrix.variable

    def product(self, inputs, activation, training):
        return self.matrix.matmul(inputs, self.bias, activation, training)

    def get_config(self):
        return {**super().get_config(), **dynamic_config(self)}
