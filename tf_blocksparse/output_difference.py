"""How far the outputs of two models lie apart on given data."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from tf_blocksparse.pruning.weights import layer_paths

_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """The difference of one output of two models.

    Attributes:
        name: of the output.
        largest: float, the largest absolute difference of an element.
        relative: float, Euclidean norm of the difference over that of the first model's output: 0.0 if there is no
            difference, infinite if only the first is all zeros.
    """

    name: str
    largest: float
    relative: float

    def __str__(self):
        return f"{self.name}: at most {self.largest:.2g}, relative L2 {self.relative:.2g}"


def output_differences(model, other, data):
    """Compares the outputs of two models, which stay as they are.

    Args:
        model, other: built models or layers of the same inputs and outputs. Those that keep states from batch to
            batch start from zero.
        data: inputs as for `model.predict()`: an array, a tuple, list or dict of arrays, or an iterable of batches
            such as a `tf.data.Dataset`, which may have targets.

    Returns:
        Tuple of `OutputDifference`, one for each output.

    Raises:
        ValueError: if `data` is empty.
    """
    functions = [_function(one) for one in (model, other)]
    sums = None
    with _ZeroStates(model), _ZeroStates(other):
        for x in _batches(model, data):
            outputs = [_outputs(function(x)) for function in functions]
            batch = np.array([_sums(*pair) for pair in zip(*outputs, strict=True)])  # [outputs, 3]
            sums = batch if sums is None else np.column_stack([np.maximum(sums, batch)[:, 0], (sums + batch)[:, 1:]])
    if sums is None:
        raise ValueError(f"`calibration_data` has no examples to compare outputs on. Received: {data!r}.")
    return tuple(
        OutputDifference(name, float(largest), _ratio(squares, norm))
        for name, (largest, squares, norm) in zip(_names(model, len(sums)), sums, strict=True)
    )


def _function(model):
    # Not predict(), which would compile an uncompiled model by XLA and leave its functions on it.
    return tf.function(lambda x: model(x, training=False), autograph=False, reduce_retracing=True)


def _sums(a, b):
    """Largest difference, sum of its squares, sum of the squares of `a`."""
    difference = np.abs(a - b)
    return difference.max(initial=0.0), np.square(difference).sum(), np.square(a).sum()


def _ratio(squares, norm):
    if not squares:
        return 0.0
    return float(np.sqrt(squares / norm)) if norm else math.inf


def _outputs(outputs):
    return [keras.ops.convert_to_numpy(y).astype("float64") for y in keras.tree.flatten(outputs)]


def _names(model, count):
    names = getattr(model, "output_names", None)
    if names is not None and len(names) == count:
        return names
    return [f"output {i}" if count > 1 else "output" for i in range(count)]


def _batches(model, data):
    """Yields inputs of the model, batch by batch."""
    if not isinstance(data, (tuple, list, dict)) and not hasattr(data, "shape"):
        for batch in data:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]
        return
    data = keras.tree.map_structure(np.asarray, data)
    first = keras.tree.flatten(data)[0]
    fixed = keras.tree.flatten(model.inputs)[0].shape[0] if isinstance(model, keras.Model) else None
    size = fixed or _BATCH_SIZE
    for start in range(0, len(first), size):
        yield keras.tree.map_structure(lambda a: tf.constant(a[start : start + size]), data)  # noqa: B023


class _ZeroStates:
    """Within it the recurrent layers of a model that keep their states start from zero; then they have the old ones."""

    def __init__(self, model):
        layers = [place.layer for place in layer_paths(model)]
        self._layers = [x for x in layers if getattr(x, "stateful", False) and getattr(x, "states", None)]

    def __enter__(self):
        self._states = [[keras.ops.copy(s) for s in keras.tree.flatten(layer.states)] for layer in self._layers]
        for layer in self._layers:
            layer.reset_state()

    def __exit__(self, *exception):
        for layer, old in zip(self._layers, self._states, strict=True):
            for state, value in zip(keras.tree.flatten(layer.states), old, strict=True):
                state.assign(value)
