"""What language models share: loss, perplexity, batches, training, and states that start anew with each text."""

import dataclasses

import keras
import tensorflow as tf
from keras import ops

from models import text
from models.epochs import fit


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


class TextBatches:
    """Batches of a text in the order of its streams, for `fit` and `evaluate`: `(words, next words)`.

    Args:
        ids: int array `[tokens]`.
        batch_size, num_steps: streams, and words a step.
        steps: int, steps that make an epoch, which then begins where the one before ended; None: a whole pass.
        rows: slice of the streams that are read; the others are those of other processes.

    Raises:
        ValueError: if the text is too short for one batch.
    """

    def __init__(self, ids, batch_size, num_steps, steps=None, rows=slice(None)):
        arrays = text.stateful_batches(ids, batch_size, num_steps)
        self._arrays = [array.reshape(-1, batch_size, num_steps)[:, rows] for array in arrays]
        self._steps = steps
        self.epoch = 0

    def __len__(self):
        return self._steps or len(self._arrays[0])

    def _in_order(self):
        first = self.epoch * len(self)
        for number in range(first, first + len(self)):
            yield tuple(array[number % len(array)] for array in self._arrays)

    def dataset(self):
        """A `tf.data.Dataset` of the present epoch each time it is iterated: int32 `[batch, num_steps]` each."""
        ids = tf.TensorSpec(self._arrays[0].shape[1:], "int32")
        # The end of each epoch would wait for tf.data's tuning thread, whose sleeps double up to a minute.
        options = tf.data.Options()
        options.autotune.enabled = False
        batches = tf.data.Dataset.from_generator(self._in_order, output_signature=(ids, ids))
        return batches.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(1).with_options(options)


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
    batches, validation = (
        TextBatches(corpus.train, *streams, preset.steps_per_epoch),
        TextBatches(corpus.valid, *streams),
    )
    return fit(model, batches, validation, epochs, [ResetStates(), rate, *callbacks])


def perplexity(model, ids, preset):
    """Perplexity of a compiled, stateful model on a text."""
    batches = TextBatches(ids, preset.batch_size, preset.num_steps).dataset()
    return model.evaluate(batches, callbacks=[ResetStates()], verbose=0, return_dict=True)["perplexity"]


def steps_per_epoch(corpus, preset):
    """Steps of the optimizer in an epoch; raises `ValueError` if a part of the text is too short for one batch."""
    streams = preset.batch_size, preset.num_steps
    for ids in (corpus.valid, corpus.test):
        if ids is not None:
            TextBatches(ids, *streams)
    return len(TextBatches(corpus.train, *streams, preset.steps_per_epoch))


def copy_weights(source, target):
    """Gives `target` the weights of `source`, the same model, but not the states that it may keep; returns `target`."""
    for weight, value in zip(_without_states(target), _without_states(source), strict=True):
        weight.assign(value)
    return target


def _without_states(model):
    states = {id(state) for layer in model.layers for state in getattr(layer, "states", None) or ()}
    return [weight for weight in model.weights if id(weight) not in states]


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
        self._texts = {"perplexity_valid": corpus.valid, "perplexity_test": corpus.test}
        self._texts = {name: ids for name, ids in self._texts.items() if ids is not None}
        self.steps_per_epoch = steps_per_epoch(corpus, preset)

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
