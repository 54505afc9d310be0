"""Counts the optimizer steps of a variable."""

import keras


class StepCounter(keras.constraints.Constraint):
    """A constraint that changes nothing, but counts how often its variable was updated.

    Keras applies constraints after every update by any optimizer, inside the graph, so a schedule that reads the count
    needs no callback, and neither a shared layer nor the time steps of a recurrent one count twice.

    Args:
        step: int64 scalar variable.
    """

    def __init__(self, step):
        self.step = step

    def __call__(self, w):
        self.step.assign(self.step + 1)
        return w
