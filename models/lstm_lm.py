"""The language model of [BSR] section 4.2, Zaremba's: embedding, two LSTM layers, softmax; its presets, and its text.

`models.word_lm` trains it.

References: Zaremba, Sutskever, Vinyals: Recurrent Neural Network Regularization (2014), arXiv:1409.2329. Narang,
Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017), arXiv:1711.02782.
"""

import dataclasses

import keras
from keras import layers

from models import text
from models.language_modelling import copy_weights


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of one language model.

    Attributes:
        units: width of the embedding and of both LSTM layers.
        init_scale: weights start uniform in `[-init_scale, init_scale]`.
        dropout: share dropped of the non-recurrent connections.
        batch_size, num_steps: streams read side by side, and words per step of the optimizer.
        epochs: passes over the text; `full_rate_epochs` of them at `learning_rate`, which each
            later one multiplies by `decay`.
        steps_per_epoch: Optional, steps that make an epoch in place of a whole pass: a short run
            can then have the several epochs that decay and pruning schedules are written in.
        clip_norm: bound of the norm of all gradients together.
        optimizer: `"sgd"` or `"adam"`.
        max_vocabulary: words kept of the King James text; a directory's text keeps all of its own.
        cut: Optional, `(words, tokens)`: how many words and training tokens are kept of a directory's text; of its
            other parts a fifth as many.
    """

    units: int
    init_scale: float
    dropout: float
    num_steps: int
    epochs: int
    full_rate_epochs: int
    decay: float
    clip_norm: float
    batch_size: int = 20
    learning_rate: float = 1.0
    optimizer: str = "sgd"
    max_vocabulary: int = 10_000
    steps_per_epoch: int | None = None
    cut: tuple | None = None

    def rate(self, epoch):
        """Learning rate of an epoch, the first of which is 0."""
        return self.learning_rate * self.decay ** max(epoch + 1 - self.full_rate_epochs, 0)


PRESETS = {
    "demo": Preset(
        units=384, init_scale=0.1, dropout=0.0, num_steps=12, epochs=8, full_rate_epochs=4,
        decay=0.7, clip_norm=5.0, batch_size=48, learning_rate=0.012, optimizer="adam",
        max_vocabulary=3000, steps_per_epoch=100,
    ),
    "cut": Preset(
        units=96, init_scale=0.1, dropout=0.0, num_steps=20, epochs=5, full_rate_epochs=3,
        decay=1 / 2, clip_norm=5.0, batch_size=64, learning_rate=6e-3, optimizer="adam",
        cut=(1000, 100_000),
    ),
    "small": Preset(
        units=200, init_scale=0.1, dropout=0.0, num_steps=20, epochs=13, full_rate_epochs=4,
        decay=1 / 2, clip_norm=5.0,
    ),
    "medium": Preset(
        units=650, init_scale=0.05, dropout=0.5, num_steps=35, epochs=39, full_rate_epochs=6,
        decay=1 / 1.2, clip_norm=5.0,
    ),
    "large": Preset(
        units=1500, init_scale=0.04, dropout=0.65, num_steps=35, epochs=55, full_rate_epochs=14,
        decay=1 / 1.15, clip_norm=10.0,
    ),
}  # fmt: skip


def language_model(vocabulary_size, preset, batch_size=None, stateful=False):
    """Builds the model: ids `[batch, time]` -> logits `[batch, time, vocabulary_size]`.

    Args:
        vocabulary_size: number of words.
        preset: a `Preset`.
        batch_size: streams that a stateful model reads; `None` leaves it open.
        stateful: whether the LSTM layers keep their state from one batch to the next.
    """
    if stateful and batch_size is None:
        raise ValueError("Received stateful=True with batch_size=None. Give the number of streams it reads.")

    def start():
        return keras.initializers.RandomUniform(-preset.init_scale, preset.init_scale)

    def dropped(tensor):
        return layers.Dropout(preset.dropout)(tensor) if preset.dropout else tensor

    ids = keras.Input((None,), batch_size=batch_size, dtype="int32", name="ids")
    embedding = layers.Embedding(vocabulary_size, preset.units, start(), name="embedding")
    hidden = dropped(embedding(ids))  # [batch, time, units]
    for number in (1, 2):
        lstm = layers.LSTM(
            preset.units,
            kernel_initializer=start(),
            recurrent_initializer=start(),
            unit_forget_bias=False,
            return_sequences=True,
            stateful=stateful,
            name=f"lstm_{number}",
        )
        hidden = dropped(lstm(hidden))
    logits = layers.Dense(vocabulary_size, kernel_initializer=start(), name="softmax")(hidden)
    return keras.Model(ids, logits, name="word_lm")


def corpus_of(directory, preset):
    """The `text.Corpus` of a directory, cut as the preset says, or for None that of the King James Bible."""
    if directory is None:
        return text.load_king_james(preset.max_vocabulary)
    words, tokens = preset.cut or (None, None)
    corpus = text.load_directory(directory, words)
    others = {name: getattr(corpus, name) for name in ("valid", "test")}
    others = {name: ids if ids is None or tokens is None else ids[: tokens // 5] for name, ids in others.items()}
    return dataclasses.replace(corpus, train=corpus.train[:tokens], **others)


def without_state(model, preset):
    """A copy of a trained model that keeps no state, so it takes any batch: the one to save and to convert."""
    copy = language_model(model.output_shape[-1], preset)
    return copy_weights(model, copy)
