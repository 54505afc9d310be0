"""What the block-sparse recurrent layers share.

Keras's `RNN` does the loop, the states, the masks and the order of time. Here the inputs of all time steps are
multiplied by the kernel in one product before the loop, so that the loop's cell only multiplies by the recurrent
kernel.
"""

import keras
from keras import ops

from tf_blocksparse.layers.storage_dtype import refuse_training


class BlockSparseRNN(keras.layers.RNN):
    """Base of the block-sparse recurrent layers; subclasses name their `cell_class`."""

    cell_class = None

    def __init__(
        self,
        units,
        *,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=False,
        activity_regularizer=None,
        name=None,
        dtype=None,
        trainable=True,
        **cell_arguments,
    ):
        super().__init__(
            self.cell_class(units, dtype=dtype, trainable=trainable, **cell_arguments),
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.supports_jit = False

    @property
    def units(self):
        """Size of the output and of each state."""
        return self.cell.units

    def call(self, sequences, initial_state=None, mask=None, training=False):
        cell = self.cell
        refuse_training(self, cell.storage_dtype, training)
        batch = ops.shape(sequences)[0]
        if training and 0.0 < cell.dropout < 1.0:
            # [batch, 1, in]: the same inputs are dropped at every time step
            sequences = sequences * cell.dropout_mask((batch, 1, sequences.shape[2]), cell.dropout)
        if training and 0.0 < cell.recurrent_dropout < 1.0:
            cell._recurrent_mask = cell.dropout_mask((batch, cell.units), cell.recurrent_dropout)
        try:
            return super().call(cell.project(sequences), initial_state=initial_state, mask=mask, training=training)
        finally:
            cell._recurrent_mask = None

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        config["activity_regularizer"] = keras.regularizers.serialize(self.activity_regularizer)
        return {**self.cell.get_config(), **config}  # name and dtype are the layer's

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
