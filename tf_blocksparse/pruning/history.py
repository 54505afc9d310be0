"""`SparsityHistory`: records how sparse the weights were while they trained, and by which threshold."""

import logging
import math

import keras
import numpy as np
from keras import ops

from tf_blocksparse import blocks
from tf_blocksparse.pruning.optimizers import warn_about_optimizer
from tf_blocksparse.pruning.schedule import check_step, end_step_of
from tf_blocksparse.pruning.weights import pruned_weights

logger = logging.getLogger("tf_blocksparse")


class SparsityHistory(keras.callbacks.Callback):
    """Records sparsity and threshold of every pruned weight, to look at later; pruning needs no callback.

    It records when at least `every` optimizer steps have passed since the last record, and at the end of training.
    With `steps_per_execution` above 1 Keras calls it only once for several steps. Used in several calls of `fit()` it
    goes on where it was. When training begins it warns if the schedules cannot end in this call of `fit()`.

    The threshold of a schedule that has one (`ThresholdRamp`, `HardThreshold`) is the schedule's at that step, 0
    before it begins. Of others, which rank blocks, it is the smallest score among the blocks that are kept at that
    time: what a block had to have to stay. NaN if no block is kept.

    Args:
        every: int of at least 1, optimizer steps between two records.

    Attributes:
        steps: list of int, optimizer steps at which it was recorded.
        sparsity: dict from the path of a weight to the list of its sparsities, in blocks, at these steps. NaN for
            steps before a weight was built.
        threshold: dict from the path of a weight to the list of its thresholds at these steps.

    Raises:
        ValueError: if `every` is no whole number of at least 1.

    Example:

    >>> history = SparsityHistory(every=100)
    >>> model.fit(x, y, callbacks=[history])
    >>> history.sparsity["lstm/kernel"][-1]

    Reference:
        [BSR] appendix B.1, Figure 4a; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """

    def __init__(self, every=20):
        super().__init__()
        self.every = check_step("every", every, at_least=1)
        self.steps = []
        self.sparsity = {}
        self.threshold = {}
        self._began_at = 0
        self._batches = 0  # since the last record
        self._warned = False

    def on_train_begin(self, logs=None):
        warn_about_optimizer(self.model, averages=False)
        weights = pruned_weights(self.model)
        self._began_at = _step(weights)
        self._batches = 0
        if not self._warned:
            self._warned = self._warn_if_too_short(weights)

    def on_train_batch_end(self, batch, logs=None):
        self._batches += self.model.steps_per_execution
        if self._batches < self.every:  # to read the step would make the device wait
            return
        weights = pruned_weights(self.model)
        step = _step(weights)
        last = self.steps[-1] if self.steps else self._began_at
        if step and not 0 <= step - last < self.every:  # it falls when an older state is loaded
            self._record(weights, step)

    def on_train_end(self, logs=None):
        weights = pruned_weights(self.model)
        step = _step(weights)
        if step and (not self.steps or self.steps[-1] != step):
            self._record(weights, step)

    def _record(self, weights, step):
        self._batches = 0
        earlier = len(self.steps)
        self.steps.append(step)
        for weight in built(weights):
            block_mask = ops.convert_to_numpy(weight.pruning.block_mask)
            _append(self.sparsity, weight.path, earlier, blocks.sparsity(block_mask))
            _append(self.threshold, weight.path, earlier, threshold_of(weight, step))

    def _warn_if_too_short(self, weights):
        """Warns if no weight or optimizer can take so many steps; says nothing when it cannot know."""
        epochs, batches = (self.params or {}).get("epochs"), (self.params or {}).get("steps")
        if not epochs or not batches or type(self.model).train_step is not keras.Model.train_step:
            return False  # steps unknown, or a train_step of the user's may take several for one batch
        for weight in weights:
            taken = 0 if weight.pruning.step is None else int(weight.pruning.step)
            # At most: with `initial_epoch` there are fewer, which the callback is not told.
            possible = taken + math.ceil(epochs * batches / weight.pruning.gradient_accumulation_steps)
            end_step = end_step_of(weight.pruning.schedule)
            if possible < end_step:
                logger.warning(
                    "%s: its pruning schedule ends at step %d, but this call of fit() (epochs=%d, %d batches each) "
                    "ends at step %d at the latest: it will not be as sparse as the schedule aims at. Train longer, "
                    "call fit() again, or end the schedule sooner.",
                    weight.path,
                    end_step,
                    epochs,
                    batches,
                    possible,
                )
                return True
        return False


def built(weights):
    """Those of the pruned `PrunableWeight`s that have a mask already."""
    return [weight for weight in weights if weight.variable is not None and weight.pruning.block_mask is not None]


def threshold_of(weight, step):
    """Threshold of a built, pruned `PrunableWeight` when `step` steps were taken: float; see `SparsityHistory`."""
    pruning = weight.pruning
    threshold = getattr(pruning.schedule, "threshold", None)
    if callable(threshold):
        return float(threshold(step))
    if threshold is not None:
        return float(threshold) if step >= pruning.schedule.begin_step else 0.0
    scores = ops.convert_to_numpy(pruning.scores(ops.convert_to_tensor(weight.variable)))
    kept = scores[ops.convert_to_numpy(pruning.block_mask)]
    return float(kept.min()) if kept.size else math.nan


def _step(weights):
    """Optimizer steps taken: the most of all weights, as those of frozen layers do not count. 0 if none is built."""
    return max((int(weight.pruning.step) for weight in weights if weight.pruning.step is not None), default=0)


def _append(lists, path, earlier, value):
    """Appends to the list of `path`, which gets NaN for the records before it existed."""
    values = lists.setdefault(path, [])
    values += [np.nan] * (earlier - len(values)) + [value]
