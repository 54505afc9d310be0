"""The Deep Speech 2 networks of [BSR] section 4.1: presets, the network, and its form for inference.

Two convolutions over time and frequency; recurrent layers `h_t = f(BN(x_t W) + h_(t-1) U)`, whose directions share
`W` and are summed; a fully connected layer; characters. The paper's counts say which sizes it had: with 161
frequencies, 1312 features leave the convolutions, and 1312 + (6 + 14 + 1) * 1760 = 38,272 neurons feed a pruned
matrix (Appendix B.2: 38,270); those matrices have 67.4 M weights, of which 10.8 % are 7.3 M.

References: [BSR] Narang, Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017). [DS2] Amodei et al.:
Deep Speech 2 (2015), arXiv:1512.02595.
"""

import dataclasses

import keras
import numpy as np
from keras import layers

from models.ctc import CHARACTERS
from models.projected_rnn import ProjectedGRUCell, ProjectedRNNCell
from models.speech_layers import (
    BlankAfterEnd,
    MergeFrequencies,
    SpeechBatchNormalization,
    SpeechMask,
    ZeroPadding,
    clipped_relu,
)

PRUNED = ("rnn_*", "fully_connected*")  # [BSR] 4.1: recurrent and fully connected layers, no convolution, no CTC layer
_CELLS = {"rnn": ProjectedRNNCell, "gru": ProjectedGRUCell}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of a model.

    Attributes:
        cell: `"rnn"`, in both directions, or `"gru"`, in one.
        depth, units: number and width of the recurrent layers; the fully connected layer is as wide.
        convolutions: `(channels, (time steps, frequencies), (stride in time, stride in frequency))` of each.
        activation: of the convolutions, the simple recurrences and the fully connected layer.
        mels: int, bands of a mel scale, or None: all frequencies of the spectrogram.
        epochs, batch_size, optimizer, learning_rate, clip_norm: of the training; `decay` multiplies the rate
            after every epoch, and `momentum` is Nesterov's, for `"sgd"`.
        norm_momentum: of the averages of batch normalization.
        group_lasso: factor of the models that are trained with it.
        recurrent_initializer: of the recurrent matrices.
    """

    cell: str
    depth: int
    units: int
    convolutions: tuple
    epochs: int
    batch_size: int
    learning_rate: float
    decay: float = 1.0
    optimizer: str = "adam"
    momentum: float = 0.99
    clip_norm: float = 400.0
    activation: str = "clipped_relu"
    mels: int | None = None
    norm_momentum: float = 0.99
    group_lasso: float = 1e-4
    recurrent_initializer: str = "orthogonal"

    @property
    def gates(self):
        """Matrices side by side in each matrix of a recurrent layer."""
        return 3 if self.cell == "gru" else 1

    @property
    def stride(self):
        """Frames that go into a time step of the recurrent layers."""
        return int(np.prod([strides[0] for _, _, strides in self.convolutions]))


# [DS2] Table 4 and section 3.5: 2 convolutions in time and frequency; 3.1 and 3.6: SGD with Nesterov momentum 0.99,
# gradients clipped to 400, batches of 512, a rate of 1e-4 to 6e-4 that every epoch divides by 1.2.
_LISTENING = ((32, (11, 41), (2, 2)), (32, (11, 21), (1, 2)))
_PAPER = Preset(
    cell="rnn", depth=7, units=1760, convolutions=_LISTENING, epochs=25, batch_size=512, learning_rate=5e-4,
    decay=1 / 1.2, optimizer="sgd",
)  # fmt: skip
_SMALL = Preset(
    cell="rnn", depth=3, units=128, convolutions=((16, (11, 9), (3, 2)), (32, (5, 5), (1, 2))), epochs=12,
    batch_size=16, learning_rate=3e-3, decay=0.8, clip_norm=5.0, mels=40, norm_momentum=0.9,
)  # fmt: skip
PRESETS = {
    "paper": _PAPER,
    "paper_gru": dataclasses.replace(_PAPER, cell="gru", depth=3, units=2560),
    "small": _SMALL,
    "small_gru": dataclasses.replace(_SMALL, cell="gru", depth=2, units=128),
}


def speech_network(preset, bins, mean=0.0, variance=1.0, form="training"):
    """Builds a model: features `[batch, frames, bins]`, lengths `[batch]` -> logits `[batch, time, CHARACTERS]`.

    Args:
        preset: a `Preset`.
        bins: int, features of a frame.
        mean, variance: of the features, float or one a bin.
        form: `"training"`, or `"inference"`: the form of `folded()`.
    """
    features = keras.Input((None, bins), name="features")
    frames = keras.Input((), dtype="int32", name="frames")
    mean, variance = (np.broadcast_to(np.float32(x), (bins,)) for x in (mean, variance))
    hidden = layers.Normalization(mean=mean, variance=variance, name="standardised")(features)
    hidden, speech = _convolutions(preset, hidden, frames)
    for number in range(1, preset.depth + 1):
        hidden = _RECURRENT[form](preset, hidden, speech, f"rnn_{number}")
    hidden = _fully_connected(preset, hidden, speech, form)
    logits = layers.Dense(CHARACTERS, name="characters")(hidden)
    return keras.Model([features, frames], BlankAfterEnd(name="blank_after_end")(logits, speech), name="deep_speech")


def check_blocks(preset, block_shape):
    """Raises `ValueError` if blocks would lie over two gates of a GRU's projection, which is one matrix in training."""
    width = block_shape[1]
    if preset.gates > 1 and preset.units % width:
        raise ValueError(
            f"The {preset.gates} gates of the {preset.cell} have one product with the input, {preset.units} columns "
            f"each: blocks must not lie over two of them. Received: block_shape={tuple(block_shape)}. Give units that "
            f"are a multiple of {width}."
        )


