"""Which weights of a Keras model can be pruned, and where their constraint and regularizer live."""

import dataclasses
import fnmatch

import keras


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Names of a weight's attributes on the layer that owns it, and how its matrix is laid out."""

    weight: str
    constraint: str
    regularizer: str
    kind: str
    gates: int = 1


def _recurrent(gates):
    return (
        Attributes("kernel", "kernel_constraint", "kernel_regularizer", "linear", gates),
        Attributes("recurrent_kernel", "recurrent_constraint", "recurrent_regularizer", "recurrent", gates),
    )


PRUNABLE = {
    keras.layers.Dense: (Attributes("kernel", "kernel_constraint", "kernel_regularizer", "linear"),),
    keras.layers.Embedding: (Attributes("embeddings", "embeddings_constraint", "embeddings_regularizer", "embedding"),),
    keras.layers.SimpleRNNCell: _recurrent(gates=1),
    keras.layers.GRUCell: _recurrent(gates=3),
    keras.layers.LSTMCell: _recurrent(gates=4),
}
KINDS = ("recurrent", "linear", "embedding")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A layer that holds no other layers, and the layers around it from the outermost to itself."""

    chain: tuple

    @property
    def layer(self):
        """The layer itself."""
        return self.chain[-1]

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

    def matches(self, selection):
        """Whether `selection` picks this layer: see `prune_blocks()`."""
        if callable(selection) and not isinstance(selection, keras.layers.Layer):
            return bool(selection(self.layer))
        if isinstance(selection, str):
            names = [layer.name for layer in self.chain] + [self.path]
            return any(fnmatch.fnmatchcase(name, selection) for name in names)
        if isinstance(selection, keras.layers.Layer):
            return any(layer is selection for layer in self.chain)
        if isinstance(selection, (list, tuple, set)):
            return any(self.matches(one) for one in selection)
        raise TypeError(
            "`include` and `exclude` take a layer, a name pattern such as 'lstm_*', a function of a layer, or "
            f"a list of these. Received: {selection!r} of type {type(selection).__name__}."
        )


@dataclasses.dataclass
class PrunableWeight:
    """One weight matrix that can be pruned."""

    leaf: Leaf
    attributes: Attributes

    @property
    def owner(self):
        """The layer that holds the weight."""
        return self.leaf.layer

    @property
    def path(self):
        """Path of the weight, as in `"lstm/recurrent_kernel"`."""
        return f"{self.leaf.path}/{self.attributes.weight}"

    @property
    def kind(self):
        """`"recurrent"`, `"linear"` or `"embedding"`: weights of a kind share a schedule ([BSR] 3.1)."""
        return self.attributes.kind

    @property
    def gates(self):
        """Number of gate matrices side by side in the weight."""
        return self.attributes.gates

    @property
    def variable(self):
        """The `keras.Variable`, or None while the layer is not built."""
        return getattr(self.owner, self.attributes.weight, None) if self.owner.built else None

    @property
    def constraint(self):
        """The constraint that the owner gives, or gave, to the variable."""
        return getattr(self.owner, self.attributes.constraint)

    @constraint.setter
    def constraint(self, value):
        setattr(self.owner, self.attributes.constraint, value)
        if self.variable is not None:
            self.variable.constraint = value

    @property
    def regularizer(self):
        """The regularizer that the owner gives, or gave, to the variable."""
        return getattr(self.owner, self.attributes.regularizer)

    @regularizer.setter
    def regularizer(self, value):
        setattr(self.owner, self.attributes.regularizer, value)
        if self.variable is not None:
            self.variable.regularizer = value


def leaves(layer):
    """Yields a `Leaf` for every layer in `layer`, itself included, that holds no other layers; each once."""
    seen = set()

    def walk(chain):
        if id(chain[-1]) in seen:
            return
        seen.add(id(chain[-1]))
        inner = _sublayers(chain[-1])
        if not inner:
            yield Leaf(chain)
        for sublayer in inner:
            yield from walk((*chain, sublayer))

    yield from walk((layer,))


def prunable_weights(layer):
    """Yields a `PrunableWeight` for every weight in `layer` that `prune_blocks()` can prune."""
    for leaf in leaves(layer):
        for attributes in weights_of(leaf.layer):
            yield PrunableWeight(leaf, attributes)


def weights_of(layer):
    """The `Attributes` of the weights of `layer` itself that can be pruned."""
    return next((found for kind, found in PRUNABLE.items() if isinstance(layer, kind)), ())


def _sublayers(layer):
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
