"""Recurrent layers with block-sparse matrices: one op for all time steps of a sequence.

```python
kernel = BsrMatrix.from_dense(w, BlockGrid(w.shape, 16, gates=4), order="column")  # w: a pruned [in, 4 * units] matrix
output, h, c = block_sparse_lstm(
    x, h0, c0,
    kernel=(kernel.blocks, kernel.indices, kernel.indptr),
    recurrent_kernel=(recurrent.blocks, recurrent.indices, recurrent.indptr),
    bias=bias,
)
```

The input of all time steps is multiplied by the kernel in one product; then every step reads the stored blocks of the
recurrent matrix, which stay in the cache if they fit into it. `rnn_reference` has the same functions in standard
TensorFlow ops, `rnn_gradients` what is registered as the ops' gradients.
"""

import tensorflow as tf  # noqa: F401, for the examples

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.rnn_arguments import check_activations, sequence_inputs


def block_sparse_rnn(
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
    save=False,
    name=None,
):
    """A simple recurrent layer over whole sequences: `h_t = activation(x_t W + h_(t-1) U + bias)`.

    `W` `[in_features, units]` and `U` `[units, units]` are block-sparse. Each is given as a tuple `(blocks, indices,
    indptr)` of float32 `[num_blocks, height, width]`, int32 `[num_blocks]` and int32 `[block_columns + 1]`, in column
    order as in `block_sparse_matmul(order="column")`; all blocks have one width.

    Where `mask` is False for a time step of an example, its state stays what it is, and its output is the one before:
    zeros if there is none, or with `zero_output_for_mask`.

    Differentiable once, with respect to `x`, `h0`, blocks and `bias`. For second derivatives use
    `block_sparse_rnn_reference`.

    Args:
        x: Tensor `[batch, time, in_features]`, float32.
        h0: Tensor `[batch, units]`, float32: the state before the first step. Its shape says what `units` is.
        kernel: tuple `(blocks, indices, indptr)` of `W`.
        recurrent_kernel: tuple `(blocks, indices, indptr)` of `U`.
        bias: Tensor `[units]`, float32, or None.
        mask: Tensor `[batch, time]`, bool, or None.
        activation: `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`.
        time_major: bool. `x`, `mask` and the sequence of outputs have time as their first dimension and the batch as
            their second.
        go_backwards: bool. Walk from the last time step to the first; the outputs are in the order of the walk.
        return_sequences: bool. Output of all steps, not of the last only.
        zero_output_for_mask: bool. Outputs of masked steps are zeros.
        save: bool. Keep what the gradient needs. If False, a gradient first computes the sequence again, which is
            slower and needs no memory until then.
        name: Optional name of the op.

    Returns:
        Tuple of two. The output: `[batch, time, units]`, or without `return_sequences` `[batch, units]`, that of the
        last step, zeros if there is no step. The state after the last step, `[batch, units]`.

    Raises:
        TypeError: if an argument has another dtype.
        ValueError: if an argument has a wrong shape or value.
        tf.errors.InvalidArgumentError: if `indices` and `indptr` are not a pattern of their matrix, or sizes that the
            graph did not know do not fit. In a graph, as a ValueError where shapes alone show it.

    Example:

    >>> identity = (tf.eye(2)[tf.newaxis], [0], [0, 1])  # one block of 2x2
    >>> output, h = block_sparse_rnn(tf.ones([1, 3, 2]), tf.zeros([1, 2]), identity, identity, activation="linear")
    >>> output.numpy()
    array([[[1., 1.],
            [2., 2.],
            [3., 3.]]], dtype=float32)

    Reference:
        [BSR] section 4.1
    """
    check_activations(activation=activation)
    matrices = {"kernel": kernel, "recurrent": recurrent_kernel}
    inputs = sequence_inputs("block_sparse_rnn", x, {"h0": h0}, matrices, bias, mask, gates=1, time_major=time_major)
    return ops().block_sparse_rnn(
        **inputs,
        activation=activation,
        time_major=time_major,
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        save=save,
        name=name,
    )[:2]


