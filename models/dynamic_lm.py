"""The language models of [BDS] section 4.2: QRNN and LSTM, dense or with layers that choose their blocks.

`models.qrnn_lm` trains them.

Reference: Hadifar, Deleu, Develder, Demeester: Block-wise Dynamic Sparseness (2020), arXiv:2001.04686.
"""

import dataclasses
import math

import keras
from keras import layers

import tf_blocksparse as bs

GATE_SHARE = 4  # gates are computed from the first quarter of a layer's input


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of one language model.

    Attributes:
        cell: `"qrnn"` or `"lstm"`.
        units, depth: width and number of the recurrent layers.
        embedding: width of the embedding. That of a QRNN is the softmax matrix too (tied weights), so its last layer
            has this width.
        block_shape: of the dynamic model.
        input_dropout, hidden_dropout, output_dropout: shares dropped after the embedding, between layers and after
            the last; of a QRNN the same features at every word of a sequence.
        init_scale: embedding and LSTM weights start uniform in `[-init_scale, init_scale]`.
        ramp: `(begin, end)`, epochs between which the sparsity rises.
        batch_size, num_steps, epochs, full_rate_epochs, decay, learning_rate, optimizer, clip_norm, steps_per_epoch:
            as of `models.word_lm`.
        max_vocabulary: words that are kept of the text, or None: all.
    """

    cell: str
    units: int
    depth: int
    embedding: int
    block_shape: tuple
    epochs: int
    ramp: tuple
    num_steps: int
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    init_scale: float = 0.1
    full_rate_epochs: int = 10_000
    decay: float = 1.0
    clip_norm: float = 10.0
    batch_size: int = 20
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    max_vocabulary: int | None = None
    steps_per_epoch: int | None = None

    def rate(self, epoch):
        """Learning rate of an epoch, the first of which is 0."""
        return self.learning_rate * self.decay ** max(epoch + 1 - self.full_rate_epochs, 0)


PRESETS = {
    "small": Preset(
        cell="qrnn", units=256, depth=2, embedding=128, block_shape=(32, 32), epochs=3, ramp=(0.75, 2.0), num_steps=35,
        batch_size=32, learning_rate=3e-3, full_rate_epochs=2, decay=1 / 3, max_vocabulary=2000,
    ),
    "paper": Preset(
        cell="qrnn", units=1536, depth=4, embedding=512, block_shape=(128, 128), epochs=550, ramp=(350, 450),
        num_steps=70, input_dropout=0.4, hidden_dropout=0.3, output_dropout=0.4, clip_norm=14.0,
    ),
    "lstm_small": Preset(
        cell="lstm", units=256, depth=2, embedding=128, block_shape=(32, 32), epochs=3, ramp=(0.75, 2.0), num_steps=20,
        batch_size=32, learning_rate=3e-3, full_rate_epochs=2, decay=1 / 3, max_vocabulary=2000,
    ),
    "lstm_paper": Preset(
        cell="lstm", units=1536, depth=2, embedding=1536, block_shape=(128, 128), epochs=55, ramp=(25, 40),
        num_steps=35, input_dropout=0.65, hidden_dropout=0.65, output_dropout=0.65, init_scale=0.04,
        full_rate_epochs=14, decay=1 / 1.15, learning_rate=1.0, optimizer="sgd",
    ),
}  # fmt: skip


def language_model(vocabulary_size, preset, kind="dense", sparsity=0.0, batch_size=None, stateful=False):
    """Builds a model: ids `[batch, time]` -> logits `[batch, time, vocabulary_size]`.

    Args:
        vocabulary_size: number of words.
        preset: a `Preset`.
        kind: `"dynamic"`, or `"dense"` and `"agp"`, which differ in training only.
        sparsity: float or schedule, of the dynamic model.
        batch_size: streams that a stateful model reads; `None` leaves it open.
        stateful: whether the layers keep their state from one batch to the next.
    """
    tied = preset.cell == "qrnn"
    embedding = layers.ReversibleEmbedding(
        vocabulary_size, preset.embedding, embeddings_initializer=uniform(preset), name="embedding"
    )
    ids = keras.Input((None,), batch_size=batch_size, dtype="int32", name="ids")
    hidden = dropped(embedding(ids), preset.input_dropout, tied)
    for number in range(1, preset.depth + 1):
        is_last = number == preset.depth
        units = preset.embedding if is_last and tied else preset.units
        hidden = recurrent_layer(preset, kind, number, (hidden.shape[-1], units), sparsity, stateful)(hidden)
        hidden = dropped(hidden, preset.output_dropout if is_last else preset.hidden_dropout, tied)
    if tied:
        logits = embedding(hidden, reverse=True)
    else:
        logits = layers.Dense(vocabulary_size, kernel_initializer=uniform(preset), name="softmax")(hidden)
    return keras.Model(ids, logits, name=f"{preset.cell}_lm_{kind}")


def uniform(preset):
    """Initializer of all weights but those of gates and of QRNN layers."""
    return keras.initializers.RandomUniform(-preset.init_scale, preset.init_scale)


def dropped(tensor, rate, all_steps):
    """Drops features; with `all_steps` the same ones at every step of a sequence."""
    shape = (None, 1, None) if all_steps else None
    return layers.Dropout(rate, noise_shape=shape)(tensor) if rate else tensor


def recurrent_layer(preset, kind, number, size, sparsity, stateful):
    """The layer of that number, from 1 on; `size` is `(in, units)`."""
    in_features, units = size
    settings = {"return_sequences": True, "stateful": stateful, "name": f"{preset.cell}_{number}"}
    is_dynamic = kind == "dynamic"
    if is_dynamic:
        settings.update(
            block_shape=preset.block_shape, sparsity=sparsity, gate_inputs=max(1, in_features // GATE_SHARE)
        )
    if preset.cell == "qrnn":
        return (bs.DynamicBlockQRNN if is_dynamic else bs.QRNN)(units, 2 if number == 1 else 1, **settings)
    settings.update(kernel_initializer=uniform(preset), recurrent_initializer=uniform(preset), unit_forget_bias=False)
    if is_dynamic:
        settings.update(recurrent_gate_inputs=max(1, units // GATE_SHARE))
    return (bs.DynamicBlockLSTM if is_dynamic else layers.LSTM)(units, **settings)


def filters(model):
    """The matrices that are dynamic or pruned, as NumPy arrays: kernels of the recurrent layers."""
    cells = [layer.cell for layer in model.layers if hasattr(layer, "cell")]
    found = [getattr(cell, name, None) for cell in cells for name in ("kernel", "recurrent_kernel")]
    return [keras.ops.convert_to_numpy(matrix) for matrix in found if matrix is not None]


def parameter_count(model):
    """Trainable parameters; the states of a stateful model are none: int."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def table_count(model):
    """Parameters of a QRNN as Table 1 counts them, the filters twice: int."""
    return parameter_count(model) + sum(matrix.size for matrix in filters(model))
