"""The Keras constraint that does the pruning.

Keras applies a variable's constraint after every update by any optimizer, inside the graph. So blocks are
exactly zero after every step, without a callback, and whatever reads the weights between steps sees them
sparse. The step and the mask belong to the constraint and are saved and restored with the model.
"""

import keras
import tensorflow as tf
from keras import ops

from tf_blocksparse.blocks import BlockGrid, canonical_block_shape, check_score
from tf_blocksparse.pruning.schedule import (
    check_schedule,
    deserialize_schedule,
    serialize_schedule,
    updated_mask,
)


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockPruningConstraint(
    keras.constraints.Constraint,
    keras.Operation,  # saves `step` and `block_mask` in .keras and .weights.h5 files
    tf.__internal__.tracking.AutoTrackable,  # and in tf.train.Checkpoint
):
    """Holds the blocks that its schedule has dropped at zero.

    Belongs to one weight. `prune_blocks()` makes it; nobody needs to build it by hand.

    Args:
        schedule: a `tfmot.sparsity.keras.PruningSchedule`.
        block_shape: `(height, width)` or an int.
        gates: int, gate matrices that lie side by side in the weight.
        score: `"max"`, `"mean"` or `"l2"`: score of a block from its |w|.
        inner: the constraint that the weight had before; applied first.

    Attributes:
        step: int64 scalar variable, updates applied so far.
        block_mask: bool variable `[grid rows, grid cols]`, True = kept. None until the weight exists.
    """

    def __init__(self, schedule, block_shape, gates=1, score="max", inner=None):
        keras.Operation.__init__(self)
        self.schedule = check_schedule(schedule)
        self.block_shape = canonical_block_shape(block_shape)
        self.gates = gates
        self.score = check_score(score)
        self.inner = inner
        self.grid = None
        self.step = None
        self.block_mask = None

    def build(self, shape):
        """Makes the state for a weight of `shape` `[in, out]`."""
        grid = BlockGrid(tuple(shape), self.block_shape, self.gates)
        if self.grid is not None and self.grid != grid:
            raise ValueError(
                f"This constraint belongs to a weight of shape {self.grid.shape} and cannot serve one of shape "
                f"{grid.shape} as well. Call prune_blocks() on each layer instead of sharing a constraint."
            )
        if self.grid is None:
            self.grid = grid
            self.step = keras.Variable(0, dtype="int64", trainable=False, name="pruning_step")
            self.block_mask = keras.Variable(
                ops.ones(grid.mask_shape, "bool"), dtype="bool", trainable=False, name="block_mask"
            )

    def __call__(self, w):
        """Counts a step, updates the mask when the schedule says so, returns `w` with dropped blocks at zero."""
        with tf.init_scope():
            self.build(w.shape)
        if self.inner is not None:
            w = self.inner(w)
        w = ops.convert_to_tensor(w)
        step = ops.convert_to_tensor(self.step) + 1
        block_mask = ops.cond(
            self.schedule(step)[0],
            lambda: updated_mask(self.schedule, self.grid.scores(w, self.score), self._mask(), step),
            self._mask,
        )
        self.block_mask.assign(block_mask)
        self.step.assign(step)
        return self._masked(w, block_mask)

    def masked(self, w):
        """`w` with the blocks that were dropped so far at zero; changes no state."""
        return w if self.block_mask is None else self._masked(w, self._mask())

    def _mask(self):
        return ops.convert_to_tensor(self.block_mask)

    def _masked(self, w, block_mask):
        # where, not a product: 0 * -1 is -0.0 and 0 * NaN is NaN.
        return ops.where(self.grid.expand(block_mask), w, ops.zeros_like(w))

    def save_own_variables(self, store):
        """Keras calls this when it saves the layer that holds the constraint."""
        if self.grid is not None:
            store["step"] = ops.convert_to_numpy(self.step)
            store["block_mask"] = ops.convert_to_numpy(self.block_mask)
            store["shape"] = self.grid.shape

    def load_own_variables(self, store):
        """Keras calls this when it loads; weights saved without pruning leave the state as it is."""
        if len(store.keys()):
            self.build([int(n) for n in store["shape"]])
            self.step.assign(store["step"])
            self.block_mask.assign(store["block_mask"])

    def get_config(self):
        return {
            "schedule": serialize_schedule(self.schedule),
            "block_shape": list(self.block_shape),
            "gates": self.gates,
            "score": self.score,
            "inner": keras.saving.serialize_keras_object(self.inner),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["schedule"] = deserialize_schedule(config["schedule"])
        config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)
