"""`SoftmaxBlockGate`: as many softmaxes as blocks are to be open, each of which learns to point at one."""

import keras
from keras import ops

from tf_blocksparse.layers.block_gate import BlockGate


@keras.saving.register_keras_serializable("tf_blocksparse")
class SoftmaxBlockGate(BlockGate):
    """Block gates that are the sum of k softmaxes.

    `gates = 1 / (1 - sparsity) * sum of softmax((h @ kernel_i + bias_i) / temperature), i = 1 ... k`

    In training all blocks are open, the more evenly the higher the temperature. At inference each softmax opens the
    one block at which it points, of equal ones that of lowest index, so at most k are open. As there are
    `k = round((1 - sparsity) * blocks)` of them, the mean gate is 1; the factor is `blocks / k` to keep it so where k
    was rounded. The feed-forward layer has k times the outputs of a `BlockGate`: for small grids only, say the authors.

    Args:
        mask_shape, groups, gate_inputs, kernel_initializer: as of `BlockGate`.
        sparsity: float in [0, 1). No schedule: it says how many weights there are.
        temperature: float above 0, or a function of the optimizer step that falls, such as
            `keras.optimizers.schedules.ExponentialDecay(5.0, decay_steps=1000, decay_rate=0.5)`.
        bias_initializer: by default zeros.

    Input shape:
        `[..., in]`.

    Output shape:
        `[..., rows, cols]`, float32.

    Example:

    >>> gate = SoftmaxBlockGate((4, 2), sparsity=0.75)
    >>> h = np.random.default_rng(0).standard_normal((3, 16)).astype("float32")
    >>> int(np.count_nonzero(gate(h, training=True))), bool(np.count_nonzero(gate(h)) <= 3 * 2)
    (24, True)

    Reference:
        [BDS] section 3.3, Equation 2; Hadifar et al., 2020
    """

    def __init__(
        self,
        mask_shape,
        groups=1,
        sparsity=0.5,
        gate_inputs=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        temperature=1.0,
        **kwargs,
    ):
        super().__init__(mask_shape, groups, sparsity, gate_inputs, kernel_initializer, bias_initializer, **kwargs)
        if not isinstance(self.sparsity, float):
            raise TypeError(
                "`sparsity` of a softmax gate must be a number: it says how many softmaxes there are. Received: "
                f"sparsity={sparsity!r}. Only the gate 'top_k' takes a schedule."
            )
        self.temperature = check_temperature(temperature)

    @property
    def num_scores(self):
        """Numbers that the feed-forward layers compute for an example."""
        return super().num_scores * self.num_open()

    def current_temperature(self):
        """Temperature at the present step: float, or float32 scalar tensor."""
        if isinstance(self.temperature, float):
            return self.temperature
        return ops.cast(self.temperature(ops.convert_to_tensor(self.step)), "float32")

    def _is_scheduled(self):
        return not isinstance(self.temperature, float)

    def _gates(self, h, training):
        scores = self._activations(h)
        if training:
            return self._scale() * ops.sum(ops.softmax(scores / self.current_temperature(), axis=-1), axis=2)
        pointed_at = ops.one_hot(ops.argmax(scores, axis=-1), self.num_blocks, dtype="float32")
        return self._scale() * ops.sum(pointed_at, axis=2)

    def _inference_scores(self, h):
        # Several may point at the same block, which must come once only. Their mean is 1 and stays so.
        return self._gates(h, training=False)

    def _activations(self, h):
        """Of all feed-forward layers, which have no ReLU: `[examples, groups, k, blocks]`."""
        scores = ops.matmul(self._gate_inputs(h), ops.convert_to_tensor(self.kernel)) + self.bias
        return ops.reshape(scores, (-1, self.groups, self.num_open(), self.num_blocks))

    def _scale(self):
        return self.num_blocks / self.num_open()

    def get_config(self):
        return {**super().get_config(), "temperature": serialize_temperature(self.temperature)}


def check_temperature(temperature):
    """Returns a float above 0, or the schedule, read from its config if need be.

    Raises:
        ValueError: for another number.
        TypeError: for something else.
    """
    if isinstance(temperature, dict):
        temperature = keras.saving.deserialize_keras_object(temperature)
    if callable(temperature):
        return temperature
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(
            "`temperature` must be a number above 0, or a function of the step such as "
            f"keras.optimizers.schedules.ExponentialDecay. Received: temperature={temperature!r}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature!r}.")
    return float(temperature)


def serialize_temperature(temperature):
    """What `check_temperature()` reads."""
    return temperature if isinstance(temperature, float) else keras.saving.serialize_keras_object(temperature)
