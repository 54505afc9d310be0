"""`BlockSparseLSTM`: `keras.layers.LSTM` with block-sparse kernels."""

import keras
from keras import ops

from tf_blocksparse.custom_ops import block_sparse_lstm
from tf_blocksparse.layers.block_sparse_cell import BlockSparseCell
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN


class _Cell(BlockSparseCell):
    gates = 4
    num_states = 2
    kind = "lstm"
    sequence_op = block_sparse_lstm

    def __init__(self, *args, unit_forget_bias=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.unit_forget_bias = unit_forget_bias

    def _bias_initializer(self):
        if not self.unit_forget_bias:
            return self.bias_initializer

        def initializer(shape, dtype=None):
            bias = ops.reshape(self.bias_initializer(shape, dtype=dtype), (4, self.units))
            ones = ops.ones((1, self.units), dtype=dtype)
            return ops.reshape(ops.concatenate([bias[:1], ones, bias[2:]]), shape)

        return initializer

    def step(self, projected, h, states):
        z = projected + self.recurrent_kernel.matmul(h)
        i, f, c, o = ops.split(z, 4, axis=1)  # [batch, units] each
        c = self.recurrent_activation(f) * states[1] + self.recurrent_activation(i) * self.activation(c)
        return [self.recurrent_activation(o) * self.activation(c), c]

    def get_config(self):
        return {**super().get_config(), "unit_forget_bias": self.unit_forget_bias}


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseLSTM(BlockSparseRNN):
    """Long Short-Term Memory layer with block-sparse kernels.

    `convert()` makes it from a pruned `keras.layers.LSTM`. Gates are in Keras's order: input, forget, cell,
    output; the grid of blocks is laid on each gate's matrix.

    Args:
        units: int, size of the output.
        activation: function of cell and output, by default tanh.
        recurrent_activation: function of the gates, by default sigmoid.
        use_bias: bool.
        block_shape: `(height, width)` of a block in both kernels, or an int.
        num_blocks: dict from `"kernel"` and `"recurrent_kernel"` to the number of blocks to store, at random
            places unless loaded or converted. What it leaves out, or None: all of the grid.
        storage_dtype: `"float32"`, or `"bfloat16"` or `"int8"`, for inference only: no weight of such a layer is
            trainable.
        product_dtype: what inputs and states are rounded to for a product with `bfloat16` or `int8` blocks: None is
            the same, `"float32"` not at all.
        implementation: `"auto"`, `"sequence"` or `"step"`. One op for the whole sequence; or a loop over time steps,
            slower, that does what the op does not: other activations than linear, relu, tanh and sigmoid, recurrent
            dropout in training, `unroll`, blocks that are not float32, second derivatives. `"auto"` takes the op
            where it can, `"sequence"` is an error that says why where it cannot.
        **kwargs: all other arguments of `keras.layers.LSTM`, with its defaults, but for `use_cudnn`. Kernels
            take the regularizers L1 and L2 and the constraint NonNeg.

    Input shape:
        `[batch, time, in]`; masks, `initial_state` and `training` as in Keras. A gradient of a call without
        `training=True` computes the sequence twice.

    Output shape:
        `[batch, units]`, or `[batch, time, units]` with `return_sequences=True`.

    Example:

    >>> layer = BlockSparseLSTM(16, block_shape=(4, 4), num_blocks={"recurrent_kernel": 10})
    >>> layer(np.ones((2, 5, 8), "float32")).shape
    TensorShape([2, 16])

    Reference:
        [BSR] section 4.2
    """

    cell_class = _Cell

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        *,
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
            block_shape=block_shape,
            num_blocks=num_blocks,
            storage_dtype=storage_dtype,
            product_dtype=product_dtype,
            **kwargs,
        )
