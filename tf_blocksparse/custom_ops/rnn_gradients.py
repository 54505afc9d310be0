"""Gradients of the ops for whole sequences.

An op goes back through time and gives the gradient of what is added up before the activations, for all steps at once.
All others are products with that: the same three as of `block_sparse_matmul`.

What an op of the first kind needs, the forward op has kept if it was told to (`save`). If not, it is run again.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import flatten

_MATRICES = ("kernel", "recurrent", "candidate")
_PARTS = ("blocks", "indices", "indptr")
_OPTIONS = ("time_major", "go_backwards", "return_sequences", "zero_output_for_mask")


@tf.RegisterGradient("BlockSparse>Rnn")
def _rnn_grad(op, doutput, dh, *_):
    inputs = _inputs(op, "x h0 kernel recurrent", "bias mask")
    options = _options(op, "activation")
    gates, states = _saved(op, ops().block_sparse_rnn, inputs, options, first=2)
    dprojected, dh0 = ops().block_sparse_rnn_grad(
        doutput=doutput, dh=dh, gates=gates, **_matrix(inputs, "recurrent"), mask=inputs["mask"], **options
    )
    gradients = _input_gradients(op, inputs, dprojected, gates=1)
    gradients |= {"h0": dh0, "recurrent_blocks": _dblocks(states, dprojected, inputs, "recurrent", 1)}
    return _in_order(inputs, gradients | {"bias": _sums(dprojected)})


@tf.RegisterGradient("BlockSparse>Gru")
def _gru_grad(op, doutput, dh, *_):
    inputs = _inputs(op, "x h0 kernel recurrent", "candidate bias mask")
    options = _options(op, "activation", "recurrent_activation")
    gates, states = _saved(op, ops().block_sparse_gru, inputs, options, first=2)
    dprojected, drecurrent, dh0 = ops().block_sparse_gru_grad(
        doutput=doutput, dh=dh, gates=gates, states=states, **_matrix(inputs, "recurrent"),
        **_matrix(inputs, "candidate"), mask=inputs["mask"], **options,
    )  # fmt: skip
    gradients = _input_gradients(op, inputs, dprojected, gates=3) | {"h0": dh0}
    units = inputs["h0"].shape[-1]
    if inputs["candidate_blocks"]:
        reset = gates[..., units : 2 * units]
        of_gates, of_candidate = drecurrent[..., : 2 * units], drecurrent[..., 2 * units :]
        gradients["recurrent_blocks"] = _dblocks(states, of_gates, inputs, "recurrent", 2)
        gradients["candidate_blocks"] = _dblocks(reset * states, of_candidate, inputs, "candidate", 1)
        gradients["bias"] = _sums(dprojected)
    else:
        gradients["recurrent_blocks"] = _dblocks(states, drecurrent, inputs, "recurrent", 3)
        gradients["bias"] = tf.stack([_sums(dprojected), _sums(drecurrent)])
    return _in_order(inputs, gradients)


@tf.RegisterGradient("BlockSparse>Lstm")
def _lstm_grad(op, doutput, dh, dc, *_):
    inputs = _inputs(op, "x h0 c0 kernel recurrent", "bias mask")
    options = _options(op, "activation", "recurrent_activation")
    gates, states, cells = _saved(op, ops().block_sparse_lstm, inputs, options, first=3)
    dprojected, dh0, dc0 = ops().block_sparse_lstm_grad(
        doutput=doutput, dh=dh, dc=dc, gates=gates, cells=cells, c0=inputs["c0"], **_matrix(inputs, "recurrent"),
        mask=inputs["mask"], **options,
    )  # fmt: skip
    gradients = _input_gradients(op, inputs, dprojected, gates=4)
    gradients |= {"h0": dh0, "c0": dc0, "recurrent_blocks": _dblocks(states, dprojected, inputs, "recurrent", 4)}
    return _in_order(inputs, gradients | {"bias": _sums(dprojected)})


def _no_second_gradient(op, *_):
    raise NotImplementedError(
        f"{op.type} is not differentiable: the ops for whole sequences have no second derivatives. Make the layer "
        "with implementation='step', or call block_sparse_rnn_reference, block_sparse_gru_reference or "
        "block_sparse_lstm_reference."
    )


for _name in ("Rnn", "Gru", "Lstm"):
    tf.RegisterGradient(f"BlockSparse>{_name}Grad")(_no_second_gradient)


def _inputs(op, single, lists):
    """Inputs of an op by name, in their order; matrices are three, and those of `lists` are lists."""
    rest = iter(op.inputs)
    inputs = {name: next(rest) for name in _names(single)}
    for argument in lists.split():
        count = op.get_attr({"bias": "num_biases", "mask": "num_masks", "candidate": "num_candidates"}[argument])
        inputs |= {name: [next(rest) for _ in range(count)] for name in _names(argument)}
    return inputs


def _names(arguments):
    for argument in arguments.split():
        yield from (f"{argument}_{part}" for part in _PARTS) if argument in _MATRICES else (argument,)


def _options(op, *activations):
    """What forward op and gradient op are told alike."""
    return {name: op.get_attr(name).decode() for name in activations} | {name: op.get_attr(name) for name in _OPTIONS}


def _saved(op, forward, inputs, options, first):
    """The outputs that are kept for the gradient, from the first of them on."""
    outputs = op.outputs if op.get_attr("save") else forward(**inputs, **options, save=True)
    return outputs[first:]


def _matrix(inputs, name):
    return {key: inputs[key] for key in _names(name)}


def _input_gradients(op, inputs, dprojected, gates):
    """Gradients of `x` and of the kernel's blocks; `dprojected` is in the order of the walk, `x` in that of time."""
    x = inputs["x"]
    if op.get_attr("go_backwards"):
        dprojected = tf.reverse(dprojected, [0 if op.get_attr("time_major") else 1])
    dx = ops().block_sparse_mat_mul_grad_x(
        flatten(dprojected), flatten(x), **_matrix_arguments(inputs, "kernel"), **_layout(inputs, gates)
    )
    return {
        "x": tf.reshape(dx, tf.shape(x)),
        "kernel_blocks": _dblocks(x, dprojected, inputs, "kernel", gates),
    }


def _dblocks(x, dy, inputs, matrix, gates):
    """Gradient of the blocks of a matrix that every step multiplies `x` `[.., .., in]` by."""
    return ops().block_sparse_mat_mul_grad_blocks(
        flatten(x), flatten(dy), **_matrix_arguments(inputs, matrix), **_layout(inputs, gates)
    )


def _matrix_arguments(inputs, name):
    """The stored blocks of a matrix as an op of one matrix takes them."""
    values = (inputs[key] for key in _names(name))
    return {part: v[0] if isinstance(v, list) else v for part, v in zip(_PARTS, values, strict=True)}


def _layout(inputs, gates):
    return {"out_features": gates * inputs["h0"].shape[-1], "gates": gates, "order": "column"}


def _sums(dy):
    return tf.reduce_sum(dy, axis=[0, 1])


def _in_order(inputs, gradients):
    """A gradient, or None, for each input of the op."""
    return [
        gradients.get(name) for name, value in inputs.items() for _ in (value if isinstance(value, list) else [value])
    ]
