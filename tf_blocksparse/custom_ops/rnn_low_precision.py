"""Recurrent layers with matrices stored as bfloat16 or int8, for inference: one op for all time steps of a sequence.

`tf_blocksparse.quantize.quantize_blocks` makes the stored blocks and the scales from float32 blocks.
"""

import tensorflow as tf

from tf_blocksparse.custom_ops.library import ops
from tf_blocksparse.custom_ops.matmul import ACTIVATIONS, check_choice, check_sizes, convert_with_hint

CELLS = {"rnn": (1, 2), "gru": (1, 3), "lstm": (2, 2)}  # states, and matrices at most


def block_sparse_sequence_low_precision(
    x,
    states,
    matrices,
    *,
    cell,
    block_height,
    x_dtype="float32",
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
    """A recurrent layer over whole sequences whose blocks are bfloat16 or int8.

    Computes what `block_sparse_rnn`, `block_sparse_gru` or `block_sparse_lstm` does, with products as of
    `block_sparse_matmul_low_precision`: `x_dtype` says what inputs and states are rounded to for them. States, sums and
    activations are float32. Not differentiable.

    Args:
        x: Tensor `[batch, time, in_features]`, float32.
        states: list of Tensors `[batch, units]`, float32: h, and for `"lstm"` c.
        matrices: list of tuples `(blocks, scales, indices, indptr)`, as `block_sparse_matmul_low_precision` takes them:
            of the kernel, of the recurrent kernel and, for a GRU that resets before its product, of the candidate's.
        cell: `"rnn"`, `"gru"` or `"lstm"`.
        block_height: int. Rows of a block of all matrices.
        x_dtype: `"float32"`, or the dtype of the blocks.
        bias: Tensor, float32, as the op with float32 blocks takes it, or None.
        mask: Tensor `[batch, time]`, bool, or None.
        activation, recurrent_activation: `"linear"`, `"relu"`, `"tanh"` or `"sigmoid"`.
        time_major, go_backwards, return_sequences, zero_output_for_mask: as of `block_sparse_rnn`.
        name: Optional name of the op.

    Returns:
        Tuple of the output and the states after the last step, float32.

    Raises:
        ValueError: if `cell` or an activation is unknown, or the number of states or matrices is not the cell's.
        tf.errors.InvalidArgumentError: if tensors do not fit each other. In a graph, as a ValueError where shapes alone
            show it.

    Example:

    >>> blocks = tf.constant([[[[1, 0], [0, 1]]]], tf.bfloat16)  # columns of a 2x2 block
    >>> identity = (blocks, tf.zeros([0]), tf.constant([0]), tf.constant([0, 1]))
    >>> output, h = block_sparse_sequence_low_precision(
    ...     tf.ones([1, 3, 2]), [tf.zeros([1, 2])], [identity, identity],
    ...     cell="rnn", block_height=2, activation="linear",
    ... )
    >>> h.numpy()
    array([[3., 3.]], dtype=float32)

    Reference:
        [BSR] section 4
    """
    check_choice("cell", cell, CELLS)
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("recurrent_activation", recurrent_activation, ACTIVATIONS)
    check_sizes(block_height=block_height)
    num_states, most_matrices = CELLS[cell]
    if len(states) != num_states or not 2 <= len(matrices) <= most_matrices:
        raise ValueError(
            f"A cell {cell!r} has {num_states} state(s) and 2{' or 3' * (most_matrices == 3)} matrices, got "
            f"{len(states)} and {len(matrices)}."
        )
    blocks, scales, indices, indptr = zip(*matrices, strict=True)
    output, final_states = ops().block_sparse_low_precision_sequence(
        x=x,
        states=states,
        blocks=blocks,
        indices=[convert_with_hint(i, tf.int32, "indices") for i in indices],
        indptr=[convert_with_hint(i, tf.int32, "indptr") for i in indptr],
        scales=[convert_with_hint(s, tf.float32, "scales") for s in scales],
        bias=[] if bias is None else [bias],
        mask=[] if mask is None else [mask],
        cell=cell,
        block_height=block_height,
        x_dtype=x_dtype,
        activation=activation,
        recurrent_activation=recurrent_activation,
        time_major=time_major,
        go_backwards=go_backwards,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        name=name,
    )
    return output, *final_states


@tf.RegisterGradient("BlockSparse>LowPrecisionSequence")
def _no_gradient(op, *gradients):
    """Rounded blocks have none."""
    del op, gradients
    raise NotImplementedError(
        "BlockSparse>LowPrecisionSequence has no gradient: bfloat16 and int8 blocks are for inference only. Train the "
        "model in float32 and convert it again, or call `tf.stop_gradient` on the output."
    )
