"""Gradual sparsity: a target that is reached on a cubic curve ([AGP], Equation 1)."""

import keras
from keras import ops

from tf_blocksparse.pruning.schedule import (
    SparsitySchedule,
    check_fraction,
    check_step,
)


@keras.saving.register_keras_serializable("tf_blocksparse")
class GradualSparsity(SparsitySchedule):
    """Raises the sparsity from `initial_sparsity` to `target_sparsity`, fast at first.

    `s_t = s_f + (s_i - s_f) * (1 - (t - begin_step) / (end_step - begin_step)) ** power`

    At every update the blocks of lowest score in each weight matrix are dropped until the share `s_t` of its
    blocks is gone, to one block and whatever the ties. The last update is always at `end_step`, so the target
    is reached whether or not `frequency` divides the steps. One block of a matrix always stays.

    Args:
        target_sparsity: float in [0, 1), fraction of the blocks that end up zero.
        begin_step: int, optimizer step of the first update.
        end_step: int, optimizer step of the last update.
        frequency: int, steps between updates.
        initial_sparsity: float in [0, 1), sparsity at `begin_step`.
        power: float above 0; 3 is the paper's cubic curve.

    Raises:
        ValueError: for a sparsity outside [0, 1) or a schedule that ends before it starts.

    Example:

    >>> schedule = GradualSparsity(0.9, begin_step=0, end_step=1000)
    >>> float(schedule.sparsity(0)), round(float(schedule.sparsity(1000)), 6)
    (0.0, 0.9)

    Reference:
        [Zhu and Gupta, 2017, "To prune, or not to prune"](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        target_sparsity,
        begin_step,
        end_step,
        frequency=100,
        initial_sparsity=0.0,
        power=3,
    ):
        super().__init__(begin_step, check_step("end_step", end_step), frequency)
        self.target_sparsity = check_fraction("target_sparsity", target_sparsity)
        self.initial_sparsity = check_fraction("initial_sparsity", initial_sparsity)
        self.power = power
        if self.initial_sparsity > self.target_sparsity:
            raise ValueError(
                "`initial_sparsity` must not be above `target_sparsity`: dropped blocks do not come back. "
                f"Received: initial_sparsity={initial_sparsity}, target_sparsity={target_sparsity}."
            )
        if power <= 0:
            raise ValueError(f"`power` must be above 0. Received: power={power}.")

    def sparsity(self, step):
        """Sparsity aimed at when `step` steps were taken: float64 scalar, as 0.7 of 45 blocks is exact in it."""
        step = ops.clip(ops.cast(step, "float64"), self.begin_step, self.end_step)
        left = (self.end_step - step) / (self.end_step - self.begin_step)
        return self.target_sparsity + (self.initial_sparsity - self.target_sparsity) * left**self.power

    def get_config(self):
        return {
            "target_sparsity": self.target_sparsity,
            **super().get_config(),
            "initial_sparsity": self.initial_sparsity,
            "power": self.power,
        }
