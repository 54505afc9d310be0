"""`SparsityHistory`: records how sparse the weights were while they trained."""

import keras
from keras import ops

from tf_blocksparse import blocks
from tf_blocksparse.pruning.prune import pruned_weights


class SparsityHistory(keras.callbacks.Callback):
    """Records the sparsity of every pruned weight, for those who want to look at it; pruning needs no callback.

    Args:
        every: int, steps between two records. The end of training is recorded too.

    Attributes:
        steps: list of int, steps at which it was recorded.
        sparsity: dict from the path of a weight to the list of its sparsities at these steps.

    Example:

    >>> history = SparsityHistory(every=100)
    >>> model.fit(x, y, callbacks=[history])
    >>> history.sparsity["lstm/kernel"][-1]
    """

    def __init__(self, every=20):
        super().__init__()
        self.every = every
        self.steps = []
        self.sparsity = {}

    def on_train_batch_end(self, batch, logs=None):
        weights = pruned_weights(self.model)
        if weights and int(weights[0].constraint.step) % self.every == 0:
            self._record(weights)

    def on_train_end(self, logs=None):
        weights = pruned_weights(self.model)
        if weights and (not self.steps or self.steps[-1] != int(weights[0].constraint.step)):
            self._record(weights)

    def _record(self, weights):
        self.steps.append(int(weights[0].constraint.step))
        for weight in weights:
            block_mask = ops.convert_to_numpy(weight.constraint.block_mask)
            self.sparsity.setdefault(weight.path, []).append(blocks.sparsity(block_mask))
