"""Hard threshold: what is small goes at once ([Yu et al., 2012], a baseline of [BSR])."""

import math

import keras
import numpy as np
from keras import ops

from tf_blocksparse.pruning.schedule import BlockPruningSchedule, check_fraction
from tf_blocksparse.pruning.threshold_ramp import built_weights


@keras.saving.register_keras_serializable("tf_blocksparse")
class HardThreshold(BlockPruningSchedule):
    """Drops every block whose score is below `threshold` at once, at `begin_step`, and no more after it.

    Meant for a network that was trained densely: it is pruned with its first step and retrained. The sparsity
    that comes out depends on the weights, and a matrix whose blocks are all below the threshold loses all of
    them. Use `ConstantSparsity` to give each matrix the same sparsity.

    There is one update, with the step `end_step = max(begin_step, 1)`: a training of so many steps has pruned.

    Args:
        threshold: float of at least 0, score that a block needs to stay.
        begin_step: int, optimizer step of the update; for 0, as for 1, it comes with the first step.

    Raises:
        ValueError: for a threshold that is negative or no number, or a negative step.

    Example:

    >>> schedule = HardThreshold(0.1)
    >>> [bool(schedule.should_prune(t)) for t in (1, 2)]
    [True, False]
    >>> schedule.keep(ops.array([[0.05, 0.1, 0.3]]), ops.array([[True, True, False]]), step=1).numpy()
    array([[False,  True, False]])

    Reference:
        Yu, Seide, Li and Deng, 2012, "Exploiting sparseness in deep neural networks for large vocabulary speech
        recognition", ICASSP
    """

    updates_at_end = True

    def __init__(self, threshold, begin_step=0):
        super().__init__(begin_step, end_step=None)
        self.threshold = float(threshold)
        if not 0 <= self.threshold < math.inf:
            raise ValueError(
                "`threshold` is compared with the scores of blocks, so it must be a number of at least 0. "
                f"Received: threshold={threshold!r}."
            )

    @classmethod
    def for_model(cls, dense_model, target_sparsity, block_shape, begin_step=0, kind=None, score="max"):
        """Picks the threshold with which `dense_model`, as it is now, would get `target_sparsity`.

        It is the quantile of the scores of all blocks together, so matrices of small weights lose more than
        others. Blocks that tie with the threshold stay.

        Args:
            dense_model: a trained dense Keras model, or one layer of it.
            target_sparsity: float in [0, 1), fraction of the blocks that are below the threshold.
            block_shape: `(height, width)` or an int, as for `prune_blocks()`.
            begin_step: int, as above.
            kind: `"recurrent"`, `"linear"`, ...: look at these weights only, for one schedule per kind of weight
                (`prune_blocks(schedule={"recurrent": ..., "linear": ...})`). None: all.
            score: `"max"`, `"mean"` or `"l2"`, as for `prune_blocks()`.

        Returns:
            A `HardThreshold`.

        Example:

        >>> layer = keras.layers.Dense(64)
        >>> layer.build((None, 64))
        >>> schedule = HardThreshold.for_model(layer, 0.9, block_shape=(4, 4))
        """
        check_fraction("target_sparsity", target_sparsity)
        weights = built_weights(dense_model, kind)
        scores = np.sort(np.concatenate([_block_scores(weight, block_shape, score) for weight in weights]))
        # As many blocks are below this score as would have to go; np.quantile would interpolate and round.
        num_dropped = min(round(target_sparsity * scores.size), scores.size - 1)
        return cls(scores[num_dropped], begin_step)

    def __call__(self, step):
        """`(should_prune, threshold)` at `step`. TFMOT's own wrapper would take it for a sparsity."""
        return self.should_prune(step), ops.convert_to_tensor(self.threshold, "float32")

    def keep(self, scores, block_mask, step):
        return ops.logical_and(block_mask, scores >= self.threshold)

    def get_config(self):
        return {"threshold": self.threshold, "begin_step": self.begin_step}


def _block_scores(weight, block_shape, score):
    """Scores of the blocks of a `PrunableWeight` in one row: NumPy float32."""
    grid = weight.view.grid(weight.variable.shape, block_shape, weight.gates)
    return ops.convert_to_numpy(grid.scores(weight.matrix(), score)).ravel()
