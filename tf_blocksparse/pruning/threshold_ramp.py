"""The threshold ramp of block pruning ([BSR] section 3.1, after Narang et al. 2017)."""

import keras
import numpy as np
from keras import ops

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.pruning.schedule import BlockPruningSchedule, check_fraction, check_step, keep_largest
from tf_blocksparse.pruning.weights import prunable_weights

RAMP_OVER_START_SLOPE = 1.5  # phi / theta that Equation 1 assumes; Table 1 gives 1.2 to 1.7


@keras.saving.register_keras_serializable("tf_blocksparse")
class ThresholdRamp(BlockPruningSchedule):
    """Drops the blocks whose score is below a threshold that rises on two slopes.

    With t the optimizer step, the threshold is

    - `start_slope * (t - begin_step + 1) / frequency` from `begin_step` to `ramp_step`,
    - `(start_slope * (ramp_step - begin_step + 1) + ramp_slope * (t - ramp_step + 1)) / frequency` from there
      to `end_step`,

    0 before, and no block is dropped from `end_step` on. The mask is updated every `frequency` steps. The
    sparsity that comes out depends on the weights, and a matrix whose blocks are all below the threshold loses
    all of them.

    With a `target_sparsity` each matrix reaches it, to one block: while more blocks than that are below the
    threshold, the lowest of them go, and one more update, at `end_step`, drops the lowest blocks that are still
    missing, whatever `frequency` and the ties. One block of a matrix always stays. `GradualSparsity` reaches a
    target without a threshold to choose.

    Args:
        begin_step: int, `start_itr` of the paper: start of the second epoch.
        ramp_step: int, `ramp_itr`: start of 20 % of the epochs.
        end_step: int, `end_itr`: start of 40 % of the epochs.
        start_slope: float above 0, theta: rise of the threshold per `frequency` steps.
        ramp_slope: float above 0, phi: the same after `ramp_step`; 1.2 to 1.7 times theta.
        frequency: int, `freq`: steps between updates.
        target_sparsity: float in [0, 1), fraction of the blocks of each matrix that are zero from `end_step` on.
            None: the paper's rule, which has no target.

    Raises:
        ValueError: unless `begin_step <= ramp_step <= end_step`, `begin_step < end_step`, slopes are positive
            and the target is in [0, 1).

    Example:

    >>> ramp = ThresholdRamp(10, 20, 40, start_slope=0.2, ramp_slope=0.3, frequency=10)
    >>> [round(float(ramp.threshold(t)), 3) for t in (9, 10, 19, 20, 39)]
    [0.0, 0.02, 0.2, 0.25, 0.82]

    Reference:
        [Narang, Undersander and Diamos, 2017, "Block-Sparse Recurrent Neural Networks"]
        (https://arxiv.org/abs/1711.02782), section 3.1, Table 1, Equations 1 and 2
    """

    def __init__(
        self,
        begin_step,
        ramp_step,
        end_step,
        start_slope,
        ramp_slope,
        frequency=100,
        target_sparsity=None,
    ):
        super().__init__(begin_step, check_step("end_step", end_step), frequency)
        self.ramp_step = check_step("ramp_step", ramp_step)
        self.start_slope = float(start_slope)
        self.ramp_slope = float(ramp_slope)
        self.target_sparsity = None if target_sparsity is None else check_fraction("target_sparsity", target_sparsity)
        if not self.begin_step <= self.ramp_step <= self.end_step:
            raise ValueError(
                "Expected begin_step <= ramp_step <= end_step. Received: "
                f"begin_step={begin_step}, ramp_step={ramp_step}, end_step={end_step}."
            )
        if not (self.start_slope > 0 and self.ramp_slope > 0):
            raise ValueError(
                "The threshold must rise: `start_slope` and `ramp_slope` must be above 0. "
                f"Received: start_slope={start_slope}, ramp_slope={ramp_slope}."
            )

    @classmethod
    def for_model(
        cls,
        dense_model,
        target_sparsity,
        block_shape,
        epochs,
        steps_per_epoch,
        frequency=100,
        kind=None,
        begin_step=None,
        ramp_step=None,
        end_step=None,
        start_slope=None,
        ramp_slope=None,
        hit_target=False,
    ):
        """Picks the six hyper-parameters by the heuristics of [BSR] Table 1, Equations 1 and 2.

        theta comes from q, the `target_sparsity` quantile of |w| over the weights that `prune_blocks()` would
        prune, times the fourth root of the number of elements in a block. What is given is taken as it is.

        Args:
            dense_model: a trained dense Keras model, or one layer of it.
            target_sparsity: float in [0, 1): the sparsity to aim at. The paper reaches 85 % to 95 % this way
                and says that more tuning is needed to hit a value; or see `hit_target`.
            block_shape: `(height, width)` or an int.
            epochs: int, epochs of the run that will be pruned.
            steps_per_epoch: int, optimizer steps of an epoch.
            frequency: int, steps between updates.
            kind: `"recurrent"`, `"linear"`, ...: look at these weights only, for one schedule per kind of weight
                (`prune_blocks(schedule={"recurrent": ..., "linear": ...})`). None: all.
            begin_step, ramp_step, end_step, start_slope, ramp_slope: override a heuristic.
            hit_target: bool, whether each matrix must end up at `target_sparsity`, to one block. False: the
                paper's rule, where the target only sets the slopes.

        Returns:
            A `ThresholdRamp`.
        """
        total = epochs * steps_per_epoch
        begin_step = steps_per_epoch if begin_step is None else begin_step
        ramp_step = round(0.2 * total) if ramp_step is None else ramp_step
        end_step = round(0.4 * total) if end_step is None else end_step
        if not begin_step <= ramp_step <= end_step <= total or begin_step == end_step:
            raise ValueError(
                f"For {epochs} epochs of {steps_per_epoch} steps the schedule would be begin_step="
                f"{begin_step}, ramp_step={ramp_step}, end_step={end_step}, but steps must follow in this "
                f"order and end by step {total}. Table 1 is meant for 5 epochs or more; for a shorter run "
                "give begin_step, ramp_step and end_step."
            )
        if start_slope is None:
            q = _quantile(dense_model, check_fraction("target_sparsity", target_sparsity), kind)
            steps = 2 * (ramp_step - begin_step) + 3 * (end_step - ramp_step)
            height, width = canonical_block_shape(block_shape)
            start_slope = 2 * q * frequency / steps * (height * width) ** 0.25
        if ramp_slope is None:
            ramp_slope = RAMP_OVER_START_SLOPE * start_slope
        target = target_sparsity if hit_target else None
        return cls(begin_step, ramp_step, end_step, start_slope, ramp_slope, frequency, target)

    @property
    def updates_at_end(self):
        return self.target_sparsity is not None

    def threshold(self, step):
        """Threshold when `step` steps were taken: float32 scalar; stays where it is after `end_step`."""
        t = ops.cast(ops.minimum(ops.cast(step, "int64"), self.end_step), "float32")
        first = self.start_slope * (t - self.begin_step + 1)
        ramp_start = self.start_slope * (self.ramp_step - self.begin_step + 1)
        second = ramp_start + self.ramp_slope * (t - self.ramp_step + 1)
        rising = ops.where(t < self.ramp_step, first, second) / self.frequency
        return ops.where(t < self.begin_step, 0.0, rising)

    def __call__(self, step):
        """`(should_prune, threshold)` at `step`. TFMOT's own wrapper would take it for a sparsity."""
        return self.should_prune(step), self.threshold(step)

    def keep(self, scores, block_mask, step):
        above = ops.logical_and(block_mask, scores >= self.threshold(step))
        if self.target_sparsity is None:
            return above
        at_target = keep_largest(scores, block_mask, self.target_sparsity)
        ended = ops.cast(step, "int64") >= self.end_step
        return ops.where(ended, at_target, ops.logical_or(above, at_target))

    def get_config(self):
        config = super().get_config()
        return {
            "begin_step": config["begin_step"],
            "ramp_step": self.ramp_step,
            "end_step": config["end_step"],
            "start_slope": self.start_slope,
            "ramp_slope": self.ramp_slope,
            "frequency": config["frequency"],
            "target_sparsity": self.target_sparsity,
        }


def built_weights(dense_model, kind):
    """The built `PrunableWeight`s of one kind, or of all for None; raises `ValueError` if there are none."""
    found = [
        weight
        for weight in prunable_weights(dense_model)
        if weight.variable is not None and kind in (None, weight.kind)
    ]
    if not found:
        raise ValueError(
            f"No built, prunable weight of kind {kind or 'any'} was found in {dense_model.name!r}. Pass a "
            "trained model that has layers which prune_blocks() can prune, as Dense, Embedding or LSTM."
        )
    return found


def _quantile(dense_model, fraction, kind):
    """The `fraction` quantile of |w| over the prunable weights of one kind, or of all."""
    values = [np.abs(weight.matrix()).ravel() for weight in built_weights(dense_model, kind)]
    return float(np.quantile(np.concatenate(values), fraction))
