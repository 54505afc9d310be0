"""Connectionist temporal classification: characters, the loss, greedy and beam decoding, the character error rate.

Character 0 is the blank; labels are ints `[batch, characters]`, filled up with 0. Logits `[batch, time, characters]`
have no lengths: where an utterance has ended they say blank and nothing else (`speech_network.BlankAfterEnd`). Such
time steps multiply the probability of every text by 1, so loss and decoders give what they would give without them.

Reference: Graves et al.: Connectionist temporal classification (2006).
"""

import keras
import numpy as np
import tensorflow as tf

ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARACTERS = 1 + len(ALPHABET)  # with the blank
BLANK = 0

_NUMBERS = {character: number for number, character in enumerate(ALPHABET, 1)}


def unknown_characters(text):
    """The characters of a text that are not in the alphabet, in either case: sorted list."""
    return sorted(set(text.upper()) - set(ALPHABET))


def encode(text):
    """Numbers of the characters of a text: list of int. All of them must be in the alphabet, in either case."""
    return [_NUMBERS[character] for character in text.upper()]


def decode_numbers(numbers):
    """The text of some numbers; 0 fills up."""
    return "".join(ALPHABET[number - 1] for number in numbers if number)


def steps_needed(text):
    """Time steps without which CTC cannot say a text: one a character, and a blank between equal ones."""
    return len(text) + sum(a == b for a, b in zip(text, text[1:], strict=False))


def ctc_loss(labels, logits):
    """`-log p(labels)` of every utterance: `[batch, characters]`, `[batch, time, CHARACTERS]` -> `[batch]`."""
    labels = tf.cast(labels, tf.int32)
    time = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
    # With sparse labels TensorFlow takes its C++ op; with dense ones it loops over time steps in the graph.
    return tf.nn.ctc_loss(
        _sparse(labels), tf.cast(logits, tf.float32), None, time, logits_time_major=False, blank_index=BLANK
    )


def greedy_decode(logits):
    """The most likely character of each step, repetitions and blanks left out: SparseTensor of characters."""
    logits, time = _time_major(logits)
    (decoded,), _ = tf.nn.ctc_greedy_decoder(logits, time, blank_index=CHARACTERS - 1)
    return _from_blank_last(decoded)


def beam_decode(logits, beam_width=32):
    """The most likely text that a search with so many beams finds: SparseTensor of characters."""
    logits, time = _time_major(logits)
    (decoded,), _ = tf.nn.ctc_beam_search_decoder(logits, time, beam_width, top_paths=1)
    return _from_blank_last(decoded)


def texts(decoded):
    """Texts of decoded characters: list of str."""
    return [decode_numbers(row) for row in tf.sparse.to_dense(decoded).numpy()]


def edit_distances(decoded, labels):
    """Insertions, deletions and substitutions that turn each decoded text into its labels: float32 `[batch]`."""
    truth = _sparse(tf.cast(labels, tf.int64))
    batch = truth.dense_shape[0]
    width = tf.maximum(truth.dense_shape[1], decoded.dense_shape[1])
    both = [tf.SparseTensor(x.indices, x.values, tf.stack([batch, width])) for x in (decoded, truth)]
    return tf.reshape(tf.edit_distance(*both, normalize=False), [-1])


class CharacterErrorRate(keras.metrics.Metric):
    """Edit distance of the decoded texts, over the number of characters of the true ones.

    Args:
        decode: `greedy_decode` or another function of logits.
    """

    def __init__(self, decode=greedy_decode, name="cer", **kwargs):
        super().__init__(name=name, **kwargs)
        self.decode = decode
        self.errors = self.add_weight(name="errors", initializer="zeros")
        self.characters = self.add_weight(name="characters", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.errors.assign_add(tf.reduce_sum(edit_distances(self.decode(y_pred), y_true)))
        self.characters.assign_add(tf.cast(tf.math.count_nonzero(y_true), tf.float32))

    def result(self):
        return tf.math.divide_no_nan(self.errors.value, self.characters.value)


def padded_labels(all_labels):
    """Lists of characters as one array, filled up with 0: int32 `[batch, characters]`, at least one wide."""
    width = max([1, *map(len, all_labels)])
    return np.array([[*labels, *[BLANK] * (width - len(labels))] for labels in all_labels], "int32")


def _sparse(labels):
    """Labels without what fills them up: SparseTensor."""
    where = tf.where(labels != BLANK)
    return tf.SparseTensor(where, tf.gather_nd(labels, where), tf.shape(labels, out_type=tf.int64))


def _time_major(logits):
    """`[time, batch, CHARACTERS]` with the blank last, as the decoders want it, and the number of steps."""
    logits = tf.roll(tf.cast(logits, tf.float32), -1, axis=-1)
    shape = tf.shape(logits)
    return tf.transpose(logits, [1, 0, 2]), tf.fill([shape[0]], shape[1])


def _from_blank_last(decoded):
    return tf.SparseTensor(decoded.indices, decoded.values + 1, decoded.dense_shape)
