"""The functions of `rnn` in standard TensorFlow ops: a loop over time, with a product a step.

Slow, but they need no library of ops, take any floating dtype and are differentiable any number of times: for tests,
for second derivatives and for graphs that have to run where the ops are not. Indices are not checked.

```python
output, h, c = block_sparse_lstm_reference(x, h0, c0, kernel, recurrent_kernel, bias=bias)
```
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.matmul import ACTIVATIONS, block_sparse_matmul_reference
from tf_blocksparse.custom_ops.rnn_arguments import check_activations, sequence_inputs, units_of


def block_sparse_rnn_reference(
    x,
    h0,
    kernel,
    recurrent_kernel,
    *,
    bias=None,
    mask=None,
    activation="tanh",
    time_major=False,
    go_backwards=False,
    return_sequences=True,
    zero_output_for_mask=False,
    name=None,
):
    """The same function as `block_sparse_rnn`, of standard TensorFlow ops.

    Args:
        x: Tensor `[batch, time, in_features]`, of any floating dtype.
        h0: Tensor `[batch, units]`, of the same dtype.
        kernel: tuple `(blocks, indices, indptr)`, blocks of the same dtype.
        recurrent_kernel: tuple `(blocks, indices, indptr)`, blocks of the same dtype.
        bias: Tensor `[units]`, of the same dtype, or None.
        mask: Tensor `[batch, time]`, bool, or None.
        activation, time_major, go_backwards, return_sequences, zero_output_for_mask: as of `block_sparse_rnn`.
        name: Optional name of the scope.

    Returns:
        Tuple of the output and the state after the last step, of the dtype of `x`.

    Raises:
        TypeError, ValueError: as `block_sparse_rnn`.

    Example:

    >>> one = (tf.ones([1, 1, 1], tf.float64), [0], [0, 1])
    >>> x, h0 = tf.ones([1, 3, 1], tf.float64), tf.zeros([1, 1], tf.float64)
    >>> output, h = block_sparse_rnn_reference(x, h0, one, one, activation="linear")
    >>> output[0, :, 0].numpy()
    array([1., 2., 3.])
    """
    check_activations(activation=activation)
    act = ACTIVATIONS[activation]
    with tf.name_scope(name or "block_sparse_rnn_reference"):
        matrices = {"kernel": kernel, "recurrent": recurrent_kernel}
        inputs = sequence_inputs(
            "block_sparse_rnn_reference", x, {"h0": h0}, matrices, bias, mask, gates=1, time_major=time_major
        )

        def step(projected, h):
            return [act(projected + _product(h, inputs, "recurrent", 1))]

        projected = _product(inputs["x"], inputs, "kernel", 1, *inputs["bias"])
        options = (time_major, go_backwards, return_sequences, zero_output_for_mask)
        return _walk(step, projected, [inputs["h0"]], inputs["mask"], *options)


def block_sparse_gru_reference(
    x,
    h0,
    kernel,
    recurrent_kernel,
    candidate_kernel=None,
    *,
    bias=None,
    mask=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    time_major=False,
    go_backwards=False,
    return_sequences=True,
    zero_output_for_mask=False,
    name=None,
):
    """The same function as `block_sparse_gru`, of standard TensorFlow ops.

    Args:
        x: Tensor `[batch, time, in_features]`, of any floating dtype, which that of all others is.
        h0, kernel, recurrent_kernel, candidate_kernel, bias, mask, activation, recurrent_activation, time_major,
            go_backwards, return_sequences, zero_output_for_mask: as of `block_sparse_gru`.
        name: Optional name of the scope.

    Returns:
        Tuple of the output and the state after the last step, of the dtype of `x`.

    Raises:
        TypeError, ValueError: as `block_sparse_gru`.
    """
    check_activations(activation=activation, recurrent_activation=recurrent_activation)
    act, gate = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    reset_after = candidate_kernel is None
    with tf.name_scope(name or "block_sparse_gru_reference"):
        matrices = {"kernel": kernel, "recurrent": recurrent_kernel, "candidate": candidate_kernel}
        inputs = sequence_inputs(
            "block_sparse_gru_reference", x, {"h0": h0}, matrices, bias, mask,
            gates=3, two_biases=reset_after, time_major=time_major,
        )  # fmt: skip
        biases = tf.unstack(inputs["bias"][0], num=2) if reset_after and inputs["bias"] else inputs["bias"]

        def step(projected, h):
            x_z, x_r, x_g = tf.split(projected, 3, axis=1)  # [batch, units] each
            if reset_after:
                h_z, h_r, h_g = tf.split(_product(h, inputs, "recurrent", 3, *biases[1:]), 3, axis=1)
            else:
                h_z, h_r = tf.split(_product(h, inputs, "recurrent", 2), 2, axis=1)
            z, r = gate(x_z + h_z), gate(x_r + h_r)
            h_g = r * h_g if reset_after else _product(r * h, inputs, "candidate", 1)
            return [z * h + (1 - z) * act(x_g + h_g)]

        projected = _product(inputs["x"], inputs, "kernel", 3, *biases[:1])
        options = (time_major, go_backwards, return_sequences, zero_output_for_mask)
        return _walk(step, projected, [inputs["h0"]], inputs["mask"], *options)


def block_sparse_lstm_reference(
    x,
    h0,
    c0,
    kernel,
    recurrent_kernel,
    *,
    bias=None,
    mask=None,
    activation="tanh",
    recurrent_activation="sigmoid",
    time_major=False,
    go_backwards=False,
    return_sequences=True,
    zero_output_for_mask=False,
    name=None,
):
    """The same function as `block_sparse_lstm`, of standard TensorFlow ops.

    Args:
        x: Tensor `[batch, time, in_features]`, of any floating dtype, which that of all others is.
        h0, c0, kernel, recurrent_kernel, bias, mask, activation, recurrent_activation, time_major, go_backwards,
            return_sequences, zero_output_for_mask: as of `block_sparse_lstm`.
        name: Optional name of the scope.

    Returns:
        Tuple of three: the output, and h and c after the last step, of the dtype of `x`.

    Raises:
        TypeError, ValueError: as `block_sparse_lstm`.
    """
    check_activations(activation=activation, recurrent_activation=recurrent_activation)
    act, gate = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    with tf.name_scope(name or "block_sparse_lstm_reference"):
        matrices = {"kernel": kernel, "recurrent": recurrent_kernel}
        states = {"h0": h0, "c0": c0}
        inputs = sequence_inputs(
            "block_sparse_lstm_reference", x, states, matrices, bias, mask, gates=4, time_major=time_major
        )

        def step(projected, h, c):
            i, f, g, o = tf.split(projected + _product(h, inputs, "recurrent", 4), 4, axis=1)  # [batch, units] each
            c = gate(f) * c + gate(i) * act(g)
            return [gate(o) * act(c), c]

        projected = _product(inputs["x"], inputs, "kernel", 4, *inputs["bias"])
        options = (time_major, go_backwards, return_sequences, zero_output_for_mask)
        return _walk(step, projected, [inputs["h0"], inputs["c0"]], inputs["mask"], *options)


def _product(x, inputs, matrix, gates, bias=None):
    """`x W + bias` for one of the matrices of `gates * units` columns in `inputs`."""
    return block_sparse_matmul_reference(
        x,
        *(inputs[f"{matrix}_{part}"] for part in ("blocks", "indices", "indptr")),
        out_features=gates * units_of(inputs),
        gates=gates,
        bias=bias,
        order="column",
    )


def _walk(step, projected, states, mask, time_major, go_backwards, return_sequences, zero_output_for_mask):
    """Applies `step(projected_t, *states)`, which gives the new states, the output first, to all time steps.

    Returns the output and the states after the last step.
    """
    sequences = [projected, *(m[..., tf.newaxis] for m in mask)]  # [batch, time, features], [batch, time, 1]
    if not time_major:
        sequences = [tf.transpose(s, [1, 0, 2]) for s in sequences]
    if go_backwards:
        sequences = [tf.reverse(s, [0]) for s in sequences]
    time = tf.shape(projected)[0 if time_major else 1]
    arrays = [tf.TensorArray(s.dtype, size=time, element_shape=s.shape[1:]).unstack(s) for s in sequences]
    before = tf.zeros_like(states[0])  # the output before the first step
    # The zeros are written too: an array with no elements could not be stacked, as it knows no batch.
    outputs = tf.TensorArray(before.dtype, time + 1, clear_after_read=False, element_shape=before.shape)

    def body(t, outputs, last, *states):
        inputs, *keep = (array.read(t) for array in arrays)
        new = step(inputs, *states)
        output = new[0]
        if keep:
            output = tf.where(keep[0], output, before if zero_output_for_mask else last)
            new = [tf.where(keep[0], after, state) for after, state in zip(new, states, strict=True)]
        return t + 1, outputs.write(t + 1, output), output, *new

    _, outputs, output, *states = tf.while_loop(
        lambda t, *_: t < time, body, (0, outputs.write(0, before), before, *states)
    )
    if return_sequences:
        output = outputs.stack()[1:]  # [time, batch, units]
        output = output if time_major else tf.transpose(output, [1, 0, 2])
    return output, *states
