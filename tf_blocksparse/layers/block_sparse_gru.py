"""`BlockSparseGRU`: `keras.layers.GRU` with block-sparse kernels."""

import keras
from keras import ops

from tf_blocksparse.custom_ops import block_sparse_gru
from tf_blocksparse.layers.block_sparse_cell import BlockSparseCell
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN


class _Cell(BlockSparseCell):
    gates = 3
    kind = "gru"
    sequence_op = block_sparse_gru

    def __init__(self, *args, reset_after=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.reset_after = reset_after

    def matrices(self):
        if self.reset_after:
            return super().matrices()
        # The candidate's product needs the reset gate, which needs the other gates' product: two matrices.
        return ("kernel", "recurrent_kernel", "candidate_kernel")

    def _build_recurrent(self):
        if self.reset_after:
            super()._build_recurrent()
        else:
            self.recurrent_kernel = self._weight("recurrent_kernel", self.units, 2, "recurrent")
            self.candidate_kernel = self._weight("candidate_kernel", self.units, 1, "recurrent")

    def _bias_shape(self):
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _input_bias(self):
        return self.bias[0] if self.reset_after else self.bias

    def step(self, projected, h, states):
        x_z, x_r, x_h = ops.split(projected, 3, axis=1)  # [batch, units] each
        recurrent = self.recurrent_kernel.matmul(h)
        if self.reset_after:
            if self.bias is not None:
                recurrent = recurrent + self.bias[1]
            h_z, h_r, h_h = ops.split(recurrent, 3, axis=1)
        else:
            h_z, h_r = ops.split(recurrent, 2, axis=1)
        z = self.recurrent_activation(x_z + h_z)
        r = self.recurrent_activation(x_r + h_r)
        h_h = r * h_h if self.reset_after else self.candidate_kernel.matmul(r * h)
        return [z * states[0] + (1 - z) * self.activation(x_h + h_h)]

    def get_config(self):
        return {**super().get_config(), "reset_after": self.reset_after}


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseGRU(BlockSparseRNN):
    """Gated Recurrent Unit layer with block-sparse kernels.

    `convert()` makes it from a pruned `keras.layers.GRU`. Gates are in Keras's order: update, reset, candidate;
    the grid of blocks is laid on each gate's matrix.

    Args:
        units: int, size of the output.
        activation: function of the candidate, by default tanh.
        recurrent_activation: function of the gates, by default sigmoid.
        use_bias: bool.
        reset_after: bool, whether the reset gate is applied after the product (Keras's and cuDNN's way) or
            before it. If before, the candidate's recurrent matrix is a weight of its own, `candidate_kernel`.
        block_shape: `(height, width)` of a block in the kernels, or an int.
        num_blocks: dict from `"kernel"`, `"recurrent_kernel"` and, without `reset_after`, `"candidate_kernel"`
            to the number of blocks to store, at random places unless loaded or converted. What it leaves out, or
            None: all of the grid.
        storage_dtype: `"float32"`, or `"bfloat16"` or `"int8"`, for inference only: no weight of such a layer is
            trainable.
        product_dtype: what inputs and states are rounded to for a product with `bfloat16` or `int8` blocks: None is
            the same, `"float32"` not at all.
        implementation: `"auto"`, `"sequence"` or `"step"`. One op for the whole sequence; or a loop over time steps,
            slower, that does what the op does not: other activations than linear, relu, tanh and sigmoid, recurrent
            dropout in training, `unroll`, blocks that are not float32, second derivatives. `"auto"` takes the op
            where it can, `"sequence"` is an error that says why where it cannot.
        **kwargs: all other arguments of `keras.layers.GRU`, with its defaults, but for `use_cudnn`. Kernels take
            the regularizers L1 and L2 and the constraint NonNeg.

    Input shape:
        `[batch, time, in]`; masks, `initial_state` and `training` as in Keras. A gradient of a call without
        `training=True` computes the sequence twice.

    Output shape:
        `[batch, units]`, or `[batch, time, units]` with `return_sequences=True`.

    Reference:
        [BSR] section 4.1
    """

    cell_class = _Cell

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        *,
        reset_after=True,
        block_shape=(4, 4),
        num_blocks=None,
        storage_dtype="float32",
        product_dtype=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            reset_after=reset_after,
            block_shape=block_shape,
            num_blocks=num_blocks,
            storage_dtype=storage_dtype,
            product_dtype=product_dtype,
            **kwargs,
        )
