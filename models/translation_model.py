"""A translator as that of Wu et al. (GNMT): LSTM encoder, LSTM decoder, and attention between them.

The first layer of the encoder reads in both directions. The first layer of the decoder asks the attention what of the
sentence matters; the others read the answer beside the layer below. From the third layer on, both add their input to
their output. A layer of the decoder begins with the state that the same layer of the encoder ended with. In GNMT the
first layer of the decoder reads the attention's last answer, too. Here it does not: so all
words of a translation are computed at once in training, by whole-sequence layers that can be pruned and converted.

Reference: Wu et al.: Google's Neural Machine Translation System (2016), arXiv:1609.08144, section 3.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from models.language_modelling import Perplexity, word_cross_entropy
from models.translation_data import BEGIN, END, PAD, pad

LAST_WITHOUT_RESIDUAL = 2


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of a translator.

    Attributes:
        units: width of the embeddings and of all LSTM layers.
        depth: layers of the encoder, and of the decoder.
        vocabulary: subwords of both languages together.
        max_length: subwords; longer pairs are not trained on, longer translations are cut.
        epochs, batch_size, learning_rate, optimizer, clip_norm, dropout: of the training. After `full_rate_epochs` the
            learning rate is halved with every epoch.
    """

    units: int
    depth: int
    vocabulary: int
    epochs: int
    full_rate_epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    max_length: int
    dropout: float = 0.2
    clip_norm: float = 5.0

    def rate(self, epoch):
        """Learning rate of an epoch, the first of which is 0."""
        return self.learning_rate * 0.5 ** max(epoch + 1 - self.full_rate_epochs, 0)


PRESETS = {
    "small": Preset(
        units=128, depth=2, vocabulary=2000, epochs=6, full_rate_epochs=4, batch_size=128, learning_rate=4e-3,
        optimizer="adam", max_length=30,
    ),
    "paper": Preset(
        units=1024, depth=4, vocabulary=36_548, epochs=10, full_rate_epochs=5, batch_size=128, learning_rate=1.0,
        optimizer="sgd", max_length=50,
    ),
}  # fmt: skip


def translator(vocabulary_size, preset):
    """Builds a model: ids `[batch, source time]`, and of the translation so far `[batch, time]` -> logits of the next.

    Args:
        vocabulary_size: int.
        preset: a `Preset`.
    """
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory, states = _encoder(preset, vocabulary_size, source)
    parts = _decoder_layers(preset, vocabulary_size)
    keys = layers.Dense(preset.units, use_bias=False, name="attention_memory")(memory)
    logits, _ = decode(parts, target, memory, keys, states)
    return keras.Model([source, target], logits, name="translator")


def _encoder(preset, vocabulary_size, source):
    """What the last layer says of every word, `[batch, time, units]`, and the states that all layers end with."""
    hidden = layers.Embedding(vocabulary_size, preset.units, mask_zero=True, name="source_embedding")(source)
    states = []
    for number in range(1, preset.depth + 1):
        below = layers.Dropout(preset.dropout)(hidden)
        layer = layers.LSTM(preset.units, return_sequences=True, return_state=True, name=f"encoder_{number}")
        layer = layers.Bidirectional(layer, name="encoder_1") if number == 1 else layer
        above, *state = layer(below)
        states.append(state[-2:])  # of both directions the backward one, which ends with the first word
        hidden = layers.Add()([above, hidden]) if number > LAST_WITHOUT_RESIDUAL else above
    if preset.depth == 1:
        hidden = layers.Dense(preset.units, name="encoder_join")(hidden)
    return layers.Identity(name="memory")(hidden), states


def _decoder_layers(preset, vocabulary_size):
    """The layers by name: dict, in which those of the decoder are in order."""
    found = [layers.Embedding(vocabulary_size, preset.units, name="target_embedding")]
    for number in range(1, preset.depth + 1):
        found.append(layers.LSTM(preset.units, return_sequences=True, return_state=True, name=f"decoder_{number}"))
        found.append(layers.Dropout(preset.dropout, name=f"decoder_{number}_dropout"))
    found.append(layers.Dense(preset.units, use_bias=False, name="attention_query"))
    found.append(layers.AdditiveAttention(name="attention"))
    found.append(layers.Dense(vocabulary_size, name="softmax"))
    return {layer.name: layer for layer in found}


def decode(parts, target, memory, keys, states, mask=None):
    """Logits after every word of `target`, and the states after the last: all at once, or word by word.

    Args:
        parts: dict from name to layer.
        target: ids `[batch, time]`.
        memory, keys: of the encoder, `[batch, source time, units]`.
        states: of all layers, from the encoder or the call before.
        mask: bool `[batch, source time]`; None: that which `memory` carries.
    """
    depth = _depth(parts)
    hidden, context, after = parts["target_embedding"](target), None, []
    for number in range(1, depth + 1):
        below = parts[f"decoder_{number}_dropout"](hidden)
        inputs = below if context is None else ops.concatenate([below, context], axis=-1)
        above, *state = parts[f"decoder_{number}"](inputs, initial_state=states[number - 1])
        after.append(state)
        if context is None:
            question = parts["attention_query"](above)
            masks = {} if mask is None else {"mask": [None, mask, mask]}
            context = parts["attention"]([question, memory, keys], **masks)
        hidden = ops.add(above, hidden) if number > LAST_WITHOUT_RESIDUAL else above
    return parts["softmax"](hidden if depth > 1 else ops.concatenate([hidden, context], axis=-1)), after


