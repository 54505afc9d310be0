"""Constant sparsity: the target is reached at once."""

import keras
from keras import ops

from tf_blocksparse.pruning.schedule import SparsitySchedule, check_fraction


@keras.saving.register_keras_serializable("tf_blocksparse")
class ConstantSparsity(SparsitySchedule):
    """Drops the blocks of lowest score at once, at `begin_step`, and no more after it.

    In each weight matrix the share `target_sparsity` of the blocks goes, to one block and whatever the ties; one
    block always stays. The rest of the training makes up for what was lost. TFMOT's schedule of this name ranks
    anew every `frequency` steps; here dropped blocks stay dropped, so one update is all there is to do.

    There is one update, with the step `end_step = max(begin_step, 1)`: a training of so many steps has reached
    the target.

    Args:
        target_sparsity: float in [0, 1), fraction of the blocks that become zero.
        begin_step: int, optimizer step of the update; for 0, as for 1, it comes with the first step.

    Raises:
        ValueError: for a sparsity outside [0, 1) or a negative step.

    Example:

    >>> schedule = ConstantSparsity(0.9, begin_step=500)
    >>> [bool(schedule.should_prune(t)) for t in (499, 500, 501)]
    [False, True, False]

    Reference:
        [`tfmot.sparsity.keras.ConstantSparsity`]
        (https://www.tensorflow.org/model_optimization/api_docs/python/tfmot/sparsity/keras/ConstantSparsity)
    """

    def __init__(self, target_sparsity, begin_step=0):
        super().__init__(begin_step, end_step=None)
        self.target_sparsity = check_fraction("target_sparsity", target_sparsity)

    def sparsity(self, step):
        """Sparsity aimed at when `step` steps were taken: float64 scalar."""
        return ops.cast(ops.cast(step, "int64") >= self.end_step, "float64") * self.target_sparsity

    def get_config(self):
        return {"target_sparsity": self.target_sparsity, "begin_step": self.begin_step}