def block_sparse_gru(
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
    save=False,
    name=None,
):
    """A GRU with block-sparse matrices over whole sequences.

    `h_t = z_t h_(t-1) + (1 - z_t) g_t`, of the update gate z, the reset gate r, both after `recurrent_activation`, and
    the candidate `g_t = activation(x_t W_g + r_t (h_(t-1) U_g + b_g) + bias_g)`; or, if `candidate_kernel` is given,
    `g_t = activation(x_t W_g + (r_t h_(t-1)) U_g + bias_g)`, which is Keras's `reset_after=False`.

    Matrices hold their gates side by side, in this order; the grid of blocks is laid on each gate's. All blocks have
    one width, and those of the candidate's matrix the shape of the recurrent one's.

    Differentiable once, with respect to `x`, `h0`, blocks and `bias`. For second derivatives use
    `block_sparse_gru_reference`.

    Args:
        x: Tensor `[batch, time, in_features]`, float32.
        h0: Tensor `[batch, units]`, float32.
        kernel: tuple `(blocks, indices, indptr)` of `[in_features, 3 * units]`.
        recurrent_kernel: tuple `(blocks, indices, indptr)` of `[units, 3 * units]`; with `candidate_kernel`,
            `[units, 2 * units]`, of z and r.
        candidate_kernel: tuple `(blocks, indices, indptr)` of `[units, units]`, or None.
        bias: Tensor `[2, 3 * units]`, float32, what is added to the product with `x` and to the one with h; with
            `candidate_kernel` `[3 * units]`. Or None.
        mask: Tensor `[batch, time]`, bool, or None.
        activation: `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`: of the candidate.
        recurrent_activation: one of the same: of z and r.
        time_major, go_backwards, return_sequences, zero_output_for_mask, save, name: as of `block_sparse_rnn`.

    Returns:
        Tuple of the output and the state after the last step, as of `block_sparse_rnn`.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: as `block_sparse_rnn`.

    Example:

    >>> empty = (tf.zeros([0, 1, 1]), tf.zeros([0], tf.int32), [0, 0, 0, 0])  # no blocks: z is 1/2, g is 0
    >>> output, h = block_sparse_gru(tf.ones([1, 3, 1]), tf.constant([[8.0]]), empty, empty)
    >>> output[0, :, 0].numpy()
    array([4., 2., 1.], dtype=float32)

    Reference:
        [BSR] section 4.1
    """
    check_activations(activation=activation, recurrent_activation=recurrent_activation)
    matrices = {"kernel": kernel, "recurrent": recurrent_kernel, "candidate": candidate_kernel}
    inputs = sequence_inputs(
        "block_sparse_gru", x, {"h0": h0}, matrices, bias, mask,
        gates=3, two_biases=candidate_kernel is None, time_major=time_major,
    )  # fmt: skip
    return ops().block_sparse_gru(
        **_candidate_lists(inputs),
        activation=activation,
        recurrent_activation=recurrent_activation,
        time_major=time_major,
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        save=save,
        name=name,
    )[:2]


def _candidate_lists(inputs):
    """`inputs` with the candidate's matrix as three lists, of which an op has none or one."""
    names = [f"candidate_{part}" for part in ("blocks", "indices", "indptr")]
    return inputs | {name: [inputs[name]] if name in inputs else [] for name in names}


def block_sparse_lstm(
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
    save=False,
    name=None,
):
    """An LSTM with block-sparse matrices over whole sequences.

    `c_t = f_t c_(t-1) + i_t activation(g_t)` and `h_t = o_t activation(c_t)`, where i, f, g and o are the four parts of
    `x_t W + h_(t-1) U + bias`, of which i, f and o go through `recurrent_activation`. Matrices hold them side by side,
    in this order, and the grid of blocks is laid on each one's. All blocks have one width.

    Differentiable once, with respect to `x`, `h0`, `c0`, blocks and `bias`. For second derivatives use
    `block_sparse_lstm_reference`.

    Args:
        x: Tensor `[batch, time, in_features]`, float32.
        h0: Tensor `[batch, units]`, float32.
        c0: Tensor `[batch, units]`, float32.
        kernel: tuple `(blocks, indices, indptr)` of `[in_features, 4 * units]`.
        recurrent_kernel: tuple `(blocks, indices, indptr)` of `[units, 4 * units]`.
        bias: Tensor `[4 * units]`, float32, or None.
        mask: Tensor `[batch, time]`, bool, or None.
        activation: `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`: of cell and output.
        recurrent_activation: one of the same: of the gates.
        time_major, go_backwards, return_sequences, zero_output_for_mask, save, name: as of `block_sparse_rnn`.

    Returns:
        Tuple of three: the output and h after the last step, as of `block_sparse_rnn`, and c `[batch, units]` after it.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: as `block_sparse_rnn`.

    Example:

    >>> empty = (tf.zeros([0, 1, 1]), tf.zeros([0], tf.int32), [0, 0, 0, 0, 0])  # no blocks: i, f and o are 1/2
    >>> output, h, c = block_sparse_lstm(tf.ones([1, 3, 1]), tf.zeros([1, 1]), tf.constant([[8.0]]), empty, empty)
    >>> c.numpy()
    array([[1.]], dtype=float32)

    Reference:
        [BSR] section 4.2
    """
    check_activations(activation=activation, recurrent_activation=recurrent_activation)
    matrices = {"kernel": kernel, "recurrent": recurrent_kernel}
    states = {"h0": h0, "c0": c0}
    inputs = sequence_inputs("block_sparse_lstm", x, states, matrices, bias, mask, gates=4, time_major=time_major)
    return ops().block_sparse_lstm(
        **inputs,
        activation=activation,
        recurrent_activation=recurrent_activation,
        time_major=time_major,
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        save=save,
        name=name,
    )[:3]
