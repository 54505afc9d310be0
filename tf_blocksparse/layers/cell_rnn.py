"""A recurrent Keras layer that makes its cell itself, from the arguments of both."""

import keras


class CellRNN(keras.layers.RNN):
    """Base of layers that take the arguments of their `cell_class` and those of `keras.layers.RNN` together.

    Args:
        units: int, size of the output.
        return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask, activity_regularizer,
            name, dtype, trainable: as of Keras's recurrent layers.
        **cell_arguments: of the cell.
    """

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

    @property
    def units(self):
        """Size of the output and of each state that the cell computes."""
        return self.cell.units

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        config["activity_regularizer"] = keras.regularizers.serialize(self.activity_regularizer)
        return {**self.cell.get_config(), **config}  # name and dtype are the layer's

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
