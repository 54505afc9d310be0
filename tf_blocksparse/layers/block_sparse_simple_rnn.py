"""`BlockSparseSimpleRNN`: `keras.layers.SimpleRNN` with block-sparse kernels."""

import keras

from tf_blocksparse.custom_ops import block_sparse_rnn
from tf_blocksparse.layers.block_sparse_cell import BlockSparseCell
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN


class _Cell(BlockSparseCell):
    kind = "rnn"
    sequence_op = block_sparse_rnn
    activations = ("activation",)

    def step(self, projected, h, states):
        return [self.activation(projected + self.recurrent_kernel.matmul(h))]

    def get_config(self):
        config = super().get_config()
        del config["recurrent_activation"]
        return config


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockSparseSimpleRNN(BlockSparseRNN):
    """Fully-connected RNN with block-sparse kernels: `h_t = activation(x_t @ kernel + h_(t-1) @ recurrent + bias)`.

    `convert()` makes it from a pruned `keras.layers.SimpleRNN`.

    Args:
        units: int, size of the output.
        activation: function of the output, by default tanh.
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
        **kwargs: all other arguments of `keras.layers.SimpleRNN`, with its defaults. Kernels take the
            regularizers L1 and L2 and the constraint NonNeg.

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
            use_bias=use_bias,
            block_shape=block_shape,
            num_blocks=num_blocks,
            storage_dtype=storage_dtype,
            product_dtype=product_dtype,
            **kwargs,
        )