def activation_of(preset):
    """The activation of a preset as Keras takes it."""
    return clipped_relu if preset.activation == "clipped_relu" else preset.activation


def _convolutions(preset, hidden, frames):
    """The features of each time step, and which time steps are speech."""
    stride = 1
    speech = SpeechMask(stride, name="speech_frames")(hidden, frames)
    hidden = ZeroPadding(name="features_of_speech")(hidden, speech)
    hidden = layers.Reshape((-1, hidden.shape[-1], 1), name="one_channel")(hidden)
    for number, (channels, kernel, strides) in enumerate(preset.convolutions, 1):
        name = f"convolution_{number}"
        # Keras's own padding="same" puts more zeros before the first frame if the longest utterance is of odd length.
        hidden = layers.ZeroPadding2D([(n // 2, n // 2) for n in kernel], name=f"{name}_margin")(hidden)
        hidden = layers.Conv2D(channels, kernel, strides, use_bias=False, name=name)(hidden)
        stride *= strides[0]
        speech = SpeechMask(stride, name=f"{name}_speech")(hidden, frames)
        hidden = SpeechBatchNormalization(momentum=preset.norm_momentum, name=f"{name}_norm")(hidden, speech)
        hidden = layers.Activation(activation_of(preset), name=f"{name}_activation")(hidden)
        hidden = ZeroPadding(name=f"{name}_of_speech")(hidden, speech)
    return MergeFrequencies(name="merge_frequencies")(hidden), speech


def _recurrent(preset, hidden, speech, name):
    """A recurrent layer as it is trained: one product for both directions, normalized, then the recurrence."""
    hidden = layers.Dense(preset.gates * preset.units, use_bias=False, name=f"{name}_input")(hidden)
    hidden = SpeechBatchNormalization(momentum=preset.norm_momentum, name=f"{name}_norm")(hidden, speech)
    settings = {} if preset.cell == "gru" else {"activation": activation_of(preset)}
    cell = _CELLS[preset.cell](preset.units, recurrent_initializer=preset.recurrent_initializer, **settings)
    return _both_ways(preset, layers.RNN, cell, name)(hidden, mask=speech)


def _recurrent_folded(preset, hidden, speech, name):
    """The same of Keras's own layers, which `convert()` knows, with the normalization in the weights."""
    if preset.cell == "gru":
        return _both_ways(preset, layers.GRU, preset.units, name)(hidden, mask=speech)
    hidden = layers.Dense(preset.units, name=f"{name}_input")(hidden)
    settings = {"activation": activation_of(preset), "use_bias": False}
    return _both_ways(preset, layers.SimpleRNN, preset.units, name, **settings)(hidden, mask=speech)


_RECURRENT = {"training": _recurrent, "inference": _recurrent_folded}


def _both_ways(preset, recurrent_class, cell, name, **settings):
    """A recurrent layer over whole sequences, in both directions if the preset says so."""
    if preset.cell == "gru":
        return recurrent_class(cell, return_sequences=True, name=name, **settings)
    one_way = recurrent_class(cell, return_sequences=True, name=name, **settings)
    return layers.Bidirectional(one_way, merge_mode="sum", name=name)


def _fully_connected(preset, hidden, speech, form):
    name = "fully_connected"
    hidden = layers.Dense(preset.units, use_bias=form == "inference", name=name)(hidden)
    if form == "training":
        hidden = SpeechBatchNormalization(momentum=preset.norm_momentum, name=f"{name}_norm")(hidden, speech)
    return layers.Activation(activation_of(preset), name=f"{name}_activation")(hidden)


def folded(model, preset):
    """The same function as a trained and stripped model, of Keras's own layers only: the form to convert and serve.

    Batch normalization goes into the product before it: its scale into the kernel's columns, which leaves zero blocks
    zero, the rest into the bias. A GRU has that product in itself. Keras's SimpleRNN has a kernel in each direction,
    and here that is the identity: in blocks it takes a 440th of the recurrent matrix of 1760 (4x4), dense as much.

    Args:
        model: a model of `speech_network()`.
        preset: its `Preset`.

    Returns:
        A new model of the same inputs and outputs.
    """
    statistics = model.get_layer("standardised")
    mean, variance = (np.ravel(statistics.get_config()[key]) for key in ("mean", "variance"))
    copy = speech_network(preset, model.inputs[0].shape[-1], mean, variance, form="inference")
    for layer in copy.layers:
        if layer.weights:
            layer.set_weights(_folded_weights(model, layer, preset))
    return copy


def _folded_weights(model, layer, preset):
    """Weights for a layer of the folded model."""
    source = model.get_layer(layer.name)
    if layer.name.startswith("rnn_") and not layer.name.endswith("_input"):
        recurrent = [np.asarray(w) for w in source.get_weights()]
        if preset.cell == "rnn":
            return [matrix for u in recurrent for matrix in (np.eye(preset.units, dtype="float32"), u)]
        kernel, bias = _product_and_norm(model, f"{layer.name}_input", layer.name)
        return [kernel, *recurrent, np.stack([bias, np.zeros_like(bias)])]
    if layer.name.endswith("_input"):
        return _product_and_norm(model, layer.name, layer.name.removesuffix("_input"))
    if layer.name == "fully_connected":
        return _product_and_norm(model, layer.name, layer.name)
    return source.get_weights()


def _product_and_norm(model, product, norm):
    """Kernel and bias of one product that does what a product and the batch normalization after it do."""
    norm = model.get_layer(f"{norm}_norm")
    gamma, beta, mean, variance = (np.asarray(w) for w in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return [np.asarray(model.get_layer(product).kernel) * scale, beta - mean * scale]


def pruned_matrices(model):
    """The matrices of the recurrent and fully connected layers of a model in its training form: list of arrays."""
    found = []
    for layer in model.layers:
        if layer.name.startswith(("rnn_", "fully_connected")):
            found += [np.asarray(w) for w in layer.trainable_weights if w.path.endswith("kernel")]
    return found


def weight_count(preset, bins):
    """Weights in the pruned matrices of a preset's dense model, as [BSR] Tables 2 to 4 count: int."""
    for _, kernel, strides in preset.convolutions:
        bins = (bins + 2 * (kernel[1] // 2) - kernel[1]) // strides[1] + 1
    features, units = bins * preset.convolutions[-1][0], preset.units
    directions = 2 if preset.cell == "rnn" else 1
    inputs = features + (preset.depth - 1) * units
    return units * (preset.gates * (inputs + directions * preset.depth * units) + units)


def units_for(preset, bins, weights):
    """Width of the dense model that has as many weights in its pruned matrices: int."""
    widths = range(4, preset.units + 1, 4)
    return min(widths, key=lambda n: abs(weight_count(dataclasses.replace(preset, units=n), bins) - weights))
