"""Images with classes: from an .npz file, or from a directory that has one of images for each class."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from models.archives import read_arrays

_TAIL = 1024  # bytes, in which an image must end
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


class Images:
    """Images of one size in batches, in another order in every epoch.

    Args:
        images: uint8 `[images, height, width]` or `[images, height, width, channels]`, or list of names of files.
        labels: int array `[images]`.
        size: int, height and width that they are brought to.
        batch_size: int.
        seed: int; an epoch has the same order whenever it comes, also after a restart.
    """

    def __init__(self, images, labels, size, batch_size, seed=0):
        self._images, self._labels = images, np.asarray(labels, "int64")
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self.epoch = 0

    def __len__(self):
        return -(-len(self._labels) // self._batch_size)

    def _in_order(self):
        yield from np.random.default_rng([self._seed, self.epoch]).permutation(len(self._labels))

    def dataset(self):
        """A `tf.data.Dataset` of `(float32 [batch, size, size, 3] in 0 to 255, int64 [batch])`."""
        order = tf.data.Dataset.from_generator(self._in_order, output_signature=tf.TensorSpec((), "int64"))
        images, labels = tf.constant(self._images), tf.constant(self._labels)
        threads = tf.data.AUTOTUNE if isinstance(self._images, list) else 1
        read = order.map(lambda i: (self._image(tf.gather(images, i)), tf.gather(labels, i)), threads)
        batches = read.batch(self._batch_size).apply(tf.data.experimental.assert_cardinality(len(self)))
        options = tf.data.Options()
        options.autotune.enabled = isinstance(self._images, list)  # the end of an epoch waits for its thread
        return batches.prefetch(2).with_options(options)

    def _image(self, image):
        """One image of the size wanted, grey ones in three equal channels."""
        if image.dtype == tf.string:
            image = tf.io.decode_image(tf.io.read_file(image), channels=3, expand_animations=False)
        if image.shape.rank == 2:
            image = image[..., None]
        image = tf.image.resize(tf.cast(image, "float32"), (self._size, self._size))
        return tf.ensure_shape(image if image.shape[-1] == 3 else tf.repeat(image, 3, -1), (self._size, self._size, 3))


def load(directory, max_images=None, held_out=0.1):
    """Reads images: `(images, labels)` to train on and to validate with, and the names of the classes.

    A directory with an .npz file of `x_train` (uint8 `[images, height, width]`, or with channels) and `y_train`, as
    Keras's digits: the last tenth is for validation. Else one with `train` and `val`, each with a directory of images
    for each class; or with these itself: every tenth image of a class is for validation.

    Args:
        directory: path.
        max_images: int or None: train on the first so many only, spread over the classes where they are in directories.
        held_out: share for validation.

    Raises:
        FileNotFoundError: if there is no such directory or no images in it.
        ValueError: if a file is damaged, the arrays do not fit together, or there is one class only.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {str(directory)!r}. Expected one with images: see models.image_data.")
    archives = sorted(directory.glob("*.npz"))
    train, val, classes = _from_archive(archives[0], held_out) if archives else _from_files(directory, held_out)
    if len(classes) < 2:
        raise ValueError(f"{str(directory)!r} has images of {len(classes)} class only: {classes}. Expected 2 or more.")
    if not len(train[1]) or not len(val[1]):
        raise ValueError(f"{len(train[1]) + len(val[1])} images in {str(directory)!r} are too few: some are held out.")
    return (train[0][:max_images], train[1][:max_images]), val, classes


def _from_archive(file, held_out):
    x, y = read_arrays(file, ("x_train", "y_train")).values()
    if x.dtype != "uint8" or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
        raise ValueError(
            f"x_train of {file} is {x.dtype} {x.shape}: expected uint8 [images, height, width] or with 1 or 3 channels."
        )
    if y.shape != x.shape[:1]:
        raise ValueError(f"y_train of {file} has shape {y.shape}: expected {x.shape[:1]}, a class for each image.")
    classes, y = np.unique(y, return_inverse=True)
    first = len(x) - int(len(x) * held_out)
    return (x[:first], y[:first]), (x[first:], y[first:]), [str(name) for name in classes]


def _from_files(directory, held_out):
    parts = [directory / name for name in ("train", "val")]
    if all(part.is_dir() for part in parts):
        train, val = (_files(part) for part in parts)
        if set(val) - set(train):
            raise ValueError(f"{parts[1]} has classes that {parts[0]} has not: {sorted(set(val) - set(train))}.")
    else:
        found, every = _files(directory), round(1 / held_out)
        train = {
            name: [f for i, f in enumerate(files) if i % every or len(files) == 1] for name, files in found.items()
        }
        val = {
            name: [f for i, f in enumerate(files) if not i % every and len(files) > 1] for name, files in found.items()
        }
    classes = sorted(train)
    return (*(_in_turns(part, classes) for part in (train, val)), classes)


def _files(directory):
    """Names of image files by class: dict."""
    found = {
        child.name: sorted(str(f) for f in child.rglob("*") if f.suffix.lower() in ENDINGS)
        for child in sorted(directory.iterdir())
        if child.is_dir()
    }
    found = {name: files for name, files in found.items() if files}
    for files in found.values():
        for file in files:
            _check_whole(file)
    if not found:
        raise FileNotFoundError(
            f"No images in {str(directory)!r}. Expected an .npz file with x_train and y_train, or a directory of "
            f"images ({', '.join(ENDINGS)}) for each class, also below train and val; found "
            f"{sorted(child.name for child in directory.iterdir())[:10]}."
        )
    return found


def _check_whole(file):
    """Raises `ValueError` if a file does not begin and end as an image; a pass over all pixels would take long."""
    with open(file, "rb") as opened:
        begin, size = opened.read(8), opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _TAIL))
        tail = opened.read()
    if not _is_whole(begin, tail, size):
        raise ValueError(
            f"{file!r} of {size} bytes is no image, or its download was interrupted: expected a PNG, JPEG, GIF or BMP "
            "file from its first bytes to its last."
        )


def _is_whole(begin, tail, size):
    """Whether the first and the last bytes of a file are those of an image of so many bytes."""
    if begin.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" in tail
    if begin.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in tail
    if begin.startswith(b"GIF8"):
        return tail.rstrip(b"\0").endswith(b";")
    return begin.startswith(b"BM") and int.from_bytes(begin[2:6], "little") <= size


def _in_turns(files, classes):
    """Files and labels, a class after the other in turns, so that the first so many are of all classes."""
    rows = [(i, label, file) for label, name in enumerate(classes) for i, file in enumerate(files.get(name, []))]
    rows.sort()
    return [file for _, _, file in rows], np.array([label for _, label, _ in rows], "int64")
