"""Recurrent cells whose input comes already multiplied: `h_t = f(x_t + h_(t-1) U)`, with the matrix U and no other.

Both directions of a bidirectional layer can then share one product with the input, and batch normalization stands
between that product and the recurrence, as in Deep Speech 2. The cells are Keras's without `kernel` and `bias`, so
`prune_blocks()` finds their `recurrent_kernel`; `convert()` does not know them: see `speech_network.folded()`.

Reference: Amodei et al.: Deep Speech 2 (2015), arXiv:1512.02595, sections 3.2 and 3.3.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("models")
class ProjectedRNNCell(keras.layers.SimpleRNNCell):
    """`h_t = activation(x_t + h_(t-1) @ recurrent_kernel)`, of inputs `[batch, units]`."""

    def build(self, input_shape):
        _build(self, input_shape, gates=1)

    def call(self, inputs, states, training=False):
        h = self.activation(inputs + ops.matmul(_first(states), self.recurrent_kernel))
        return h, [h]


@keras.saving.register_keras_serializable("models")
class ProjectedGRUCell(keras.layers.GRUCell):
    """A GRU step, as with `reset_after=True`, of inputs `[batch, 3 * units]`: update gate, reset gate, candidate."""

    def build(self, input_shape):
        _build(self, input_shape, gates=3)

    def call(self, inputs, states, training=False):
        h = _first(states)
        of_input, of_state = (ops.split(x, 3, axis=-1) for x in (inputs, ops.matmul(h, self.recurrent_kernel)))
        update, reset = (self.recurrent_activation(of_input[i] + of_state[i]) for i in (0, 1))
        candidate = self.activation(of_input[2] + reset * of_state[2])
        h = update * h + (1 - update) * candidate
        return h, [h]


def _first(states):
    return states[0] if isinstance(states, (list, tuple)) else states


def _build(cell, input_shape, gates):
    """Makes the one weight of a cell."""
    if input_shape[-1] != gates * cell.units:
        raise ValueError(
            f"{type(cell).__name__} takes projected inputs: {gates} * units = {gates * cell.units} features. "
            f"Received: inputs of {input_shape[-1]} features for units={cell.units}. Put a Dense layer before it."
        )
    cell.recurrent_kernel = cell.add_weight(
        shape=(cell.units, gates * cell.units),
        name="recurrent_kernel",
        initializer=cell.recurrent_initializer,
        regularizer=cell.recurrent_regularizer,
        constraint=cell.recurrent_constraint,
    )
