"""Handwritten digits from an .npz file: `x_train` uint8 `[images, height, width]`, `y_train`; the last are held out."""

import pathlib

import numpy as np
import tensorflow as tf

from models.archives import read_arrays

VALIDATION = 5000  # images
CLASSES = 10
MEAN, DEVIATION = 0.1307, 0.3081  # of the pixels of the training part


def load(directory):
    """Reads the digits: `(x, y)` of the training part, `[images, 784]` float32 and int64 `[images]`.

    Pixels have mean 0 and variance 1: gates that are computed from what is nowhere negative depend less on the image.

    Raises:
        FileNotFoundError: if there is no directory, or no .npz file in it.
        ValueError: if the file is damaged or has other arrays.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {str(directory)!r}. Expected one with an .npz file of digits.")
    files = sorted(directory.glob("*.npz"))
    if not files:
        raise FileNotFoundError(
            f"No .npz file with x_train and y_train in {str(directory)!r}. Keras has one: "
            "keras.datasets.mnist.load_data(path='/DIR/mnist.npz')."
        )
    x, y = read_arrays(files[0], ("x_train", "y_train")).values()
    if x.dtype != "uint8" or x.ndim != 3 or y.shape != x.shape[:1] or not set(np.unique(y)) <= set(range(CLASSES)):
        raise ValueError(
            f"{str(files[0])!r}: expected x_train uint8 [images, height, width] and y_train [images], from 0 to "
            f"{CLASSES - 1}. Received: {x.dtype} {x.shape}, {y.dtype} {y.shape} {np.unique(y)[:20]}."
        )
    if len(x) <= VALIDATION:
        raise ValueError(f"{len(x)} images are too few: the last {VALIDATION} are for validation.")
    pixels = x.reshape(len(x), -1).astype("float32") / 255.0
    return (pixels - MEAN) / DEVIATION, y.astype("int64")


def digits(directory, batch_size, seed=0):
    """`Digits` to train on, and to validate with: the last images of the training part."""
    x, y = load(directory)
    return Digits(x[:-VALIDATION], y[:-VALIDATION], batch_size, seed), Digits(x[-VALIDATION:], y[-VALIDATION:], 500)


class Digits:
    """Images and classes in batches, in another order in every epoch.

    Args:
        x, y: float32 `[images, pixels]`, int64 `[images]`.
        batch_size: int.
        seed: int, of the order; None: always as they are.
    """

    def __init__(self, x, y, batch_size, seed=None):
        self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed
        self.epoch = 0

    def __len__(self):
        return -(-len(self.y) // self.batch_size)

    def _in_order(self):
        order = np.arange(len(self.y))
        order = order if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            yield self.x[chosen], self.y[chosen]

    def dataset(self):
        """A `tf.data.Dataset` of `(float32 [batch, pixels], int64 [batch])`."""
        signature = tf.TensorSpec((None, self.x.shape[1])), tf.TensorSpec((None,), "int64")
        options = tf.data.Options()
        options.autotune.enabled = False  # the end of an epoch waits for its thread
        batches = tf.data.Dataset.from_generator(self._in_order, output_signature=signature)
        return batches.apply(tf.data.experimental.assert_cardinality(len(self))).prefetch(2).with_options(options)
