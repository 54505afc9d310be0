"""Batches of utterances of like lengths, in an order that the number of the epoch decides.

So a run that goes on in its fifth epoch sees what it would have seen without having been stopped.
"""

import numpy as np
import tensorflow as tf

from models import ctc
from models.speech_features import mask_function

_POOL = 8  # batches among which utterances are sorted by length
_STATISTICS = 400  # utterances that mean and variance of the features are taken from


class Batches:
    """Batches for `fit()` or `evaluate()`: `((features, frames), labels)`.

    Utterances of a batch are filled up with zeros to the longest. The first epoch goes from short to long utterances,
    later ones are shuffled (SortaGrad of Deep Speech 2, section 3.3).

    Args:
        corpus: a `speech_data.Corpus`.
        utterances: some of its utterances.
        batch_size: int.
        seed: int, of the order and the masks; None: always from short to long, with no masks.
        time_mask, frequency_mask: as of `mask_function()`.
    """

    def __init__(self, corpus, utterances, batch_size, seed=None, time_mask=0, frequency_mask=0):
        self.corpus = corpus
        self.utterances = sorted(utterances, key=lambda u: (u.frames, u.name))
        self.batch_size = batch_size
        self.seed = seed
        self.masks = (0, 0) if seed is None else (time_mask, frequency_mask)
        self.epoch = 0

    def __len__(self):
        return -(-len(self.utterances) // self.batch_size)

    @property
    def epoch(self):
        """Which epoch the next pass is."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = epoch
        self._mask = mask_function(*self.masks, seed=hash((self.seed, epoch)) % 2**31)

    def order(self):
        """The utterances of each batch of the present epoch: list of lists."""
        indices = np.arange(len(self.utterances))
        if self.seed is None or not self.epoch:
            return self._cut(indices)
        rng = np.random.default_rng((self.seed, self.epoch))
        rng.shuffle(indices)
        pools = np.split(indices, range(_POOL * self.batch_size, len(indices), _POOL * self.batch_size))
        batches = self._cut(np.concatenate([np.sort(pool) for pool in pools]))  # sorted by length, as they are numbered
        return [batches[i] for i in rng.permutation(len(batches))]

    def _cut(self, indices):
        starts = range(0, len(indices), self.batch_size)
        return [[self.utterances[i] for i in indices[start : start + self.batch_size]] for start in starts]

    def __iter__(self):
        for utterances in self.order():
            yield self.batch(utterances)

    def batch(self, utterances):
        """One batch of arrays."""
        features = [np.asarray(self._mask(self.corpus.features(u))) for u in utterances]
        frames = np.array([len(x) for x in features], "int32")
        padded = np.zeros((len(features), frames.max(), self.corpus.bins), "float32")
        for row, x in zip(padded, features, strict=True):
            row[: len(x)] = x
        return (padded, frames), ctc.padded_labels([ctc.encode(u.text) for u in utterances])

    def dataset(self):
        """The batches of the present epoch each time it is iterated, prepared while the last one is computed."""
        signature = (
            (tf.TensorSpec([None, None, self.corpus.bins]), tf.TensorSpec([None], tf.int32)),
            tf.TensorSpec([None, None], tf.int32),
        )
        # The end of each epoch would wait for tf.data's tuning thread, whose sleeps double up to a minute.
        options = tf.data.Options()
        options.autotune.enabled = False
        batches = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        return batches.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(1).with_options(options)


def mean_and_variance(corpus, utterances):
    """Mean and variance of every feature over utterances spread over all: two float32 arrays `[bins]`."""
    chosen = [utterances[i] for i in np.unique(np.linspace(0, len(utterances) - 1, _STATISTICS).astype(int))]
    frames = np.concatenate([corpus.features(u) for u in chosen])
    return frames.mean(0), np.maximum(frames.var(0), 1e-6)
