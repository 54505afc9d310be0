"""What all pruning schedules share: when blocks are dropped, and which ones.

A schedule maps the step to a threshold or to a sparsity. It is a small function of the step; the constraint keeps
the state. The step counts the optimizer steps taken, the present one included: what `optimizer.iterations` says
after it. So a schedule with `end_step=n` has ended when n steps were trained.
"""

import keras
from keras import ops

from tf_blocksparse.pruning.tfmot import tfmot


class BlockPruningSchedule(tfmot.sparsity.keras.PruningSchedule):
    """Base class: drops blocks at `begin_step`, then every `frequency` steps, until `end_step`.

    Args:
        begin_step: int, step of the first update of the mask; for 0 it comes with the first step.
        end_step: int, step after which no more blocks are dropped.
        frequency: int, steps between two updates of the mask.
    """

    def __init__(self, begin_step, end_step, frequency):
        self.begin_step = check_step("begin_step", begin_step)
        self.end_step = check_step("end_step", end_step)
        self.frequency = check_step("frequency", frequency)
        if self.frequency < 1:
            raise ValueError(f"`frequency` must be at least 1 step. Received: frequency={frequency}.")
        if self.end_step <= self.begin_step:
            raise ValueError(
                f"`end_step` must be after `begin_step`. Received: begin_step={begin_step}, end_step={end_step}."
            )

    def should_prune(self, step):
        """Whether the mask is updated at `step`: bool tensor."""
        step = ops.cast(step, "int64")
        turn = ops.equal(ops.mod(step - self.begin_step, self.frequency), 0)
        first = ops.equal(step, max(self.begin_step, 1))
        return ops.logical_and(self._in_range(step), ops.logical_or(first, turn))

    def _in_range(self, step):
        return ops.logical_and(step >= self.begin_step, step < self.end_step)

    def keep(self, scores, block_mask, step):
        """The new `block_mask`: never keeps a block that the old one had dropped.

        Args:
            scores: float32 `[rows, cols]`.
            block_mask: bool `[rows, cols]`, the blocks kept so far.
            step: int64 scalar.

        Returns:
            bool `[rows, cols]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement keep().")

    def get_config(self):
        return {
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


def keep_largest(scores, block_mask, sparsity):
    """Drops the blocks of lowest score until `round(sparsity * blocks)` are dropped in all.

    Exact whatever the ties: equal scores are dropped in the order of their index.
    """
    num_blocks = scores.shape[0] * scores.shape[1]
    # A block that was dropped before ranks below every live one, whose score is at least 0.
    ranked = ops.reshape(ops.where(block_mask, scores, -ops.ones_like(scores)), (-1,))
    rank = ops.argsort(ops.argsort(ranked))
    num_dropped = ops.cast(ops.round(ops.cast(sparsity, "float64") * num_blocks), rank.dtype)
    kept = ops.reshape(rank >= num_dropped, scores.shape)
    return ops.logical_and(kept, block_mask)


def updated_mask(schedule, scores, block_mask, step):
    """New `block_mask` of any schedule: ours, or TFMOT's, which give a sparsity to rank by."""
    if isinstance(schedule, BlockPruningSchedule):
        return schedule.keep(scores, block_mask, step)
    return keep_largest(scores, block_mask, schedule(step)[1])


def check_schedule(schedule):
    """Returns `schedule`, or raises `TypeError` when it is no pruning schedule."""
    if not isinstance(schedule, tfmot.sparsity.keras.PruningSchedule):
        raise TypeError(
            "`schedule` must be a tf_blocksparse.GradualSparsity, a tf_blocksparse.ThresholdRamp or any "
            f"tfmot.sparsity.keras.PruningSchedule. Received: {schedule!r} of type {type(schedule).__name__}."
        )
    return schedule


def serialize_schedule(schedule):
    """Config of any schedule: Keras serialises ours, TFMOT's own give `{"class_name", "config"}`."""
    config = schedule.get_config()
    if type(schedule).__name__ == config.get("class_name"):
        return {"tfmot": config}
    return keras.saving.serialize_keras_object(schedule)


def deserialize_schedule(config):
    """The schedule that `serialize_schedule()` was given."""
    if "tfmot" in config:
        cls = getattr(tfmot.sparsity.keras, config["tfmot"]["class_name"])
        return cls(**config["tfmot"]["config"])
    return keras.saving.deserialize_keras_object(config)


def check_step(name, value):
    """Returns `value` as an int of at least 0, or raises `ValueError`."""
    if isinstance(value, bool) or int(value) != value or value < 0:
        raise ValueError(f"`{name}` must be a whole number of steps, at least 0. Received: {name}={value!r}.")
    return int(value)


def check_fraction(name, value):
    """Returns `value` as a float in [0, 1), or raises `ValueError`."""
    if not 0.0 <= value < 1.0:
        hint = f" Did you mean {value / 100:g}?" if 1.0 < value < 100.0 else ""
        raise ValueError(
            f"`{name}` is a fraction, at least 0 and below 1: at 1.0 no weight would be left. "
            f"Received: {name}={value!r}.{hint}"
        )
    return float(value)
