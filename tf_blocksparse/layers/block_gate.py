"""`BlockGate`: chooses for each example which blocks of a matrix it is multiplied with, and by how much."""

import contextlib
import math
import numbers

import keras
from keras import ops

from tf_blocksparse.custom_ops.implementation import active
from tf_blocksparse.layers.gate_values import keep_largest, normalize, num_open
from tf_blocksparse.layers.step_counter import StepCounter


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockGate(keras.layers.Layer):
    """Gates of the blocks of a matrix, from the vector that the matrix is multiplied with.

    `gates = S(relu(h @ kernel + bias)) / mean(S(relu(h @ kernel + bias)))`, where S keeps the
    `k = round((1 - sparsity) * blocks)` largest gates of each example and zeroes the others: exactly k, of equal ones
    those of lower index, at least one. So the mean gate is 1. An example whose gates are all zero gets zeros, and a
    mean below 0.001 is taken for 0.001. Gradients reach the gates that are kept.

    The dynamic layers make it; a layer of your own multiplies block `[i, j]` of its matrix by `gates[..., i, j]`.
    Computes in float32 under any dtype policy.

    Args:
        mask_shape: `(rows, cols)`, the blocks of the matrix.
        groups: int, matrices that lie side by side in it, as those of an LSTM do: each chooses its own k blocks.
        sparsity: float in [0, 1), or a schedule with `sparsity(step)` such as
            `GradualSparsity(0.5, begin_step, end_step, power=1)`, which raises it linearly. The step counts optimizer
            steps, is a weight, and is saved with the others.
        gate_inputs: what of h the gates are computed from: None, all; an int, so many features from the first on; or
            `(start, stop)`.
        kernel_initializer, bias_initializer: of the gate's own weights. With a bias that begins at 1 gates hardly
            differ at first, and the network of [BDS] section 4.1 learns much slower.

    Input shape:
        `[..., in]`.

    Output shape:
        `[..., rows, cols]`, float32.

    Example:

    >>> gate = BlockGate((4, 2), sparsity=0.75)
    >>> gates = gate(np.ones((3, 16), "float32"))
    >>> np.count_nonzero(gates, axis=(1, 2)), np.round(np.mean(gates, axis=(1, 2)), 3)
    (array([2, 2, 2]), array([1., 1., 1.], dtype=float32))

    Reference:
        [BDS] sections 3.1 and 3.2, Equation 1; Hadifar et al., 2020
    """

    def __init__(
        self,
        mask_shape,
        groups=1,
        sparsity=0.5,
        gate_inputs=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.mask_shape = tuple(int(n) for n in mask_shape)
        self.groups = groups
        self.sparsity = check_sparsity(sparsity)
        self.gate_inputs = check_gate_inputs(gate_inputs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.step = None
        self._receive = None  # what `recording()` hands the gates to

    @property
    def num_blocks(self):
        """Blocks of one group."""
        return math.prod(self.mask_shape) // self.groups

    @property
    def num_scores(self):
        """Numbers that the feed-forward layer computes for an example."""
        return math.prod(self.mask_shape)

    @property
    def multiply_adds(self):
        """Multiply-adds of the gate's own product for one example; the gate must be built."""
        return math.prod(self.kernel.shape)

    def build(self, input_shape):
        self._start, self._stop = _limits(self.gate_inputs, input_shape[-1])
        constraint = None
        if self._is_scheduled():
            self.step = self.add_weight(
                shape=(), initializer="zeros", dtype="int64", trainable=False, aggregation="none", name="step"
            )
            constraint = StepCounter(self.step)
        # An outer layer's policy would cast the weights where choose() reads them.
        float32 = {"dtype": "float32", "autocast": False}
        self.kernel = self.add_weight(
            shape=(self._stop - self._start, self.num_scores),
            initializer=self.kernel_initializer,
            name="kernel",
            **float32,
        )
        self.bias = self.add_weight(
            shape=(self.num_scores,), initializer=self.bias_initializer, constraint=constraint, name="bias", **float32
        )

    def call(self, h, training=False):
        gates = self._gates(ops.reshape(h, (-1, h.shape[-1])), training)  # [examples, groups, blocks]
        rows, cols = self.mask_shape
        gates = ops.reshape(gates, (-1, self.groups, rows, cols // self.groups))
        gates = ops.reshape(ops.transpose(gates, (0, 2, 1, 3)), (-1, rows, cols))
        self._tell(gates)
        return ops.reshape(gates, (*ops.shape(h)[:-1], rows, cols))

    def choose(self, h):
        """The gates of inference, as places and values of those that are open.

        Args:
            h: `[examples, in]`.

        Returns:
            `(block_ids, block_gates)`, int32 and float32 `[examples, groups * k]`. Block `i * cols + j` is that of
            row i and column j.
        """
        ids, gates = active().choose_blocks(self._inference_scores(h), self.num_open())  # [examples, groups, k]
        group_cols = self.mask_shape[1] // self.groups
        if self.groups > 1:
            first_cols = ops.expand_dims(ops.arange(self.groups, dtype="int32") * group_cols, 1)
            ids = ids // group_cols * self.mask_shape[1] + ids % group_cols + first_cols
        ids, gates = (ops.reshape(t, (-1, self.groups * ops.shape(t)[-1])) for t in (ids, gates))
        if self._receive is not None:
            spread = ops.one_hot(ids, math.prod(self.mask_shape)) * ops.expand_dims(gates, -1)
            self._tell(ops.reshape(ops.sum(spread, axis=1), (-1, *self.mask_shape)))
        return ids, gates

    def num_open(self):
        """Blocks of a group that are open now, k: int, or with a schedule an int32 scalar tensor."""
        return num_open(self.current_sparsity(), self.num_blocks)

    def current_sparsity(self):
        """Sparsity at the present step: float, or with a schedule a float64 scalar tensor."""
        if isinstance(self.sparsity, float):
            return self.sparsity
        return self.sparsity.sparsity(ops.convert_to_tensor(self.step))

    @contextlib.contextmanager
    def recording(self, receive):
        """While it lasts, hands the gates of every call outside of a graph, `[examples, rows, cols]`, to `receive`."""
        self._receive = receive
        try:
            yield
        finally:
            self._receive = None

    def _is_scheduled(self):
        """Whether anything depends on the step."""
        return not isinstance(self.sparsity, float)

    def _gates(self, h, training):
        """`[examples, in]` -> `[examples, groups, blocks]`."""
        return normalize(keep_largest(self._activations(h), self.num_open()), self.num_blocks)

    def _activations(self, h):
        """Of the feed-forward layer: `[examples, groups, blocks]`."""
        scores = ops.matmul(self._gate_inputs(h), ops.convert_to_tensor(self.kernel)) + self.bias
        return ops.relu(self._by_group(scores))

    def _inference_scores(self, h):
        """What `choose()` takes the largest of, `[examples, groups, blocks]`: below zero is as good as zero."""
        kernel, bias = ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias)
        return self._by_group(active().gate_scores(self._gate_inputs(h), kernel, bias))

    def _gate_inputs(self, h):
        return ops.cast(h, "float32")[:, self._start : self._stop]

    def _by_group(self, scores):
        """`[examples, rows * cols]` -> `[examples, groups, blocks]`."""
        if self.groups == 1:
            return ops.expand_dims(scores, 1)
        rows, cols = self.mask_shape
        scores = ops.transpose(ops.reshape(scores, (-1, rows, self.groups, cols // self.groups)), (0, 2, 1, 3))
        return ops.reshape(scores, (-1, self.groups, self.num_blocks))

    def _tell(self, gates):
        if self._receive is not None:
            self._receive(gates)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], *self.mask_shape)

    def compute_output_spec(self, h, training=False):
        return keras.KerasTensor(self.compute_output_shape(h.shape), dtype="float32")

    def get_config(self):
        config = super().get_config()
        del config["dtype"]
        return {
            **config,
            "mask_shape": self.mask_shape,
            "groups": self.groups,
            "sparsity": serialize_sparsity(self.sparsity),
            "gate_inputs": self.gate_inputs,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def check_sparsity(sparsity):
    """Returns a float in [0, 1), or the schedule, read from its config if need be.

    Raises:
        ValueError: for another number.
        TypeError: for something else.
    """
    if isinstance(sparsity, dict):
        sparsity = keras.saving.deserialize_keras_object(sparsity)
    if isinstance(sparsity, numbers.Real) and not isinstance(sparsity, bool):
        if not 0.0 <= sparsity < 1.0:
            hint = f" Did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
            raise ValueError(
                f"`sparsity` is a fraction, at least 0 and below 1. Received: sparsity={sparsity!r}.{hint}"
            )
        return float(sparsity)
    if not callable(getattr(sparsity, "sparsity", None)):
        raise TypeError(
            "`sparsity` must be a number in [0, 1), or a schedule with a method sparsity(step), such as "
            f"GradualSparsity(0.5, begin_step=1000, end_step=2000, power=1). Received: sparsity={sparsity!r}."
        )
    return sparsity


def serialize_sparsity(sparsity):
    """What `check_sparsity()` reads."""
    return sparsity if isinstance(sparsity, float) else keras.saving.serialize_keras_object(sparsity)


def check_gate_inputs(gate_inputs, name="gate_inputs"):
    """Returns None or a range `(start, stop)`; `name` is that of the argument.

    Raises:
        ValueError: if it is none, or empty.
    """
    if gate_inputs is None:
        return None
    limits = (0, gate_inputs) if isinstance(gate_inputs, int) else gate_inputs
    is_range = isinstance(limits, (tuple, list)) and len(limits) == 2
    if not is_range or not all(isinstance(n, int) and not isinstance(n, bool) for n in limits):
        is_range = False
    if not is_range or not 0 <= limits[0] < limits[1]:
        raise ValueError(
            f"`{name}` must be None, a number of features of at least 1, or (start, stop) with 0 <= start < stop. "
            f"Received: {name}={gate_inputs!r}."
        )
    return tuple(limits)


def _limits(gate_inputs, features):
    """First feature that the gates are computed from, and the one after the last."""
    start, stop = gate_inputs or (0, features)
    if stop > features:
        raise ValueError(f"`gate_inputs` is {gate_inputs}, but the input has {features} features only.")
    return start, stop
