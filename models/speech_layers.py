"""Small layers of the speech models: which time steps are speech, and what is where none is; the activation.

An utterance that ends before the longest of its batch is followed by padding. The padding is zero before each
convolution and counts in no statistics, no state and no loss, so nothing depends on it.
"""

import keras
from keras import ops

from models.ctc import BLANK

_CERTAIN = 1e4  # a logit so far above the others that softmax gives exactly 1


@keras.saving.register_keras_serializable("models")
def clipped_relu(x):
    """`min(max(x, 0), 20)`, Deep Speech 2's activation."""
    return ops.clip(x, 0.0, 20.0)


@keras.saving.register_keras_serializable("models")
class SpeechMask(keras.layers.Layer):
    """Which time steps are speech: `x` `[batch, time, ...]`, lengths in frames `[batch]` -> bool `[batch, time]`.

    Args:
        stride: int, frames that go into one time step of `x`.
    """

    def __init__(self, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, x, frames):
        lengths = -(-ops.cast(frames, "int32") // self.stride)
        return ops.arange(ops.shape(x)[1], dtype="int32")[None, :] < lengths[:, None]

    def compute_output_spec(self, x, frames):
        return keras.KerasTensor(x.shape[:2], "bool")

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable("models")
class ZeroPadding(keras.layers.Layer):
    """`x` `[batch, time, ...]` where `speech` `[batch, time]` is true, 0 elsewhere; also values that are no numbers."""

    def call(self, x, speech):
        shape = (*ops.shape(speech), *[1] * (len(x.shape) - 2))
        return ops.where(ops.reshape(speech, shape), x, ops.zeros_like(x))

    def compute_output_spec(self, x, speech):
        return keras.KerasTensor(x.shape, x.dtype)


@keras.saving.register_keras_serializable("models")
class BlankAfterEnd(keras.layers.Layer):
    """Logits `[batch, time, characters]` that are certain of the blank where `speech` `[batch, time]` is false."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, logits, speech):
        blank = _CERTAIN * ops.one_hot(BLANK, logits.shape[-1], dtype=logits.dtype)
        return ops.where(speech[:, :, None], logits, blank)

    def compute_mask(self, logits, previous_mask):
        return None  # for Keras would take it for weights of the loss, which has none for time steps

    def compute_output_spec(self, logits, speech):
        return keras.KerasTensor(logits.shape, logits.dtype)


@keras.saving.register_keras_serializable("models")
class MergeFrequencies(keras.layers.Layer):
    """`[batch, time, frequencies, channels]` -> `[batch, time, frequencies * channels]`."""

    def call(self, x):
        return ops.reshape(x, (*ops.shape(x)[:2], x.shape[2] * x.shape[3]))

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:2], x.shape[2] * x.shape[3]), x.dtype)


@keras.saving.register_keras_serializable("models")
class SpeechBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over all time steps of a batch that are speech, "sequence-wise".

    Also of `[batch, time, frequencies, channels]` with `speech` `[batch, time]`.

    Reference: Deep Speech 2, Equations 4 and 5.
    """

    def call(self, inputs, speech, training=None):
        shape = ops.shape(inputs)[:-1]
        mask = ops.reshape(speech, (*ops.shape(speech), *[1] * (len(shape) - 2)))
        return super().call(inputs, training=training, mask=ops.broadcast_to(mask, shape))
