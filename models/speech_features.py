"""Features of speech from tensorflow-io's audio ops: spectrograms in decibels, mel bands, masks over either axis.

tensorflow-io's wheels are built for an older TensorFlow, with which its native library does not load; it warns of that
and these functions, which are made of TensorFlow's own ops, work (0.37.1 with TensorFlow 2.21). What needs the
library, as resampling and FLAC, does not; wav files are read by TensorFlow.
"""

import dataclasses
import functools
import warnings

import tensorflow as tf

WINDOW, STRIDE = 0.020, 0.010  # seconds, as in Deep Speech 2
TOP_DB = 80.0  # what is fainter than the loudest value of an utterance by more than that is not told apart


@functools.cache
def audio_ops():
    """`tensorflow_io.audio`.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its native library
            import tensorflow_io
    except ImportError as error:
        raise ImportError(
            "Features of wav files come from tensorflow-io, which is not installed: pip install tensorflow-io, or "
            "'tf-blocksparse[audio]'."
        ) from error
    return tensorflow_io.audio


@dataclasses.dataclass(frozen=True)
class Spectrograms:
    """Spectrograms of 20 ms every 10 ms, in decibels below the loudest value of the utterance.

    Attributes:
        sample_rate: int, samples a second.
        mels: int, bands of a mel scale up to half the sample rate, or None: all frequencies.
    """

    sample_rate: int
    mels: int | None = None

    @property
    def window(self):
        """Samples of a window, which are those of its Fourier transform, too."""
        return round(WINDOW * self.sample_rate)

    @property
    def stride(self):
        """Samples from one frame to the next."""
        return round(STRIDE * self.sample_rate)

    @property
    def bins(self):
        """Features of a frame."""
        return self.mels or self.window // 2 + 1

    def frames(self, samples):
        """Frames of so many samples; the last ones are filled up with zeros."""
        return -(-samples // self.stride)

    def of_samples(self, samples):
        """Features `[frames, bins]` of samples `[samples]`, float32 between -1 and 1."""
        audio = audio_ops()
        features = audio.spectrogram(samples, nfft=self.window, window=self.window, stride=self.stride)
        if self.mels:
            features = audio.melscale(
                features, rate=self.sample_rate, mels=self.mels, fmin=0.0, fmax=self.sample_rate / 2
            )
        return audio.dbscale(features, top_db=TOP_DB, ref=tf.reduce_max)

    @functools.cached_property
    def of_file(self):
        """A function from the path of a wav file to its features."""

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
        def features(path):
            return self.of_samples(tf.audio.decode_wav(tf.io.read_file(path), desired_channels=1).audio[:, 0])

        return features


def mask_function(time, frequency, seed):
    """A function that sets some adjacent frames, and bins, of features `[frames, bins]` to zero: SpecAugment.

    The masks it draws depend on `seed` and on how often it was called, so that an epoch can be repeated.

    Args:
        time, frequency: int, frames and bins below which the width of a mask is drawn; 0 for none.
        seed: int.
    """
    if not (time or frequency):
        return lambda features: features
    audio = audio_ops()
    # The ops draw from TensorFlow's global seed; a function that is traced after it was set begins anew.
    tf.random.set_seed(seed)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)], autograph=False)
    def mask(features):
        if time:
            features = audio.time_mask(features, param=tf.minimum(time, tf.shape(features)[0]))
        if frequency:
            features = audio.freq_mask(features, param=tf.minimum(frequency, tf.shape(features)[1]))
        return features

    mask(tf.zeros([2, 2]))  # traced now, under this seed
    return mask
