"""Recurrent models that are fed piece by piece: their states go in and come out."""

import keras

from tf_blocksparse.convert import is_graph
from tf_blocksparse.pruning.weights import sublayers

# Whose output at a time step depends on others than this and, through states, the ones before it.
_ACROSS_TIME = tuple(
    getattr(keras.layers, name)
    for name in (
        "AdditiveAttention Attention AveragePooling1D Bidirectional Conv1D Conv1DTranspose Cropping1D "
        "DepthwiseConv1D Flatten GlobalAveragePooling1D GlobalMaxPooling1D GroupQueryAttention MaxPooling1D "
        "MultiHeadAttention Permute RepeatVector Reshape SeparableConv1D UpSampling1D ZeroPadding1D"
    ).split()
)


def streaming_model(model):
    """A model of the same layers that takes the states of its recurrent layers and gives the new ones.

    Feed it a sequence in pieces of any length, one time step or more, and each time the states that it gave for the
    piece before: the outputs are those of `model` on the whole sequence. The first states are zeros. So a server
    keeps nothing between the requests of a stream: its client does.

    Weights are shared with `model`, which is not changed.

    Args:
        model: a built Sequential or Functional `keras.Model` with `SimpleRNN`, `GRU`, `LSTM`, `RNN` or block-sparse
            recurrent layers in it, not within other layers or models. Its other layers have to treat each time step
            by itself.

    Returns:
        A `keras.Model` that takes and gives a dict. Inputs have the names they have in `model`, outputs those of its
        dict of outputs, or else `"output_0"`, `"output_1"` and so on. The states `[batch, units]` are called alike in
        both, by layer: `"lstm_state_0"`, h, and `"lstm_state_1"`, c, of a layer `"lstm"`.

    Raises:
        TypeError: if it is no Sequential or Functional model.
        ValueError: if it has no recurrent layer, or a layer that cannot be fed piece by piece.

    Example:

    >>> inputs = keras.Input((None, 8), name="x")
    >>> model = keras.Model(inputs, keras.layers.LSTM(4, name="lstm")(inputs))
    >>> stream = streaming_model(model)
    >>> sorted(stream.output)
    ['lstm_state_0', 'lstm_state_1', 'output_0']
    >>> states = {name: keras.ops.zeros((1, 4)) for name in ("lstm_state_0", "lstm_state_1")}
    >>> for piece in keras.ops.ones((3, 1, 2, 8)):  # six time steps
    ...     outputs = stream({"x": piece, **states})
    ...     states = {name: outputs[name] for name in states}
    >>> bool(np.allclose(outputs["output_0"], model(np.ones((1, 6, 8), "float32")), atol=1e-6))
    True

    A signature of its own: `export(model, path, signatures={"serve": model, "step": streaming_model(model)})`.
    """
    if not isinstance(model, keras.Model) or not is_graph(model):
        raise TypeError(
            "streaming_model() takes a Sequential or Functional keras.Model. Received: "
            f"{type(model).__name__} {getattr(model, 'name', model)!r}."
        )
    taps = _Taps()
    if isinstance(model, keras.Sequential):
        inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype, name=model.inputs[0].name)
        outputs = inputs
        for layer in model.layers:
            outputs = taps.call(layer, outputs)
    else:
        cloned = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=taps.call)
        inputs, outputs = cloned.input, cloned.output
    if not taps.states:
        raise ValueError(f"{model.name!r} has no recurrent layer, so it has no states to stream.")
    if not isinstance(outputs, dict):
        outputs = {f"output_{i}": y for i, y in enumerate(keras.tree.flatten(outputs))}
    inputs = inputs if isinstance(inputs, dict) else {x.name: x for x in keras.tree.flatten(inputs)}
    return keras.Model({**inputs, **taps.states}, {**outputs, **taps.new_states}, name=f"{model.name}_stream")


class _Taps:
    """Calls layers like a model does, and keeps the states of the recurrent ones: dicts by name, before and after."""

    def __init__(self):
        self.states = {}
        self.new_states = {}
        self._twins = {}  # by the id of the layer, of which a graph may hold one only

    def call(self, layer, *args, **kwargs):
        """`layer(*args, **kwargs)`, of a recurrent layer from states that are to be given."""
        _check(layer)
        if not isinstance(layer, keras.layers.RNN):
            return layer(*args, **kwargs)
        sizes = keras.tree.flatten(layer.cell.state_size)
        calls = sum(name.startswith(f"{layer.name}_state_0") for name in self.states)
        suffix = f"_{calls}" if calls else ""  # a layer may be called several times
        names = [f"{layer.name}_state_{i}{suffix}" for i in range(len(sizes))]
        # Zeros made from the input, as the graph must be whole until it is cut here.
        states = [_Zeros(size, name, layer.compute_dtype)(args[0]) for size, name in zip(sizes, names, strict=True)]
        kwargs["initial_state"] = keras.tree.pack_sequence_as(layer.get_initial_state(1), states)
        if id(layer) not in self._twins:
            self._twins[id(layer)] = _with_states(layer)
        output, *new_states = self._twins[id(layer)](*args, **kwargs)
        self.states.update(zip(names, states, strict=True))
        self.new_states.update(zip(names, keras.tree.flatten(new_states), strict=True))
        return [output, *new_states] if layer.return_state else output


class _Zeros(keras.layers.Layer):
    """Zeros `[batch, size]` for an input `[batch, ...]`."""

    def __init__(self, size, name, dtype):
        super().__init__(name=name, dtype=dtype, trainable=False)
        self.size = size
        self.supports_masking = True

    def call(self, inputs):
        return keras.ops.zeros((keras.ops.shape(inputs)[0], self.size), self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[0], self.size), self.compute_dtype, name=self.name)


def _with_states(layer):
    """A recurrent layer of the same cell that returns its states."""
    config = {**layer.get_config(), "return_state": True, "stateful": False}
    if type(layer) is keras.layers.RNN:
        return keras.layers.RNN(**{**config, "cell": layer.cell})
    twin = type(layer).from_config(config)
    twin.cell = layer.cell
    return twin


def _has_recurrent(layer):
    if isinstance(layer, keras.layers.RNN):
        return True
    return isinstance(layer, keras.layers.Layer) and any(_has_recurrent(inner) for inner in sublayers(layer))


def _check(layer):
    """Refuses layers of which a piece of a sequence does not give that piece of the output."""
    problem = None
    if isinstance(layer, keras.layers.RNN):
        sizes = keras.tree.flatten(layer.cell.state_size)
        if layer.go_backwards:
            problem = "goes backwards in time"
        elif not all(isinstance(size, int) for size in sizes):
            problem = "has states that are no vectors"
    elif isinstance(layer, _ACROSS_TIME):
        problem = "looks at several time steps at once"
    elif _has_recurrent(layer):
        problem = "has recurrent layers within"
    if problem:
        raise ValueError(f"{type(layer).__name__} {layer.name!r} {problem}, so it cannot be fed piece by piece.")
