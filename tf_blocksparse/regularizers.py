"""Regularizers that lead weights to zero ([BSR] section 3.2 and appendix A).

On a weight that is not pruned each acts for the whole training. On a pruned one `BlockGroupLasso` and `LHalf` act while
the schedule runs, unless they are told not to follow it; and so does any regularizer that is given to
`prune_blocks(regularizer=...)`, which wraps it in `WhilePruning`.
"""

import keras
from keras import ops

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.matrix_view import MatrixView


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockGroupLasso(keras.regularizers.Regularizer):
    """Adds `factor * sum over blocks of ||w_block||_2` to the loss.

    On a weight that is pruned it is active while the pruning schedule is, from its first step to its last: the paper's
    group lasso with block pruning (GLP). On any other weight it is active all the time: plain group lasso. A block
    that is zero has gradient zero. The penalty alone makes blocks small, not exactly zero: pruning does.

    Args:
        factor: float, at least 0: lambda_g of the paper.
        block_shape: `(height, width)` of a group, or an int. None: the block shape that the weight is pruned with.
        gates: int, gate matrices side by side in the weight: 4 for the kernels of an LSTM, 3 for a GRU. The
            grid is laid on each, as in pruning. A pruned weight knows its own.
        scale_by_size: bool, whether to multiply the norm of each block by the square root of the number of its
            elements, so that large and small blocks are pressed alike (Yuan and Lin). The paper does not.
        follow_schedule: bool, whether to act on a pruned weight only while its schedule runs.

    Example:

    >>> layer = keras.layers.Dense(64, kernel_regularizer=BlockGroupLasso(1e-3, block_shape=(4, 4)))

    Reference:
        [BSR] section 3.2; Yuan and Lin, 2006, model selection with grouped variables
    """

    def __init__(self, factor, block_shape=None, gates=1, scale_by_size=False, follow_schedule=True):
        self.factor = check_factor(factor)
        self.block_shape = None if block_shape is None else canonical_block_shape(block_shape)
        self.gates = gates
        self.scale_by_size = bool(scale_by_size)
        self.follow_schedule = bool(follow_schedule)

    def __call__(self, w):
        pruning = _pruning_of(w)
        view = MatrixView() if pruning is None else pruning.view
        gates = self.gates if pruning is None else pruning.gates
        grid = view.grid(w.shape, self._block_shape(pruning), gates)
        penalty = self.factor * group_norms(view.to_matrix(w), grid, self.scale_by_size)
        return _while_running(pruning, penalty) if self.follow_schedule else penalty

    def _block_shape(self, pruning):
        if self.block_shape is None and pruning is None:
            raise ValueError(
                "BlockGroupLasso needs a `block_shape` on a weight that is not pruned. Received: block_shape=None. "
                "Example: BlockGroupLasso(1e-3, block_shape=(4, 4))."
            )
        return self.block_shape or pruning.block_shape

    def get_config(self):
        return {
            "factor": self.factor,
            "block_shape": self.block_shape,
            "gates": self.gates,
            "scale_by_size": self.scale_by_size,
            "follow_schedule": self.follow_schedule,
        }


@keras.saving.register_keras_serializable("tf_blocksparse")
class LHalf(keras.regularizers.Regularizer):
    """Adds `factor * sum of |w|^(1/2)` to the loss: presses small weights harder than large ones.

    The slope of the square root is infinite at 0. Below `cut` its chord takes its place, `|w| / sqrt(cut)`, so that
    the gradient is at most `factor / sqrt(cut)`, and 0 at weights that are zero.

    Args:
        factor: float, at least 0: lambda of the paper.
        cut: float above 0, |w| below which the penalty is linear.
        follow_schedule: bool, whether to act on a pruned weight only while its schedule runs.

    Reference:
        [BSR] appendix A; Fan, Wu and Zurada, 2016, convergence of batch gradient learning with smoothing
        regularization
    """

    def __init__(self, factor, cut=1e-6, follow_schedule=True):
        self.factor = check_factor(factor)
        if not 0 < cut < float("inf"):
            raise ValueError(f"`cut` must be a finite number above 0. Received: cut={cut!r}.")
        self.cut = float(cut)
        self.follow_schedule = bool(follow_schedule)

    def __call__(self, w):
        magnitudes = ops.abs(ops.cast(w, "float32"))
        large = magnitudes > self.cut
        roots = ops.sqrt(ops.where(large, magnitudes, 1.0))
        penalty = self.factor * ops.sum(ops.where(large, roots, magnitudes / self.cut**0.5))
        return _while_running(_pruning_of(w), penalty) if self.follow_schedule else penalty

    def get_config(self):
        return {"factor": self.factor, "cut": self.cut, "follow_schedule": self.follow_schedule}


