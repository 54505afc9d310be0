"""The threshold ramps of [BSR] Table 1 and Equations 1 and 2, for commands that train a dense model first.

Reference: Narang, Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017), arXiv:1711.02782, section 3.1.
"""

import dataclasses

import tf_blocksparse as bs


@dataclasses.dataclass(frozen=True)
class Steps:
    """Optimizer steps of a schedule.

    Attributes:
        begin, ramp, end: where blocks begin to go, a ramp gets steeper, and no more go.
        total: of the training.
        frequency: steps between updates.
    """

    begin: int
    ramp: int
    end: int
    total: int
    frequency: int


def planned_steps(options, epochs, steps_per_epoch):
    """Steps as the command line says, the others as Table 1: second epoch, 20 % and 40 % of the epochs.

    A training of less than five epochs begins half way to the end of the schedule.

    Raises:
        ValueError: if they do not follow in this order, or the training ends before the schedule.
    """
    total = epochs * steps_per_epoch
    end = round(0.4 * total) if options.end_step is None else options.end_step
    begin = min(steps_per_epoch, end // 2) if options.begin_step is None else options.begin_step
    ramp = min(max(begin, round(0.2 * total)), end) if options.ramp_step is None else options.ramp_step
    frequency = min(100, max(1, steps_per_epoch // 10)) if options.frequency is None else options.frequency
    if not begin <= ramp <= end <= total or begin == end:
        raise ValueError(
            f"Blocks would go from step {begin}, with a ramp faster from {ramp}, to {end}, of {total}. Steps must "
            "follow in this order. Give --epochs, or --begin-step, --ramp-step and --end-step."
        )
    return Steps(begin, ramp, end, total, frequency)


def planned_ramp(options, steps):
    """The ramp without its slopes, which need the trained dense model: raises `ValueError` if the target is none."""
    return bs.ThresholdRamp(steps.begin, steps.ramp, steps.end, 1.0, 1.5, steps.frequency, options.target)


def ramp(dense, target, block_shape, steps, kind, hit_target=False):
    """The schedule of a kind of weights, with slopes from a dense model (Equations 1 and 2).

    Args:
        dense: the trained model.
        target: float, the sparsity.
        block_shape: `(height, width)`.
        steps: `Steps`.
        kind: such as `"recurrent"`.
        hit_target: bool, as of `tf_blocksparse.ThresholdRamp`.

    Raises:
        ValueError: as `tf_blocksparse.ThresholdRamp.for_model`.
    """
    return bs.ThresholdRamp.for_model(
        dense,
        target,
        block_shape,
        epochs=1,
        steps_per_epoch=steps.total,
        frequency=steps.frequency,
        kind=kind,
        hit_target=hit_target,
        begin_step=steps.begin,
        ramp_step=steps.ramp,
        end_step=steps.end,
    )


def ramps(dense, options, steps, kinds, hit_target=False):
    """The schedules of kinds of weights, of which the command line says target and block shape: dict."""
    return {kind: ramp(dense, options.target, options.block_shape, steps, kind, hit_target) for kind in kinds}
