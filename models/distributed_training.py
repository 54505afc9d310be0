"""Training a stateful language model in several processes, each of which reads some of the streams of every batch.

The same as `language_modelling.train()` does in one process, but for the order in which floats are added: gradients
are added up over the processes before they are clipped, so the optimizer, and with it pruning, sees those of the whole
batch. It then adds them up again, so they go over the network twice. Keras's own `fit()` fails under
`MultiWorkerMirroredStrategy` (3.15).
"""

import math
import time

import keras
import tensorflow as tf

from models.epochs import draw_for, restored_epochs
from models.language_modelling import ResetStates, TextBatches, word_cross_entropy
from models.workers import WorkerError, share_of

# What the others get to see of a process that is gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)


def train(workers, *arguments):
    """Trains as `train_all()` does: raises `WorkerError` if another process is lost meanwhile."""
    try:
        train_all(workers, *arguments)
    except _LOST as error:
        raise WorkerError(
            f"Worker {workers.index} has lost another one. When all have ended, the same commands go on after the last "
            f"whole epoch. TensorFlow says: {error.message[:300]}"
        ) from error


def train_all(workers, model, corpus, preset, epochs, callbacks=()):
    """Trains a model in all processes, or goes on training it.

    Args:
        workers: `Workers`.
        model: compiled, stateful with this process's share of the batch size; made in the scope of the strategy.
        corpus: a `text.Corpus`, the same in all processes.
        preset: a `Preset`.
        epochs: int, in all.
        callbacks: Keras callbacks, which are called in the first process. All read the `Backup` that may be among them.
    """
    share = share_of(preset.batch_size, workers.count)
    mine = slice(workers.index * share, (workers.index + 1) * share)
    streams = preset.batch_size, preset.num_steps
    batches = TextBatches(corpus.train, *streams, preset.steps_per_epoch, mine)
    validation = TextBatches(corpus.valid, *streams, rows=mine)
    with workers.strategy.scope():
        first = restored_epochs(model, len(batches), callbacks)
        _drop_other_features(model, workers.index)
    workers.agree(first, "epochs done")
    steps = _Steps(workers, model, preset.batch_size)
    callbacks = keras.callbacks.CallbackList(
        callbacks if workers.is_first else [], model=model, epochs=epochs, steps=len(batches)
    )
    callbacks.on_train_begin()
    for epoch in range(first, epochs):
        begun, batches.epoch = time.monotonic(), epoch
        with workers.strategy.scope():
            draw_for(model, epoch)
        model.optimizer.learning_rate = preset.rate(epoch)
        callbacks.on_epoch_begin(epoch)
        logs = {"learning_rate": preset.rate(epoch), **steps.run(batches, callbacks), **steps.evaluate(validation)}
        if workers.is_first:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(f"Epoch {epoch + 1}/{epochs}: {time.monotonic() - begun:.0f} s, {shown}", flush=True)
        callbacks.on_epoch_end(epoch, logs)
    callbacks.on_train_end()


def _drop_other_features(model, index):
    """Lets dropout of every process draw for itself; they begin with the same seeds."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            state = layer.seed_generator.state
            state.assign(state + keras.ops.cast([index, 0], state.dtype))


class _Steps:
    """The compiled steps of one model."""

    def __init__(self, workers, model, batch_size):
        self._workers, self._model, self._batch_size = workers, model, batch_size
        self._strategy = workers.strategy
        self._train_step = tf.function(self._train_step)
        self._test_step = tf.function(self._test_step)

    def run(self, batches, callbacks):
        """Trains one epoch: its logs."""
        self._reset_states()
        total = [0.0, 0.0]
        for number, batch in enumerate(batches.dataset()):
            callbacks.on_train_batch_begin(number)
            total = [a + float(b) for a, b in zip(total, self._train_step(*batch), strict=True)]
            callbacks.on_train_batch_end(number)
        words = len(batches) * self._batch_size * batch[0].shape[1]
        return {"loss": total[0] / len(batches), "perplexity": math.exp(total[1] / words)}

    def evaluate(self, batches):
        """The logs of a pass over the validation text."""
        self._reset_states()
        entropy = sum(float(self._test_step(*batch)) for batch in batches.dataset())
        sequences = len(batches) * self._batch_size
        steps = next(iter(batches.dataset()))[0].shape[1]
        return {"val_loss": entropy / sequences, "val_perplexity": math.exp(entropy / sequences / steps)}

    def _reset_states(self):
        with self._strategy.scope():
            reset = ResetStates()
            reset.set_model(self._model)
            reset.on_test_begin()

    def _train_step(self, x, y):
        """One step of the optimizer: loss and entropy of the whole batch."""
        return self._strategy.run(self._replica_step, args=(x, y))

    def _replica_step(self, x, y):
        model, count = self._model, self._workers.count
        with tf.GradientTape() as tape:
            entropy = tf.reduce_sum(word_cross_entropy(y, model(x, training=True)))
            loss = entropy / self._batch_size + sum(model.losses) / count
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, *sums = tf.distribute.get_replica_context().all_reduce("sum", (gradients, loss, entropy))
        # Keras would clip the part of each process, and adds up what it is given: here all have the same.
        gradients, _ = tf.clip_by_global_norm(gradients, model.optimizer.global_clipnorm)
        gradients = [tf.math.scalar_mul(1 / count, gradient) for gradient in gradients]
        model.optimizer.apply(gradients, model.trainable_variables)
        return sums

    def _test_step(self, x, y):
        def replica(x, y):
            entropy = tf.reduce_sum(word_cross_entropy(y, self._model(x, training=False)))
            return tf.distribute.get_replica_context().all_reduce("sum", entropy)

        return self._strategy.run(replica, args=(x, y))
