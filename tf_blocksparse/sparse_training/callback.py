"""`SparsifyTraining`: calls `sparsify_training()` when the schedules of pruning have ended."""

import weakref

import keras

from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.schedule import end_step_of
from tf_blocksparse.sparse_training.plan import unfinished
from tf_blocksparse.sparse_training.record import keep_record
from tf_blocksparse.sparse_training.sparsify import (
    check_model,
    check_optimizer,
    has_twins,
    make_chooser,
    sparsify_training,
)


class SparsifyTraining(keras.callbacks.Callback):
    """Makes training faster once pruning has ended: the layers go on in blocks, and `fit` goes on with them.

    It calls `sparsify_training()` after the batch with which the last schedule has ended. The model stays the same
    object, so other callbacks, validation and `model.save()` go on as before. What it is given that cannot work, such
    as an optimizer whose steps would change, is an error when training begins. A model that has gone on in blocks
    already is left as it is.

    Args:
        batch_size, time_steps, measure, min_sparsity, exact: as in `sparsify_training()`.

    Attributes:
        swapped_at: number of optimizer steps after which the layers were exchanged, None before.

    Raises:
        ValueError: in `fit`, when training begins, for what `sparsify_training()` refuses but for a schedule that
            has not ended; also for a schedule that never ends.

    Example:

    >>> model.fit(x, y, epochs=10, callbacks=[SparsifyTraining(batch_size=20)])
    """

    def __init__(self, batch_size=None, time_steps=1, measure=True, min_sparsity=None, exact=True):
        super().__init__()
        make_chooser(batch_size, time_steps, measure, min_sparsity)  # refuses what is out of range
        self.batch_size = batch_size
        self.time_steps = time_steps
        self.measure = measure
        self.min_sparsity = min_sparsity
        self.exact = exact
        self.swapped_at = None
        self._batches = 0  # at least so many are left
        self._done = None

    def set_model(self, model):
        super().set_model(model)
        # `BackupAndRestore` loads weights when training begins, before or after this callback's turn.
        model.load_weights = _LoadWeights(model, self.exact)

    def on_train_begin(self, logs=None):
        check_model(self.model)
        check_optimizer(self.model.optimizer, self.exact)
        weights = pruned_weights(self.model)
        if not weights and not has_twins(self.model):
            raise ValueError(f"Nothing is pruned in {self.model.name!r}. Call tf_blocksparse.prune_blocks() before.")
        for weight in weights:
            if end_step_of(weight.pruning.schedule) < 0:
                raise ValueError(
                    f"The schedule of {weight.path}, {type(weight.pruning.schedule).__name__}, never ends, so there is "
                    "no fixed pattern to train with. Give it an end_step."
                )
        self._batches = 0
        self._done = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._done is None:  # not when training begins: `BackupAndRestore` loads weights then, maybe after this
            vars(self.model).pop("load_weights", None)
            self._done = has_twins(self.model)
            if self._done:
                keep_record(self.model)
            if self.model.train_function is None:  # weights of a model that went on in blocks have been loaded
                self.model.make_train_function()
        self._swap_if_due()

    def on_train_batch_end(self, batch, logs=None):
        self._batches -= self.model.steps_per_execution
        self._swap_if_due()

    def _swap_if_due(self):
        if self._done or self._batches > 0:  # to read the step would make the device wait
            return
        self._batches = max(map(_batches_left, unfinished(pruned_weights(self.model))), default=0)
        if self._batches <= 0:
            sparsify_training(
                self.model,
                batch_size=self.batch_size,
                time_steps=self.time_steps,
                measure=self.measure,
                min_sparsity=self.min_sparsity,
                exact=self.exact,
            )
            if self.model.train_function is None:
                self.model.make_train_function()
            self.swapped_at = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            self._done = True


class _LoadWeights:
    """`load_weights()` of a model that takes the form of the model that was saved first."""

    def __init__(self, model, exact):
        self._model = weakref.ref(model)
        self._exact = exact

    def __call__(self, filepath, *args, **kwargs):
        model = self._model()
        sparsify_training(model, exact=self._exact, like=filepath)
        type(model).load_weights(model, filepath, *args, **kwargs)


def _batches_left(weight):
    """At least so many batches go by before the schedule of a weight has ended."""
    step = 0 if weight.pruning.step is None else int(weight.pruning.step)
    return end_step_of(weight.pruning.schedule) - step
