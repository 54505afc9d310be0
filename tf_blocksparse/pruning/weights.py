"""Which weights of a Keras model can be pruned, and where their constraint and regularizer live.

Weights are found by Keras's own convention: a layer that has an attribute `x_constraint` makes a variable `x` or
`x_kernel` under it. So a custom layer that follows the convention is pruned as Keras's layers are, built or not.
"""

import dataclasses
import fnmatch

import keras
from keras import ops

from tf_blocksparse.matrix_view import MatrixView, einsum_view
from tf_blocksparse.pruning.constraint import BlockPruningConstraint
from tf_blocksparse.pruning.sublayer_constraints import (
    SublayerConstraints,
    is_attention,
    set_constraint,
    set_regularizer,
)

KINDS = ("recurrent", "linear", "embedding", "convolution")

_SUFFIX = "_constraint"
_WEIGHT_NAMES = {"recurrent": "recurrent_kernel", "pointwise": "pointwise_kernel", "depthwise": "depthwise_kernel"}
_NO_MATRIX = {
    "bias": "it is added",
    "beta": "it is added",
    "gamma": "it scales",
    "alpha": "it scales",
    "depthwise_kernel": "each channel has a filter of its own, which is no matrix product",
}
_GATES = {keras.layers.GRUCell: 3, keras.layers.LSTMCell: 4}
_CONV_LSTM = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_CONVOLUTIONS = (
    *_TRANSPOSED,
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
)


@dataclasses.dataclass(frozen=True)
class LayerPath:
    """A layer, and the layers around it from the outermost to itself."""

    chain: tuple

    @property
    def layer(self):
        """The layer itself."""
        return self.chain[-1]

    @property
    def around(self):
        """The layer that holds it, or None."""
        return self.chain[-2] if len(self.chain) > 1 else None

    @property
    def path(self):
        """Names from below the model down to the layer, as in `"bidirectional/forward_lstm"`.

        A recurrent layer's own cell is not named: `keras.layers.LSTM` calls it `"lstm_cell"`.
        """
        outer = self.chain[1:] if isinstance(self.chain[0], keras.Model) else self.chain
        names = [layer.name for layer in outer]
        if len(outer) > 1 and getattr(outer[-2], "cell", None) is outer[-1]:
            names.pop()
        return "/".join(names)


@dataclasses.dataclass
class PrunableWeight:
    """One weight matrix that can be pruned.

    Attributes:
        place: the `LayerPath` of the layer that holds it.
        stem: name of its constraint on the layer, without `_constraint`.
    """

    place: LayerPath
    stem: str

    @property
    def owner(self):
        """The layer that holds the weight."""
        return self.place.layer

    @property
    def name(self):
        """Name of the weight on its layer, as in `"recurrent_kernel"`."""
        return _WEIGHT_NAMES.get(self.stem, self.stem)

    @property
    def path(self):
        """Path of the weight, as in `"lstm/recurrent_kernel"`."""
        return f"{self.place.path}/{self.name}"

    @property
    def kind(self):
        """One of `KINDS`: weights of a kind can share a schedule ([BSR] 3.1)."""
        if self.stem == "recurrent":
            return "recurrent"
        if isinstance(self.owner, keras.layers.Embedding):
            return "embedding"
        convolves = isinstance(self.owner, _CONVOLUTIONS) or isinstance(self.place.around, _CONV_LSTM)
        return "convolution" if convolves else "linear"

    @property
    def gates(self):
        """Number of gate matrices, or groups of a convolution, side by side in the weight."""
        if isinstance(self.place.around, _CONV_LSTM):
            return 4
        groups = getattr(self.owner, "groups", 1) if isinstance(self.owner, _CONVOLUTIONS) else 1
        return next((n for cell, n in _GATES.items() if isinstance(self.owner, cell)), groups)

    @property
    def view(self):
        """The `MatrixView` of the weight."""
        if isinstance(self.owner, keras.layers.EinsumDense):
            return einsum_view(self.owner.equation)
        if isinstance(self.owner, _TRANSPOSED):  # stored as [height, width, out, in]
            spatial = tuple(range(self.owner.rank))
            return MatrixView((*spatial, self.owner.rank + 1), (self.owner.rank,))
        return MatrixView()

    @property
    def variable(self):
        """The `keras.Variable`, or None while the layer is not built."""
        found = getattr(self.owner, self.name, None) if self.owner.built else None
        return found if isinstance(found, keras.Variable) else None

    @property
    def problem(self):
        """Why the weight cannot be pruned, in a few words, or None."""
        if self.name in _NO_MATRIX:
            return _NO_MATRIX[self.name]
        if getattr(self.owner, "lora_enabled", False):
            return "the layer has LoRA weights: prune before enable_lora()"
        if getattr(self.owner, "quantization_mode", None):
            return "the layer is quantized: prune before quantize()"
        if self.variable is not None and not keras.backend.is_float_dtype(self.variable.dtype):
            return f"its dtype is {self.variable.dtype}"
        if self.variable is not None and len(self.variable.shape) < 2:
            return "it is a vector"
        return None

    def matrix(self):
        """The present values `[in, out]`: NumPy array. Of a pruned weight, dropped blocks are zero."""
        w = self.variable if self.pruning is None else self.pruning.masked(self.variable)
        return self.view.to_matrix(ops.convert_to_numpy(w))

    @property
    def constraint(self):
        """The constraint that the owner gives, or gave, to the variable."""
        found = getattr(self.owner, self.stem + _SUFFIX, None)
        return found.of_sublayer(self.owner) if isinstance(found, SublayerConstraints) else found

    @constraint.setter
    def constraint(self, value):
        if is_attention(self.place.around):
            set_constraint(self.place.around, self.owner, value)
            return
        setattr(self.owner, self.stem + _SUFFIX, value)
        if self.variable is not None:
            self.variable.constraint = value

    @property
    def pruning(self):
        """The `BlockPruningConstraint` of the weight, or None if it is not pruned."""
        return self.constraint if isinstance(self.constraint, BlockPruningConstraint) else None

    @property
    def regularizer(self):
        """The regularizer that the owner gives, or gave, to the variable."""
        return getattr(self.owner, self.stem + "_regularizer", None)

    @regularizer.setter
    def regularizer(self, value):
        setattr(self.owner, self.stem + "_regularizer", value)
        if self.variable is not None:
            self.variable.regularizer = value
        if is_attention(self.place.around):
            set_regularizer(self.place.around, value)

    def matches(self, selection):
        """Whether `selection` picks this weight: see `prune_blocks()`."""
        if isinstance(selection, keras.layers.Layer):
            return any(layer is selection for layer in self.place.chain)
        if isinstance(selection, type):
            return any(isinstance(layer, selection) for layer in self.place.chain)
        if isinstance(selection, str):
            names = [layer.name for layer in self.place.chain] + [self.place.path, self.path]
            return any(fnmatch.fnmatchcase(name, selection) for name in names)
        if callable(selection):
            return bool(selection(self.owner))
        if isinstance(selection, (list, tuple, set)):
            return any(self.matches(one) for one in selection)
        raise TypeError(
            "`include` and `exclude` take a layer, a class of layers, a name pattern such as 'lstm_*' or "
            f"'*/recurrent_kernel', a function of a layer, or a list of these. Received: {selection!r} of type "
            f"{type(selection).__name__}."
        )


