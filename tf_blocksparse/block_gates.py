"""What the block gates of a model do: which blocks are open for which examples, and what that saves.

```python
gates = block_gates(model, images)  # of every matrix, for every example
usage = gate_usage(model, images)  # open always, never, or as the input says
cost = computation(model)  # multiply-adds of the open blocks, and of the gates
```
"""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops

from tf_blocksparse.layers.dynamic_matrix import DynamicMatrix
from tf_blocksparse.pruning.weights import layer_paths

ALWAYS = 0.95  # share of the examples from which on the paper counts a gate as always on, or off


@dataclasses.dataclass(frozen=True)
class GateUsage:
    """How the gates of one matrix are used.

    Attributes:
        path: of the matrix, as in `"dynamic_block_dense/kernel"`.
        open_share: float64 `[rows, cols]`, share of the examples for which each block is open.
        always: share from which on a gate counts as always on or always off.
    """

    path: str
    open_share: np.ndarray
    always: float = ALWAYS

    @property
    def on(self):
        """Gates that are on for more than `always` of the examples: int."""
        return int(np.sum(self.open_share > self.always))

    @property
    def off(self):
        """Gates that are off for more than `always` of the examples: int."""
        return int(np.sum(1.0 - self.open_share > self.always))

    @property
    def input_dependent(self):
        """Gates that are neither: int."""
        return self.open_share.size - self.on - self.off

    def __str__(self):
        n = self.open_share.size
        shares = f"{self.off / n:.0%} always off, {self.input_dependent / n:.0%} input dependent, {self.on / n:.0%}"
        return f"{self.path}: {n} gates, {shares} always on"


@dataclasses.dataclass(frozen=True)
class Computation:
    """Multiply-adds of one dynamic matrix for one input vector, additions and multiplications counted as one.

    Attributes:
        path: of the matrix.
        dense: of the whole matrix.
        chosen: of the open blocks, on average over all choices; edge blocks count with their own size.
        gate: of the gate's own matrix.
    """

    path: str
    dense: int
    chosen: float
    gate: int

    @property
    def fraction(self):
        """The paper's 'comput.': what the open blocks take of the dense product."""
        return self.chosen / self.dense

    @property
    def gate_fraction(self):
        """What the gate takes of the dense product; the paper does not count it in 'comput.'."""
        return self.gate / self.dense

    def __str__(self):
        return f"{self.path}: comput. {self.fraction:.3f}, and {self.gate_fraction:.3f} for the gate"


def block_gates(model, x, batch_size=256):
    """The gates of every dynamic matrix of a model for all examples, as at inference.

    Args:
        model: a built `keras.Model` or layer with dynamic layers.
        x: array, or a tuple, list or dict of arrays, the inputs.
        batch_size: int, examples that are computed at once.

    Returns:
        Dict from the path of a matrix to a float32 array `[vectors, rows, cols]`; 0 is a closed gate, and the mean of a
        matrix is 1. A vector is what the matrix is multiplied with: one for each example or, of a sequence, for each of
        its steps, padding included; the order of a recurrent matrix is, batch by batch, that of time.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it has no dynamic layer.

    Example:

    >>> layer = DynamicBlockDense(8, block_shape=4, sparsity=0.75, name="layer")
    >>> layer.build((None, 16))
    >>> gates = block_gates(layer, np.ones((5, 16), "float32"))
    >>> {path: found.shape for path, found in gates.items()}
    {'layer/kernel': (5, 4, 2)}

    Reference:
        [BDS] section 4.1; Hadifar et al., 2020
    """
    parts = {}

    def collect(path, gates):
        parts.setdefault(path, []).append(gates)

    _run(model, x, batch_size, collect)
    return {path: np.concatenate(found) for path, found in parts.items()}


def gate_usage(model, x, batch_size=256, always=ALWAYS):
    """Counts for every dynamic matrix which gates are always on, always off, or depend on the input.

    Args:
        model, x, batch_size: as of `block_gates()`; the gates themselves are not kept.
        always: float, share of the examples from which on a gate counts as always on or off.

    Returns:
        List of `GateUsage`, in the order of the model.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it has no dynamic layer.

    Reference:
        [BDS] section 4.2.1 and Figure 2; Hadifar et al., 2020
    """
    counts = {}

    def count(path, gates):
        found, total = counts.get(path, (0, 0))
        counts[path] = found + np.sum(gates > 0, axis=0), total + len(gates)

    _run(model, x, batch_size, count)
    return [GateUsage(path, found / total, always) for path, (found, total) in counts.items()]


def computation(model):
    """Multiply-adds of every dynamic matrix of a model at its present sparsity, those of the gates apart.

    Args:
        model: a built `keras.Model` or layer with dynamic layers.

    Returns:
        List of `Computation`, in the order of the model.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it has no dynamic layer.

    Example:

    >>> layer = DynamicBlockDense(1024, sparsity=0.9, gate_inputs=256, name="layer")
    >>> layer.build((None, 1024))
    >>> print(*computation(layer))
    layer/kernel: comput. 0.094, and 0.016 for the gate

    Reference:
        [BDS] Table 1; Hadifar et al., 2020
    """
    return [computation_of(path, matrix) for path, matrix in dynamic_matrices(model).items()]


def computation_of(path, matrix):
    """The `Computation` of a `DynamicMatrix`."""
    dense = int(np.prod(matrix.grid.shape))
    open_share = float(ops.convert_to_numpy(matrix.gate.num_open())) / matrix.gate.num_blocks
    return Computation(path, dense, open_share * dense, matrix.gate.multiply_adds)


def dynamic_matrices(model):
    """The `DynamicMatrix`es of a built model or layer: dict from path, as in `"lstm/kernel"`, in the model's order.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it has none.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r} of type {type(model).__name__}.")
    found = {f"{place.path}/{matrix.name}": matrix for place, matrix in _places(model)}
    if not found:
        raise ValueError(
            f"{model.name!r} has no block gates. They are in layers such as DynamicBlockDense"
            + ("." if model.built else ", once those are built: call the model once.")
        )
    return found


def _places(model):
    """Yields the `LayerPath` of a layer or cell, and a `DynamicMatrix` of it."""
    for place in layer_paths(model):
        for value in vars(place.layer).values():
            if isinstance(value, DynamicMatrix):
                yield place, value


def _run(model, x, batch_size, receive):
    """Runs a model batch by batch, and hands the gates of every matrix to `receive(path, gates)` as NumPy arrays."""
    matrices = dynamic_matrices(model)
    # Keras's loop over time makes the first step once more, before, to see the shapes of what it gives.
    looped = {
        f"{place.path}/{matrix.name}"
        for place, matrix in _places(model)
        if matrix.name == "recurrent_kernel" and not place.around.unroll
    }
    num_examples = len(keras.tree.flatten(x)[0])
    for start in range(0, num_examples, batch_size):
        calls = {path: [] for path in matrices}
        with contextlib.ExitStack() as stack:
            for path, matrix in matrices.items():
                stack.enter_context(matrix.gate.recording(calls[path].append))
            part = slice(start, start + batch_size)
            model(keras.tree.map_structure(lambda array, part=part: array[part], x), training=False)
        for path, made in calls.items():
            for gates in made[1:] if path in looped else made:
                receive(path, ops.convert_to_numpy(gates))
