"""The ways to a sparse model that the papers compare: what each does to a model before it trains.

| method | what is pruned, and when | from |
|---|---|---|
| `dense` | nothing: the baseline | |
| `bp` | blocks below a threshold that rises, the same for all weights of a kind: block pruning | [BSR] 3.1 |
| `glp` | the same, with group lasso while the threshold rises | [BSR] 3.2 |
| `group_lasso` | group lasso all the time; what it made smallest is dropped with the last step | [BSR] 3.2 |
| `wp` | single weights below a threshold that rises: weight pruning | [BSR] 2, Narang 2017a |
| `agp` | the lowest single weights of each layer, more and more: gradual pruning | [AGP] |
| `block_agp` | the same, of blocks | [AGP] |
| `l1`, `l_half` | a penalty on single weights all the time; the smallest are dropped with the last step | [BSR] A |
| `l1_wp`, `l_half_wp` | weight pruning, with the penalty while the threshold rises | [BSR] A |
| `small_dense` | nothing: a narrower model, of as many weights as the pruned ones have left | [AGP], [BDS] |
| `dynamic` | no weight: at every input the model chooses the blocks that it uses | [BDS] |

Every method is told the same target, and reaches it: thresholds are the papers', from the trained dense model
(Table 1, Equations 1 and 2), but where blocks are missing at the last update the lowest go too, and no more go than the
target says. The papers tuned the slopes of each run instead, and read off what came out.
"""

import dataclasses

import keras

import tf_blocksparse as bs
from models.threshold_ramps import Steps, ramp

KINDS = ("recurrent", "linear", "embedding", "convolution")  # weights of a kind share thresholds ([BSR] 3.1)
SINGLE = (1, 1)


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method prunes.

    Attributes:
        schedule: `"ramp"` of the threshold, `"gradual"`, `"last"` (all with the last step), `"dynamic"` or None.
        in_blocks: whether it is run with every block shape of the grid; else on single weights.
        penalty: name in `PENALTIES`, or None.
        factor: of the penalty, where the command line gives none.
    """

    schedule: str | None
    in_blocks: bool = False
    penalty: str | None = None
    factor: float | None = None

    @property
    def is_sparse(self):
        """Whether it zeroes weights."""
        return self.schedule in ("ramp", "gradual", "last")


METHODS = {
    "dense": Method(None),
    "bp": Method("ramp", in_blocks=True),
    "glp": Method("ramp", in_blocks=True, penalty="group_lasso", factor=2e-4),
    "group_lasso": Method("last", in_blocks=True, penalty="group_lasso", factor=1e-3),
    "wp": Method("ramp"),
    "agp": Method("gradual"),
    "block_agp": Method("gradual", in_blocks=True),
    "l1": Method("last", penalty="l1", factor=1e-3),
    "l1_wp": Method("ramp", penalty="l1", factor=2e-4),
    "l_half": Method("last", penalty="l_half", factor=1e-3),
    "l_half_wp": Method("ramp", penalty="l_half", factor=2e-4),
    "small_dense": Method(None),
    "dynamic": Method("dynamic", in_blocks=True),
}
PENALTIES = {
    # Times the square root of a block's elements (Yuan and Lin): one factor then suits all block shapes. The paper,
    # which does not scale, needs another one for each.
    "group_lasso": lambda factor: bs.BlockGroupLasso(factor, scale_by_size=True),
    "l1": keras.regularizers.L1,
    "l_half": bs.LHalf,
}


def steps_of(epochs, steps_per_epoch):
    """The `Steps` for a training of so many epochs: those of [BSR] Table 1.

    In a run of less than ten epochs a tenth of it stands for the first epoch.

    Raises:
        ValueError: if it is too short for any.
    """
    total = epochs * steps_per_epoch
    begin, ramp_step, end = min(steps_per_epoch, total // 10), round(0.2 * total), round(0.4 * total)
    if not 0 < begin < end:
        raise ValueError(
            f"{epochs} epochs of {steps_per_epoch} steps are too few to prune in: the schedules of the sweep need "
            "10 steps at least. Give more epochs or more data."
        )
    return Steps(begin, ramp_step, end, total, min(100, max(1, (end - begin) // 20)))


def prune(model, name, target, block_shape, factor, steps, include=None, dense=None):
    """Makes `model` train by a method.

    Args:
        model: a fresh Keras model, which is changed in place.
        name: key of `METHODS`, of a method that `is_sparse`.
        target: float, the sparsity.
        block_shape: `(height, width)`.
        factor: float or None, of the penalty.
        steps: `Steps`.
        include: as of `tf_blocksparse.prune_blocks()`.
        dense: the trained dense model, which the slopes of a ramp come from.
    """
    method = METHODS[name]
    schedules = {
        "ramp": lambda: ramps(dense, target, block_shape, steps),
        "gradual": lambda: bs.GradualSparsity(target, steps.begin, steps.end, steps.frequency),
        "last": lambda: bs.ConstantSparsity(target, begin_step=steps.total),
    }
    bs.prune_blocks(
        model,
        block_shape,
        schedules[method.schedule](),
        score="l2" if method.penalty == "group_lasso" and method.schedule == "last" else "max",
        include=include,
        regularizer=PENALTIES[method.penalty](factor) if method.penalty else None,
        # One threshold for all weights of a kind is one ranking of all their blocks; [AGP] ranks in each layer.
        ranking="layer" if method.schedule == "gradual" else "global",
        train_steps=steps.total,
    )


def ramps(dense, target, block_shape, steps):
    """A `ThresholdRamp` for each kind of weight that the trained dense model has: dict."""
    found = {}
    for kind in KINDS:
        try:
            found[kind] = ramp(dense, target, block_shape, steps, kind, hit_target=True)
        except ValueError as error:
            if "No built, prunable weight" not in str(error):
                raise
    return found


def rising_sparsity(target, steps):
    """The schedule of a model that chooses its blocks: rises in a straight line ([BDS] 4.2)."""
    return bs.GradualSparsity(target, steps.begin, steps.end, steps.frequency, power=1)
