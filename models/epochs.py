"""Training that goes on after its last whole epoch: what is kept for that, and `fit()` that begins there.

```python
fit(model, batches, validation, epochs=10, callbacks=[CSVLogger("log.csv", append=True), Backup("backup.weights.h5")])
```

Batches are objects with a length, a method `dataset()`, and an attribute `epoch` that decides their order: so an epoch
is the same whether it comes after the one before or after a restart.
"""

import os
import pathlib
import sys

import keras
import numpy as np


class Backup(keras.callbacks.Callback):
    """Keeps the weights, and what the optimizer and the pruning know, of the end of the last epoch.

    Keras's `BackupAndRestore` writes weights and number of the epoch one after the other, over those of the epoch
    before: a process that dies in between leaves a broken file, or trains an epoch twice. Here the file is exchanged
    for a whole one, and the optimizer's own count says which epoch it is of. Give it last, so that an epoch that is in
    here is in all logs.

    Args:
        path: of the file, which ends in `.weights.h5`.
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def restore(self, model):
        """Gives a compiled model what was kept, if there is anything."""
        if self.path.exists():
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self.path)

    def on_epoch_end(self, epoch, logs=None):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"part-{self.path.name}")
        self.model.save_weights(part)
        os.replace(part, self.path)


class TellEpoch(keras.callbacks.Callback):
    """Tells batches, and dropout, which epoch it is."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.epoch = epoch
        draw_for(self.model, epoch)


def draw_for(model, epoch):
    """Lets dropout draw what it draws in that epoch: its seeds are in no file that Keras writes."""
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            state = keras.ops.convert_to_numpy(variable)
            state = np.array([state[0], epoch * 2**20 % 2**32], state.dtype)  # seed, and number of the draw
            variable.assign(state)


def restored_epochs(model, steps_per_epoch, callbacks):
    """Gives a compiled model what the `Backup` among the callbacks kept: the number of epochs it was trained for."""
    for callback in callbacks:
        if isinstance(callback, Backup):
            callback.restore(model)
    return steps_done(model) // steps_per_epoch


def steps_done(model):
    """Steps that the optimizer of a model has counted, under whatever strategy: int."""
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def fit(model, batches, validation, epochs, callbacks):
    """Plain `fit()` of a compiled model, which goes on where the `Backup` among the callbacks ended.

    Args:
        model: a compiled model.
        batches, validation: to train on, and to validate with after each epoch.
        epochs: int, in all.
        callbacks: list.

    Returns:
        Keras's `History`.
    """
    return model.fit(
        batches.dataset(),
        validation_data=validation.dataset(),
        epochs=epochs,
        initial_epoch=restored_epochs(model, len(batches), callbacks),
        shuffle=False,
        callbacks=[TellEpoch(batches), *callbacks],
        verbose=1 if sys.stdout.isatty() else 2,
    )
