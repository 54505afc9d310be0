"""Writes the SavedModels that later versions have to load, as text: python tests/golden/make.py

Each file is what export() writes, whole, and so binary; it is kept as base64 of a compressed archive, below 20 KB, for
only the true file shows that the true file still loads. What it computes is beside it, in numbers that can be read.
They are made once for each version that changes what is written, never over an old one.
"""

import base64
import io
import json
import pathlib
import tarfile
import tempfile

import keras
import numpy as np

import tf_blocksparse as bs

DIRECTORY = pathlib.Path(__file__).parent
IDS = [[1, 5, 3], [0, 9, 9]]


def products():
    """Products and look-ups."""
    blocks = {"block_shape": (2, 4)}
    x = keras.Input((None,), dtype="int32", name="ids")
    y = bs.BlockSparseEmbedding(10, 6, num_blocks=5, embeddings_initializer="normal", **blocks)(x)
    y = bs.BlockSparseDense(9, num_blocks=6, activation="relu", **blocks)(y)
    y = bs.BlockSparseDense(5, num_blocks=7, storage_dtype="int8", activation="tanh", name="last", **blocks)(y)
    return keras.Model(x, y)


def sequences():
    """Recurrent layers, whole sequences in one op."""
    x = keras.Input((None,), dtype="int32", name="ids")
    y = bs.BlockSparseEmbedding(10, 6, num_blocks=8, block_shape=2)(x)
    y = bs.BlockSparseLSTM(6, return_sequences=True, block_shape=2)(y)
    y = bs.BlockSparseGRU(5, return_sequences=True, block_shape=2)(y)
    return keras.Model(x, bs.BlockSparseSimpleRNN(4, block_shape=4, storage_dtype="int8")(y))


def chosen_blocks():
    """A layer that chooses its blocks."""
    x = keras.Input((None,), dtype="int32", name="ids")
    y = bs.BlockSparseEmbedding(10, 6, num_blocks=8, block_shape=2)(x)
    return keras.Model(x, bs.DynamicBlockDense(6, "tanh", block_shape=2, sparsity=0.5, storage="blocks")(y))


# What a file is called after the version, its model, and the ops that have to be in it.
MODELS = {
    "": (products, ["Gather", "MatMul", "LowPrecisionMatMul"]),
    "_sequences": (sequences, ["Lstm", "Gru", "LowPrecisionSequence"]),
    "_chosen_blocks": (chosen_blocks, ["DynamicMatMul"]),
}


def main():
    """Writes `saved_model_<version><name>.json` of each model that has none."""
    for name, (model, ops) in MODELS.items():
        path = DIRECTORY / f"saved_model_{bs.__version__}{name}.json"
        if not path.exists():
            write(path, model, ops)
            print(path, path.stat().st_size, "bytes")


def write(path, model, ops):
    """Writes the file of one model."""
    keras.utils.set_random_seed(2017)
    made = model()
    with tempfile.TemporaryDirectory() as directory:
        bs.export(made, f"{directory}/saved", signatures={"serving_default": made})
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:xz", preset=9) as tar:
            tar.add(f"{directory}/saved", "saved")
    y = np.asarray(made(np.int32(IDS)), "float64")
    text = base64.b64encode(archive.getvalue()).decode()
    lines = [text[i : i + 118] for i in range(0, len(text), 118)]
    golden = {
        "made by": "tests/golden/make.py",
        "ops": ops,
        "ids": IDS,
        "outputs": y.round(6).tolist(),
        "saved_model.tar.xz": lines,
    }
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