def _depth(parts):
    return sum(name.startswith("decoder_") and name[8:].isdigit() for name in parts)


def mean_loss(words, logits):
    """Cross-entropy per word; padding does not count: `[batch]`, whose mean is that over all words of the batch."""
    real = ops.cast(ops.not_equal(words, PAD), logits.dtype)
    return ops.sum(word_cross_entropy(words, logits) * real, axis=-1) / ops.mean(ops.sum(real, axis=-1))


class TargetPerplexity(Perplexity):
    """Perplexity per subword of the translation, without padding."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred, ops.not_equal(y_true, PAD))


def compile_model(model, preset):
    """Compiles with the preset's optimizer; dense and pruned alike."""
    optimizers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = optimizers[preset.optimizer](preset.learning_rate, global_clipnorm=preset.clip_norm)
    model.compile(optimizer, mean_loss, metrics=[TargetPerplexity()], jit_compile=False)


class Decoder:
    """Translates with a trained model, dense, pruned or converted: word by word, the best `beam` sentences kept.

    Args:
        model: from `translator()`, or converted from one.
        max_length: int, subwords of a translation.
    """

    def __init__(self, model, max_length):
        self.parts = {layer.name: layer for layer in model.layers}
        self.max_length = max_length
        depth, units = _depth(self.parts), self.parts["decoder_1"].units
        states = [self.parts[f"encoder_{number}"].output[-2:] for number in range(1, depth + 1)]
        outputs = [self.parts["memory"].output, self.parts["attention_memory"].output, states]
        self._encode = keras.Model(model.inputs[0], outputs)
        ids, mask = tf.TensorSpec((None, None), "int32"), tf.TensorSpec((None, None), "bool")
        wide = tf.TensorSpec((None, None, units), "float32")
        states = [[tf.TensorSpec((None, units), "float32")] * 2] * depth
        self._step = tf.function(self._next, input_signature=[ids, wide, wide, states, mask])

    def _next(self, ids, memory, keys, states, mask):
        """Log-probabilities `[rows, vocabulary]` after the last id, and the states."""
        logits, states = decode(self.parts, ids, memory, keys, states, mask)
        return tf.nn.log_softmax(tf.cast(logits[:, -1], "float32")), states

    def translate(self, rows, beam=1, batch_size=128):
        """Ids of translations, without begin and end: list of lists.

        Args:
            rows: list of lists of ids.
            beam: int of at least 1; 1 is greedy.
            batch_size: int, sentences at once.
        """
        found = []
        for start in range(0, len(rows), batch_size):
            found += self._batch(pad(rows[start : start + batch_size]), beam)
        return found

    def _batch(self, source, beam):
        sentences = len(source)
        source = np.repeat(source, beam, axis=0)
        memory, keys, states = self._encode(source, training=False)
        mask = tf.constant(source != PAD)
        words = np.full((len(source), 1), BEGIN, "int32")
        # At first all rows of a sentence are the same: only one may go on.
        scores = np.tile([0.0] + [-np.inf] * (beam - 1), sentences)
        ended = np.zeros(len(source), bool)
        for _ in range(self.max_length):
            logs, states = self._step(tf.constant(words[:, -1:]), memory, keys, states, mask)
            rows, words, scores, ended = _extend(words, scores, ended, logs.numpy(), beam)
            if ended.all():
                break
            states = [[tf.gather(part, rows) for part in state] for state in states]
        return [_best(words[i : i + beam], scores[i : i + beam]) for i in range(0, len(words), beam)]


def _extend(words, scores, ended, logs, beam):
    """One more word for the best rows of each sentence: the rows they come from, and words, scores, ended."""
    logs[:, [PAD, BEGIN]] = -np.inf
    logs[ended] = -np.inf
    logs[ended, PAD] = 0.0  # a sentence that has ended stays as it is
    size = logs.shape[1]
    totals = (scores[:, None] + logs).reshape(-1, beam * size)
    best = np.argpartition(-totals, beam - 1, axis=1)[:, :beam]
    rows = (np.arange(len(best))[:, None] * beam + best // size).ravel()
    last = (best % size).ravel().astype("int32")
    scores = np.take_along_axis(totals, best, axis=1).ravel()
    return rows, np.concatenate([words[rows], last[:, None]], axis=1), scores, ended[rows] | (last == END)


def _best(words, scores):
    """Ids of the row with the best score for its length (Wu et al., Equation 14, alpha 1); ended ones go first."""
    ended = (words == END).any(axis=1)
    scores = np.where(ended, scores, -np.inf) if ended.any() else scores
    lengths = (words[:, 1:] > PAD).sum(axis=1)
    row = words[int(np.argmax(scores / ((5 + lengths) / 6)))]
    return [int(word) for word in row[1:] if word not in (PAD, END)]
