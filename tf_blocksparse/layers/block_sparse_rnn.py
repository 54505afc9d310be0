"""What the block-sparse recurrent layers share: all time steps in one op, or one after another.

The op is the fast way. Where a layer asks for something that it does not do, Keras's `RNN` does the loop, the states,
the masks and the order of time; the inputs of all time steps are multiplied by the kernel in one product before the
loop, so that the loop's cell only multiplies by the recurrent kernel. Both give the same within float32 rounding.
"""

import keras
from keras import ops

from tf_blocksparse.custom_ops.implementation import CUSTOM_OPS, active
from tf_blocksparse.layers.block_sparse_cell import KERNELS
from tf_blocksparse.layers.cell_rnn import CellRNN
from tf_blocksparse.layers.storage_dtype import refuse_training

IMPLEMENTATIONS = ("auto", "sequence", "step")


class BlockSparseRNN(CellRNN):
    """Base of the block-sparse recurrent layers; subclasses name their `cell_class`."""

    def __init__(self, units, *, implementation="auto", **kwargs):
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"`implementation` must be one of {IMPLEMENTATIONS}. Received: implementation={implementation!r}."
            )
        super().__init__(units, **kwargs)
        self.supports_jit = False
        self.implementation = implementation
        self._use_op(training=False)  # refuses early what can never be

    def why_step(self, training=False):
        """Why time steps are computed one after another, in a few words; None if one op computes them all.

        Args:
            training: bool, whether the layer is called in training.
        """
        cell = self.cell
        if self.implementation == "step":
            return "implementation='step'"
        if active() is not CUSTOM_OPS:
            return "the graph is to consist of standard TensorFlow ops"
        if self.unroll:
            return "unroll=True asks for a loop"
        if cell.sequence_op is None:
            return f"{type(self).__name__} has no op for whole sequences"
        for name in cell.activations:
            function = getattr(cell, name)
            if function not in KERNELS:
                known = ", ".join(KERNELS.values())
                return f"{name}={keras.activations.serialize(function)!r} is none that the op has: {known}"
        if training and _drops_states(cell):
            return f"recurrent_dropout={cell.recurrent_dropout} drops states between steps in training"
        return None

    def _use_op(self, training):
        why_step = self.why_step(training)
        # A graph of standard ops is asked for by its export, not by the layer.
        if why_step and self.implementation == "sequence" and active() is CUSTOM_OPS:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} cannot compute a sequence in one op: {why_step}. Received: "
                "implementation='sequence'. Use implementation='auto', which loops over time steps where it has to."
            )
        return why_step is None

    def call(self, sequences, initial_state=None, mask=None, training=False):
        cell = self.cell
        refuse_training(self, cell.storage_dtype, training)
        if training and 0.0 < cell.dropout < 1.0:
            # [batch, 1, in]: the same inputs are dropped at every time step
            shape = (ops.shape(sequences)[0], 1, sequences.shape[2])
            sequences = sequences * cell.dropout_mask(shape, cell.dropout)
        states = self._states_before(sequences, initial_state)
        mask = keras.tree.flatten(mask)[0]  # of several, the inputs': `initial_state` may come with some
        call = self._call_op if self._use_op(training) else self._call_steps
        return call(sequences, states, mask, training)

    def _states_before(self, sequences, given):
        """The states before the first step: a list of `[batch, units]`."""
        batch = sequences.shape[0]
        if given is None:
            given = self.states if self.stateful else self.get_initial_state(ops.shape(sequences)[0])
        states = [ops.convert_to_tensor(s, dtype=self.compute_dtype) for s in keras.tree.flatten(given)]
        expected = [(batch, size) for size in self.cell.state_size]
        if not _alike([s.shape for s in states], expected):
            raise ValueError(
                f"{type(self).__name__} {self.name!r} needs {len(expected)} state(s) [batch, units], here {expected}. "
                f"Received: {[tuple(s.shape) for s in states]}, for inputs of shape {tuple(sequences.shape)}."
            )
        return states

    def _call_op(self, sequences, states, mask, training):
        """The layer by one op, which computes in float32 whatever the layer's policy."""
        output, *states = self.cell.sequence(
            ops.cast(sequences, "float32"),
            [ops.cast(s, "float32") for s in states],
            mask=None if mask is None else ops.cast(mask, "bool"),
            go_backwards=self.go_backwards,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
            save=bool(training),  # a gradient without it computes the sequence once more
        )
        output, *states = (ops.cast(x, self.compute_dtype) for x in (output, *states))
        if self.stateful:
            for variable, state in zip(self.states, states, strict=True):
                variable.assign(state)
        return (output, *states) if self.return_state else output

    def _call_steps(self, sequences, states, mask, training):
        """The layer by Keras's loop over time steps."""
        cell = self.cell
        if training and _drops_states(cell):
            shape = (ops.shape(sequences)[0], cell.units)
            cell._recurrent_mask = cell.dropout_mask(shape, cell.recurrent_dropout)
        try:
            return super().call(cell.project(sequences, training), initial_state=states, mask=mask, training=training)
        finally:
            cell._recurrent_mask = None

    def get_config(self):
        return {**super().get_config(), "implementation": self.implementation}


def _drops_states(cell):
    """Whether states are dropped in training."""
    return 0.0 < cell.recurrent_dropout < 1.0


def _alike(shapes, expected):
    """Whether two lists of shapes are equal where both are known."""
    if [len(s) for s in shapes] != [len(e) for e in expected]:
        return False
    pairs = [(a, b) for s, e in zip(shapes, expected, strict=True) for a, b in zip(s, e, strict=True)]
    return all(a == b or None in (a, b) for a, b in pairs)