def layer_paths(layer):
    """Yields a `LayerPath` for `layer` and every layer in it, each once."""
    seen = set()

    def walk(chain):
        if id(chain[-1]) not in seen:
            seen.add(id(chain[-1]))
            yield LayerPath(chain)
            for sublayer in sublayers(chain[-1]):
                yield from walk((*chain, sublayer))

    yield from walk((layer,))


def weights_with_constraint(layer):
    """Yields a `PrunableWeight` for every weight in `layer` that has a constraint, whether or not it is a matrix."""
    for place in layer_paths(layer):
        if not is_attention(place.layer):  # its constraint is that of its projections
            for attribute in list(vars(place.layer)):
                if attribute.endswith(_SUFFIX) and not attribute.startswith("_"):
                    yield PrunableWeight(place, attribute.removesuffix(_SUFFIX))


def prunable_weights(layer):
    """Yields a `PrunableWeight` for every weight in `layer` that `prune_blocks()` can prune, each once."""
    seen = set()
    for weight in weights_with_constraint(layer):
        variable = weight.variable
        if weight.problem is None and not (weight.owner.built and variable is None) and id(variable) not in seen:
            seen.update([] if variable is None else [id(variable)])
            yield weight


def named_weights(layer, pattern):
    """`PrunableWeight`s for the variables of any layer whose name or path matches `pattern`.

    Gives them a constraint attribute by Keras's convention, so that they are found as others are.
    """
    found = []
    for place in layer_paths(layer):
        for name, value in list(vars(place.layer).items()):
            paths = (name, f"{place.path}/{name}")
            if isinstance(value, keras.Variable) and any(fnmatch.fnmatchcase(p, pattern) for p in paths):
                found.append(PrunableWeight(place, name))
    return found


def pruned_weights(layer_or_model):
    """The `PrunableWeight`s that `prune_blocks()` was called on."""
    return [weight for weight in prunable_weights(layer_or_model) if weight.pruning is not None]


def sublayers(layer):
    """The layers that `layer` is made of, found among its attributes."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    found = []
    _collect([v for name, v in vars(layer).items() if name != "_layers"], found)
    return found


def _collect(value, found):
    if isinstance(value, keras.layers.Layer):
        if all(value is not other for other in found):
            found.append(value)
    elif isinstance(value, dict):
        _collect(list(value.values()), found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
