"""Which layers of a model go on in blocks, written into whatever it is saved in.

The weights of a masked model and of one that goes on in blocks do not fit each other. A new, masked model can take
the form of the one that was saved, and then its weights, when the file says what that was.
"""

import io
import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import tensorflow as tf

from tf_blocksparse.convert import leaves
from tf_blocksparse.twins import block_sparse_weights, is_twin

_NAME = "sparse_training_record"  # of the attribute of a model, so also in files
_KEY = f"{_NAME}/text/.ATTRIBUTES/VARIABLE_VALUE"


class SwapRecord(
    keras.Operation,  # so that Keras writes it to .keras and .weights.h5 files
    tf.__internal__.tracking.AutoTrackable,  # and tf.train.Checkpoint does
):
    """Says of each block-sparse layer of a model what blocks it has.

    Args:
        model: a `keras.Model`.
    """

    def __init__(self, model):
        keras.Operation.__init__(self)
        self.text = tf.Variable(json.dumps(_layers(model)), trainable=False)

    def save_own_variables(self, store):
        store["text"] = np.frombuffer(self.text.numpy(), "uint8")

    def load_own_variables(self, store):
        """Nothing to load: the model has its form already."""


def keep_record(model):
    """Makes all that `model` is saved in from now on say which of its layers are block-sparse."""
    setattr(model, _NAME, SwapRecord(model))


def read_record(path):
    """The block-sparse layers of the model that was saved in a file.

    Args:
        path: of a `.keras` or `.weights.h5` file, or a prefix of `tf.train.Checkpoint`.

    Returns:
        Dict from the place of a layer among `leaves()` to `{"block_shape": [...], "num_blocks": {name: int}}`; empty
        if the model was masked.

    Raises:
        ValueError: if there is no such file.
    """
    path = str(path)
    if pathlib.Path(f"{path}.index").is_file():
        text = _of_checkpoint(path)
    elif pathlib.Path(path).is_file():
        text = _of_file(path)
    else:
        raise ValueError(
            "Expected a .keras or .weights.h5 file, or the prefix that tf.train.Checkpoint.save() returned. Received: "
            f"{path!r}, which does not exist."
        )
    return {} if text is None else {int(place): layer for place, layer in json.loads(text).items()}


def _layers(model):
    return {place: _blocks_of(layer) for place, layer in enumerate(leaves(model)) if is_twin(layer)}


def _blocks_of(layer):
    owner = getattr(layer, "cell", layer)
    return {
        "block_shape": list(owner.block_shape),
        "num_blocks": {name: int(w.indices.shape[0]) for name, w in block_sparse_weights(owner).items()},
    }


def _of_checkpoint(path):
    reader = tf.train.load_checkpoint(path)
    keys = [key for key in reader.get_variable_to_shape_map() if key.endswith(_KEY)]
    return reader.get_tensor(keys[0]) if keys else None


def _of_file(path):
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            path = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(path) as file:
        entry = file.get(f"{_NAME}/vars/text")
        return None if entry is None else bytes(entry[()])