@keras.saving.register_keras_serializable("tf_blocksparse")
class WhilePruning(keras.regularizers.Regularizer):
    """Makes a regularizer act only while the pruning schedule of its weight runs, from its first step to its last.

    Before a schedule that prunes only once, as `ConstantSparsity` does, it acts from the start of training. On a weight
    that is not pruned it is never active. `prune_blocks(regularizer=...)` makes it; nobody needs to build it by hand.

    Args:
        regularizer: the Keras regularizer that acts while pruning does.
        inner: the regularizer that the weight had before, or None; it acts all the time.
    """

    def __init__(self, regularizer, inner=None):
        self.regularizer = regularizer
        self.inner = inner

    def __call__(self, w):
        always = 0.0 if self.inner is None else self.inner(w)
        pruning = _pruning_of(w)
        if pruning is None:
            return ops.convert_to_tensor(always, dtype="float32")
        return _while_running(pruning, self.regularizer(w)) + always

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {"regularizer": serialize(self.regularizer), "inner": serialize(self.inner)}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls(deserialize(config["regularizer"]), deserialize(config["inner"]))


def group_norms(matrix, grid, scale_by_size=False):
    """Sum over the blocks of `matrix` `[in, out]` of their l2 norms: float32 scalar, gradient 0 at zero blocks."""
    squares = ops.sum(ops.square(grid.to_blocks(ops.cast(matrix, "float32"))), axis=(1, 3))
    # sqrt has an infinite slope at 0, and 0 * inf is NaN: keep zero blocks away from it on both sides of `where`.
    live = squares > 0
    norms = ops.where(live, ops.sqrt(ops.where(live, squares, 1.0)), 0.0)
    return ops.sum(norms * (grid.block_sizes() ** 0.5).astype("float32") if scale_by_size else norms)


def check_factor(factor):
    """Returns `factor` as a float, or raises `ValueError` unless it is finite and at least 0."""
    if isinstance(factor, bool) or not 0 <= factor < float("inf"):
        raise ValueError(f"`factor` must be a finite number of at least 0. Received: factor={factor!r}.")
    return float(factor)


def _pruning_of(w):
    """The pruning constraint on the variable `w`, or None. It has a schedule; other constraints have not."""
    constraint = getattr(w, "constraint", None)
    found = constraint.of_variable(w) if hasattr(constraint, "of_variable") else None
    return found if hasattr(found, "schedule") else None


def _while_running(pruning, penalty):
    """The penalty while the schedule of a pruning constraint runs, else 0; all the time if there is no pruning."""
    return penalty if pruning is None else ops.where(_is_running(pruning), penalty, 0.0)


def _is_running(pruning):
    if pruning.step is None:  # the weight is just being made
        return False
    end_step = getattr(pruning.schedule, "end_step", -1)
    begin_step = getattr(pruning.schedule, "begin_step", 0)
    if end_step < 0:  # TFMOT's way to say that a schedule has no end
        return pruning.step >= begin_step
    leads_to_one_update = begin_step == end_step
    started = leads_to_one_update or pruning.step >= begin_step
    return ops.logical_and(started, pruning.step < end_step)
