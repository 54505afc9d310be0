"""What language models share: loss, perplexity, batches, training, and states that start anew with each text."""

import dataclasses
import sys

import keras
import tensorflow as tf
from keras import ops

from models import text


def word_cross_entropy(words, logits):
    """`-log p(word)` of every word: `[batch, time]` and `[batch, time, vocabulary]` -> `[batch, time]`."""
    # TensorFlow's own fused op runs on one core: on two, 21 ms against 15 ms here, gradient included, and 21 ms
    # against 7 ms without it, for 400 words of 10,000.
    chosen = ops.take_along_axis(logits, ops.expand_dims(words, -1), axis=-1)
    return ops.logsumexp(logits, axis=-1) - ops.squeeze(chosen, -1)


def sequence_loss(words, logits):
    """Zaremba's loss: summed over time; Keras then takes the mean over the batch.

    Learning rate 1 and the bound on the gradients refer to this sum, not to the mean per word.
    """
    return ops.sum(word_cross_entropy(words, logits), axis=-1)


class Perplexity(keras.metrics.Mean):
    """`exp` of the mean cross-entropy per word, without whatever a regularizer adds to the loss."""

    def __init__(self, name="perplexity", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(word_cross_entropy(y_true, y_pred), sample_weight)

    def result(self):
        return ops.exp(super().result())


class ResetStates(keras.callbacks.Callback):
    """Starts each pass over a text from zero state, so that validation and training never see each other's."""

    def on_epoch_begin(self, epoch, logs=None):
        self._reset()

    def on_test_begin(self, logs=None):
        self._reset()

    def _reset(self):
        for layer in self.model.layers:
            if hasattr(layer, "reset_state"):
                layer.reset_state()


def steps_in(ids, batch_size, num_steps):
    """Batches that `dataset()` gives in one pass over a text."""
    return len(text.stateful_batches(ids, batch_size, num_steps)[0]) // batch_size


def dataset(ids, batch_size, num_steps, repeat=False):
    """Batches of a text for `fit` and `evaluate`, in the order of its streams; over and over with `repeat`."""
    arrays = text.stateful_batches(ids, batch_size, num_steps)
    # The end of each epoch would wait for tf.data's tuning thread, whose sleeps double up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size, drop_remainder=True)
    batches = batches.repeat() if repeat else batches
    return batches.prefetch(1).with_options(options)


def compile_model(model, preset):
    """Compiles with the preset's optimizer, Zaremba's loss and the perplexity; dense and pruned alike."""
    optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = optimizers[preset.optimizer](preset.learning_rate, global_clipnorm=preset.clip_norm)
    # XLA makes the LSTM loop slower on a CPU (220 against 173 ms a step of 32x20 words, 384 units).
    model.compile(optimizer, sequence_loss, metrics=[Perplexity()], jit_compile=False)


def train(model, corpus, preset, epochs, callbacks=()):
    """Trains a stateful model with plain `fit`; `perplexity` and `val_perplexity` are in its `History`.

    Args:
        model: a compiled model of `language_model`, pruned or not, stateful with the preset's batch size.
        corpus: a `text.Corpus`.
        preset: a `Preset`.
        epochs: int. The learning rate of an epoch stays the preset's.
        callbacks: further Keras callbacks.
    """
    streams = preset.batch_size, preset.num_steps
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: preset.rate(epoch))
    return model.fit(
        dataset(corpus.train, *streams, repeat=preset.steps_per_epoch is not None),
        validation_data=dataset(corpus.valid, *streams),
        epochs=epochs,
        steps_per_epoch=preset.steps_per_epoch,
        shuffle=False,
        callbacks=[ResetStates(), rate, *callbacks],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def perplexity(model, ids, preset):
    """Perplexity of a compiled, stateful model on a text."""
    batches = dataset(ids, preset.batch_size, preset.num_steps)
    return model.evaluate(batches, callbacks=[ResetStates()], verbose=0, return_dict=True)["perplexity"]


def copy_weights(source, target):
    """Gives `target`, the same model without states, all other weights of the stateful `source`; returns `target`."""
    states = {id(state) for layer in source.layers for state in getattr(layer, "states", None) or ()}
    kept = [weight for weight in source.weights if id(weight) not in states]
    for weight, value in zip(target.weights, kept, strict=True):
        weight.assign(value)
    return target


class LanguageModelTask:
    """A language model as `models.sweep` trains it, to be compared by its perplexity on the validation text.

    Args:
        corpus: a `text.Corpus`.
        preset: a `Preset` of a model file.
        build: function of `(vocabulary size, preset, dynamic)` that returns the stateful model; `dynamic` is None or
            `(block_shape, schedule)`.
        include: what of the model is pruned; None: all.
    """

    metric = "perplexity_valid"

    def __init__(self, corpus, preset, build, include=None):
        self.corpus, self.preset, self.include = corpus, preset, include
        self.epochs, self.units = preset.epochs, preset.units
        self._build = build
        streams = preset.batch_size, preset.num_steps
        self._texts = {"perplexity_valid": corpus.valid, "perplexity_test": corpus.test}
        self._texts = {name: ids for name, ids in self._texts.items() if ids is not None}
        for ids in self._texts.values():
            steps_in(ids, *streams)  # raises if the text is too short
        self.steps_per_epoch = preset.steps_per_epoch or steps_in(corpus.train, *streams)

    def build(self, seed, units=None, dynamic=None):
        """A new stateful model."""
        keras.utils.set_random_seed(seed)
        preset = dataclasses.replace(self.preset, units=units or self.units)
        return self._build(len(self.corpus.vocabulary), preset, dynamic)

    def fit(self, model, callbacks):
        """Compiles the model and trains all epochs."""
        compile_model(model, self.preset)
        train(model, self.corpus, self.preset, self.epochs, callbacks)

    def scores(self, model):
        """Perplexities by split; the test text may be missing."""
        return {name: perplexity(model, ids, self.preset) for name, ids in self._texts.items()}
