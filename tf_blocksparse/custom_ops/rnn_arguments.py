"""Checks of what the ops for whole sequences are given."""

import tensorflow as tf

from tf_blocksparse.custom_ops.matmul import ACTIVATIONS, check_choice, check_float32, convert_pattern


def sequence_inputs(caller, x, states, matrices, bias, mask, *, gates, time_major, two_biases=False):
    """The inputs of an op for whole sequences, by the names that it has for them.

    Args:
        caller: name of the public function, for messages. That of an op takes float32 only, and one that ends in
            `_reference` any floating dtype.
        x: `[batch, time, in_features]`, or `[time, batch, in_features]` if `time_major`.
        states: dict by name, of `[batch, units]`.
        matrices: dict by name, of tuples `(blocks, indices, indptr)`. The candidate's may be None.
        bias: None or a tensor.
        mask: None or bool `[batch, time]`, with `time_major` `[time, batch]`.
        gates: int. The bias is `[gates * units]`.
        time_major: bool.
        two_biases: bool. The bias is `[2, gates * units]`.

    Returns:
        Dict of tensors. `bias` and `mask` are lists of at most one.

    Raises:
        TypeError: if one has another dtype.
        ValueError: if one has a wrong shape, as far as that is known, or the number of units is not.
    """
    x = tf.convert_to_tensor(x, name="x")
    axes = "[time, batch" if time_major else "[batch, time"
    _check_shape(caller, "x", x, [None, None, None], f"{axes}, in_features]")
    _check_dtype(caller, "x", x, x.dtype)
    leading = x.shape[:2] if x.shape.rank else [None, None]
    inputs = {"x": x, **_states(caller, states, x, leading[1 if time_major else 0])}
    for name, matrix in matrices.items():
        if matrix is None and name == "candidate":
            continue
        blocks, indices, indptr = _matrix(caller, name, matrix, x)
        inputs |= {f"{name}_blocks": blocks, f"{name}_indices": indices, f"{name}_indptr": indptr}
    features = gates * units_of(inputs)
    bias_shape = [2, features] if two_biases else [features]
    return inputs | {
        "bias": [] if bias is None else [_bias(caller, bias, x, bias_shape)],
        "mask": [] if mask is None else [_mask(caller, mask, leading, f"{axes}]")],
    }


def units_of(inputs):
    """Units of the layer, an int, of what `sequence_inputs()` returned."""
    return inputs["h0"].shape[1]


def check_activations(**activations):
    """Refuses activations that the kernels do not have."""
    for argument, value in activations.items():
        check_choice(argument, value, ACTIVATIONS)


def _states(caller, states, x, batch):
    tensors = {name: tf.convert_to_tensor(state, name=name) for name, state in states.items()}
    units = None
    for name, state in tensors.items():
        _check_dtype(caller, name, state, x.dtype)
        _check_shape(caller, name, state, [batch, units], "[batch, units]")
        units = None if state.shape.rank is None else state.shape[1]
        if units is None:
            raise ValueError(
                f"`{caller}` reads the number of units from `{name}`, whose shape {state.shape} does not tell it. "
                f"Say it, by `tf.ensure_shape({name}, [None, units])`."
            )
    return tensors


def _matrix(caller, name, matrix, x):
    argument = name if name == "kernel" else f"{name}_kernel"
    if not isinstance(matrix, (tuple, list)) or len(matrix) != 3:
        raise TypeError(
            f"`{caller}` expects `{argument}` as a tuple (blocks, indices, indptr), in column order, got "
            f"{type(matrix).__name__}. Of a `BsrMatrix` w it is `(w.blocks, w.indices, w.indptr)`."
        )
    where = f"{caller}({argument}=)"
    blocks = tf.convert_to_tensor(matrix[0], name=f"{name}_blocks")
    _check_dtype(where, "blocks", blocks, x.dtype)
    return blocks, *convert_pattern(blocks, *matrix[1:], where)


def _bias(caller, bias, x, shape):
    bias = tf.convert_to_tensor(bias, name="bias")
    _check_dtype(caller, "bias", bias, x.dtype)
    _check_shape(caller, "bias", bias, shape, "[2, gates * units]" if len(shape) == 2 else "[gates * units]")
    return bias


def _mask(caller, mask, leading, words):
    mask = tf.convert_to_tensor(mask, name="mask")
    if mask.dtype != tf.bool:
        raise TypeError(
            f"`{caller}` expects `mask` of dtype bool, got {mask.dtype.name}. Convert it, by `tf.cast(mask, tf.bool)`."
        )
    _check_shape(caller, "mask", mask, leading, words)
    return mask


def _check_dtype(caller, name, tensor, dtype):
    if not caller.split("(")[0].endswith("_reference"):
        check_float32(name, tensor, caller)
    elif not tensor.dtype.is_floating or tensor.dtype != dtype:
        raise TypeError(
            f"`{caller}` expects tensors of one floating dtype, got `{name}` of dtype {tensor.dtype.name} and `x` of "
            f"{dtype.name}. Convert it, by `tf.cast({name}, tf.{dtype.name})`."
        )


def _check_shape(caller, name, tensor, shape, words):
    if not tensor.shape.is_compatible_with(shape):
        raise ValueError(
            f"`{caller}` expects `{name}` of shape {words}, that is {tf.TensorShape(shape)} beside its other "
            f"arguments, got shape {tensor.shape}. Give all of them the same batch, time and units."
        )
