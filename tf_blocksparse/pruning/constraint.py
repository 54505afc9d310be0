"""The Keras constraint that does the pruning.

Keras applies a variable's constraint after every update by any optimizer, inside the graph. So blocks are
exactly zero after every step, without a callback, and whatever reads the weights between steps sees them
sparse. The step and the mask belong to the constraint and are saved and restored with the model.
"""

import logging
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_blocksparse.blocks import canonical_block_shape, check_score
from tf_blocksparse.matrix_view import MatrixView
from tf_blocksparse.pruning.schedule import (
    check_schedule,
    check_step,
    deserialize_schedule,
    is_update_step,
    serialize_schedule,
    updated_mask,
)

logger = logging.getLogger("tf_blocksparse")


@keras.saving.register_keras_serializable("tf_blocksparse")
class BlockPruningConstraint(
    keras.constraints.Constraint,
    keras.Operation,  # saves the step and `block_mask` in .keras and .weights.h5 files
    tf.__internal__.tracking.AutoTrackable,  # and in tf.train.Checkpoint
):
    """Holds the blocks that its schedule has dropped at zero.

    Belongs to one weight. `prune_blocks()` makes it; nobody needs to build it by hand.

    Args:
        schedule: a `tfmot.sparsity.keras.PruningSchedule`.
        block_shape: `(height, width)` or an int.
        gates: int, gate matrices that lie side by side in the weight.
        score: `"max"`, `"mean"` or `"l2"`: score of a block from its |w|.
        view: the `MatrixView` of the weight, or its config. None: all axes but the last are the rows.
        gradient_accumulation_steps: int, calls for one optimizer step.
        ranking: `"layer"`: the schedule ranks the blocks of this weight. `"global"`: the blocks of all weights that
            a `GlobalRanking` links.
        inner: the constraint that the weight had before; applied first.

    Attributes:
        calls: int64 scalar variable, updates applied so far. None until the weight exists.
        block_mask: bool variable `[grid rows, grid cols]`, True = kept. None until the weight exists.
    """

    def __init__(
        self,
        schedule,
        block_shape,
        gates=1,
        score="max",
        view=None,
        gradient_accumulation_steps=1,
        ranking="layer",
        inner=None,
    ):
        keras.Operation.__init__(self)
        self.schedule = check_schedule(schedule)
        self.block_shape = canonical_block_shape(block_shape)
        self.gates = gates
        self.score = check_score(score)
        self.view = MatrixView(**view) if isinstance(view, dict) else view or MatrixView()
        self.gradient_accumulation_steps = check_step(
            "gradient_accumulation_steps", gradient_accumulation_steps, at_least=1
        )
        self.ranking = check_ranking(ranking)
        self.inner = inner
        self.global_ranking = None
        self.grid = None
        self.calls = None
        self.block_mask = None

    @property
    def step(self):
        """Optimizer steps taken so far: int64 scalar tensor. None until the weight exists."""
        return None if self.calls is None else ops.convert_to_tensor(self.calls) // self.gradient_accumulation_steps

    def build(self, shape):
        """Makes the state for a weight of `shape`."""
        grid = self.view.grid(shape, self.block_shape, self.gates)
        if self.grid is not None and self.grid != grid:
            raise ValueError(
                f"This constraint belongs to a weight of shape {self.grid.shape} and cannot serve one of shape "
                f"{grid.shape} as well. Call prune_blocks() on each layer instead of sharing a constraint."
            )
        if self.grid is None:
            self.grid = grid
            self.shape = tuple(shape)
            self.calls = keras.Variable(0, dtype="int64", trainable=False, name="pruning_calls")
            self.block_mask = keras.Variable(
                ops.ones(grid.mask_shape, "bool"), dtype="bool", trainable=False, name="block_mask"
            )

    def build_for(self, variable):
        """Makes the state where the variable lives: mirrored, if a distribution strategy mirrors it."""
        if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
            self.build(variable.shape)  # at the first step, in a replica: TensorFlow mirrors what is made there
            return
        value = getattr(variable, "value", None)
        with getattr(value, "distribute_strategy", tf.distribute.get_strategy()).scope():
            self.build(variable.shape)

    def __call__(self, w):
        """Counts a call, updates the mask when the schedule says so, returns `w` with dropped blocks at zero."""
        with tf.init_scope():
            if self.grid is None:
                self._build_late(w)
            self.build(w.shape)
        if self.inner is not None:
            w = self.inner(w)
        w = ops.convert_to_tensor(w)
        calls = ops.convert_to_tensor(self.calls) + 1
        step = calls // self.gradient_accumulation_steps
        due = ops.logical_and(
            is_update_step(self.schedule, step), ops.equal(calls % self.gradient_accumulation_steps, 0)
        )
        block_mask = self._updated_mask(w, due, step)
        self.block_mask.assign(block_mask)
        self.calls.assign(calls)
        return self._masked(w, block_mask)

    def masked(self, w):
        """`w` with the blocks that were dropped so far at zero; changes no state."""
        return w if self.block_mask is None else self._masked(ops.convert_to_tensor(w), self._mask())

    def of_variable(self, w):
        """The constraint of the variable `w`: this one."""
        return self

    def scores(self, w):
        """Score of every block of the weight `w`: float32 `[grid rows, grid cols]`."""
        return self.grid.scores(self.view.to_matrix(w), self.score)

    def _updated_mask(self, w, due, step):
        if self.ranking == "global":
            return self._linked().updated_mask(self, due, step)
        return ops.cond(due, lambda: updated_mask(self.schedule, self.scores(w), self._mask(), step), self._mask)

    def _linked(self):
        if self.global_ranking is None:
            raise ValueError(
                "The blocks of this model are ranked over all its weights, and a loaded or cloned model has lost "
                "which weights belong together. Call tf_blocksparse.link_ranking(model) and compile it first."
            )
        return self.global_ranking

    def _mask(self):
        return ops.convert_to_tensor(self.block_mask)

    def _masked(self, w, block_mask):
        matrix = self.view.to_matrix(w)
        # A plain product would keep NaN, and make -0.0 of negative weights. `where` takes twice the time of this: its
        # mask has to be spread over all elements first.
        kept = ops.cast(block_mask, w.dtype)
        if self.grid.shape[0] % self.block_shape[0] == 0:  # no edge: one row of the mask serves all rows of a block
            kept = ops.expand_dims(self.grid.expand_columns(kept), 1)
            matrix = ops.reshape(matrix, (self.grid.rows, self.block_shape[0], self.grid.shape[1]))
        else:
            kept = self.grid.expand(kept)
        return self.view.from_matrix(tf.math.multiply_no_nan(matrix, kept), w.shape)

    def _build_late(self, w):
        """Builds at the first step of a layer that came without state: warns if it had been pruned before."""
        self.build_for(w)
        if not isinstance(w, keras.Variable):
            return
        zeros = int((~self.grid.nonzero_blocks(self.view.to_matrix(ops.convert_to_numpy(w)))).sum())
        if zeros:
            logger.warning(
                "%s has %d blocks of zeros, but its pruning starts afresh, at step 0 with all blocks kept: the file "
                "it came from holds no masks. Legacy .h5 files drop them: save as .keras or .weights.h5.",
                w.path,
                zeros,
            )

    def save_own_variables(self, store):
        """Keras calls this when it saves the layer that holds the constraint."""
        if self.grid is not None:
            store["calls"] = ops.convert_to_numpy(self.calls)
            store["block_mask"] = ops.convert_to_numpy(self.block_mask)
            store["shape"] = np.array(self.shape)

    def load_own_variables(self, store):
        """Keras calls this when it loads; weights saved without pruning leave the state as it is."""
        if len(store.keys()):
            self.build([int(n) for n in store["shape"]])
            self.calls.assign(store["calls"])
            self.block_mask.assign(store["block_mask"])

    def get_config(self):
        if _writes_legacy_h5():
            warnings.warn(
                "Legacy .h5 files hold neither the masks nor the step of pruning: a model that is loaded from one "
                "starts pruning afresh. Save it as .keras or .weights.h5, or call tf_blocksparse.strip_pruning() "
                "before.",
                stacklevel=2,
            )
        return {
            "schedule": serialize_schedule(self.schedule),
            "block_shape": list(self.block_shape),
            "gates": self.gates,
            "score": self.score,
            "view": self.view.get_config(),
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "ranking": self.ranking,
            "inner": keras.saving.serialize_keras_object(self.inner),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["schedule"] = deserialize_schedule(config["schedule"])
        config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)


def _writes_legacy_h5():
    """Whether Keras asks for the config to write it to a legacy .h5 file. It tells so in no other way."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.endswith("legacy_h5_format.py") and "save" in frame.f_code.co_name:
            return True
        frame = frame.f_back
    return False


def check_ranking(ranking):
    """Returns `ranking` if it is known, else raises `ValueError`."""
    if ranking not in ("layer", "global"):
        raise ValueError(f'`ranking` must be "layer" or "global". Received: ranking={ranking!r}.')
    return ranking
