"""Block group lasso ([BSR] section 3.2)."""

import keras
from keras import ops

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockGroupLasso(keras.regularizers.Regularizer):
    """Adds `factor * sum over blocks of ||w_block||_2` to the loss.

    On a weight that is pruned it is active while the pruning schedule is, from its first step to its last, and
    off afterwards: the paper's group lasso with block pruning (GLP). On any other weight it is active all the
    time: plain group lasso. A block that is zero has gradient zero.

    Args:
        factor: float, at least 0: lambda_g of the paper.
        block_shape: `(height, width)` of a group, or an int.
        gates: int, gate matrices side by side in the weight: 4 for the kernels of an LSTM, 3 for a GRU. The
            grid is laid on each, as in pruning.
        inner: another regularizer to add, or None.

    Example:

    >>> layer = keras.layers.Dense(64, kernel_regularizer=BlockGroupLasso(1e-3, block_shape=(4, 4)))

    Reference:
        [BSR] section 3.2; Yuan and Lin, 2006, model selection with grouped variables
    """

    def __init__(self, factor, block_shape, gates=1, inner=None):
        if isinstance(factor, bool) or not 0 <= factor < float("inf"):
            raise ValueError(f"`factor` must be a finite number of at least 0. Received: factor={factor!r}.")
        self.factor = float(factor)
        self.block_shape = canonical_block_shape(block_shape)
        self.gates = gates
        self.inner = inner

    def __call__(self, w):
        penalty = self.factor * group_norms(w, BlockGrid(w.shape, self.block_shape, self.gates))
        schedule, step = _schedule_of(w)
        if schedule is not None:
            penalty = ops.where(_is_running(schedule, step), penalty, 0.0)
        return penalty if self.inner is None else penalty + self.inner(w)

    def get_config(self):
        return {
            "factor": self.factor,
            "block_shape": self.block_shape,
            "gates": self.gates,
            "inner": keras.saving.serialize_keras_object(self.inner),
        }

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config.get("inner"))
        return cls(**{**config, "inner": inner})


def group_norms(w, grid):
    """Sum over the blocks of `w` of their l2 norms: float32 scalar, gradient 0 at zero blocks."""
    squares = ops.sum(ops.square(grid.to_blocks(ops.cast(w, "float32"))), axis=(1, 3))
    # sqrt has an infinite slope at 0, and 0 * inf is NaN: keep zero blocks away from it on both sides of `where`.
    live = squares > 0
    return ops.sum(ops.where(live, ops.sqrt(ops.where(live, squares, 1.0)), 0.0))


def _schedule_of(w):
    """Schedule and step of the pruning constraint on the variable `w`, or `(None, None)`."""
    constraint = getattr(w, "constraint", None)
    return getattr(constraint, "schedule", None), getattr(constraint, "step", None)


def _is_running(schedule, step):
    if step is None:
        return True
    started = ops.convert_to_tensor(step) >= schedule.begin_step
    endless = schedule.end_step < 0  # TFMOT's way to say that a schedule has no end
    return started if endless else ops.logical_and(started, step < schedule.end_step)
