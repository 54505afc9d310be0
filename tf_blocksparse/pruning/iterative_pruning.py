"""Iterative pruning: prune, retrain, prune more ([Han et al., 2015], a baseline of [BSR])."""

import keras
from keras import ops

from tf_blocksparse.pruning.schedule import SparsitySchedule, check_fraction, check_step


@keras.saving.register_keras_serializable("tf_blocksparse")
class IterativePruning(SparsitySchedule):
    """Drops blocks in a few rounds, with `retrain_steps` between them in which the network recovers.

    Round i, from 0, is at step `begin_step + i * retrain_steps`: in each weight matrix the blocks of lowest score
    are dropped until the share `sparsities[i]` of its blocks is gone, to one block and whatever the ties. One
    block always stays. The last round is at `end_step = begin_step + (rounds - 1) * retrain_steps`, so train
    longer than `end_step` to retrain after it too.

    Args:
        sparsities: list of floats in [0, 1), increasing: sparsity after each round.
        begin_step: int, optimizer step of the first round; for 0 it comes with the first step.
        retrain_steps: int, optimizer steps from one round to the next.

    Raises:
        ValueError: for `sparsities` that are none, not fractions or do not increase, or bad steps.

    Example:

    >>> schedule = IterativePruning([0.5, 0.75, 0.9], begin_step=0, retrain_steps=1000)
    >>> [float(schedule.sparsity(t)) for t in (0, 999, 1000, 2000, 5000)]
    [0.5, 0.5, 0.75, 0.9, 0.9]
    >>> schedule.end_step
    2000

    Reference:
        [Han, Pool, Tran and Dally, 2015, "Learning both Weights and Connections for Efficient Neural Networks"]
        (https://arxiv.org/abs/1506.02626)
    """

    def __init__(self, sparsities, begin_step, retrain_steps):
        self.sparsities = _check_sparsities(sparsities)
        self.retrain_steps = check_step("retrain_steps", retrain_steps, at_least=1)
        rounds_after_first = len(self.sparsities) - 1
        begin_step = check_step("begin_step", begin_step)
        end_step = begin_step + rounds_after_first * self.retrain_steps if rounds_after_first else None
        super().__init__(begin_step, end_step, frequency=self.retrain_steps)

    @classmethod
    def to_target(cls, target_sparsity, rounds, begin_step, retrain_steps):
        """Rounds that each drop the same share of the blocks that are left, until `target_sparsity` is reached.

        >>> schedule = IterativePruning.to_target(0.75, rounds=2, begin_step=0, retrain_steps=1000)
        >>> schedule.sparsities
        [0.5, 0.75]
        """
        density = 1 - check_fraction("target_sparsity", target_sparsity)
        rounds = check_step("rounds", rounds, at_least=1)
        before_last = [1 - density ** (i / rounds) for i in range(1, rounds)]
        return cls([*before_last, target_sparsity], begin_step, retrain_steps)

    def sparsity(self, step):
        """Sparsity aimed at when `step` steps were taken: float64 scalar; 0 before `begin_step`."""
        last = len(self.sparsities)
        rounds = (ops.cast(step, "int64") - self.begin_step) // self.retrain_steps + 1
        return ops.take(ops.convert_to_tensor([0.0, *self.sparsities], "float64"), ops.clip(rounds, 0, last))

    def get_config(self):
        return {
            "sparsities": self.sparsities,
            "begin_step": self.begin_step,
            "retrain_steps": self.retrain_steps,
        }


def _check_sparsities(sparsities):
    """Returns a list of increasing fractions, or raises `ValueError`."""
    if not isinstance(sparsities, (list, tuple)) or not sparsities:
        raise ValueError(
            "`sparsities` must list the sparsity after each round, as [0.5, 0.75, 0.9]. "
            f"Received: sparsities={sparsities!r}."
        )
    checked = [check_fraction(f"sparsities[{i}]", sparsity) for i, sparsity in enumerate(sparsities)]
    if any(later <= earlier for earlier, later in zip(checked, checked[1:], strict=False)):
        raise ValueError(
            "`sparsities` must increase from round to round: dropped blocks do not come back. "
            f"Received: sparsities={sparsities!r}."
        )
    return checked
