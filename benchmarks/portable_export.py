"""Serving speed of the two exports, and of a dense one, in one process: calls of each in turns.

python benchmarks/portable_export.py

Milliseconds are medians of the calls; the dense model has the same layers, unpruned.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.blocks import BlockGrid

FORMS = ("dense", "custom op", "portable")


def dense_layer():
    """A product of 1024x4096."""
    return keras.Sequential([keras.Input((1024,), name="x"), layers.Dense(4096)]), (1024,)


def lstm():
    """An LSTM of 512 units over 20 time steps."""
    return keras.Sequential([keras.Input((20, 512), name="x"), layers.LSTM(512)]), (20, 512)


def embedding():
    """20 words of a table of 20,000x512."""
    model = keras.Sequential([keras.Input((20,), dtype="int32", name="x"), layers.Embedding(20_000, 512)])
    return model, (20,)


def sparsify(model, block_shape, sparsity):
    """Zeroes blocks of all matrices of a model, at random."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 2:
            grid = BlockGrid(weight.shape, block_shape)
            kept = np.asarray(grid.expand(rng.random(grid.mask_shape) >= sparsity))
            weight.assign(keras.ops.convert_to_numpy(weight) * kept)


def exported(make, block_shape, sparsity, directory):
    """The serving functions by form."""
    model, _ = make()
    found = {}
    for form in FORMS:
        if form == "custom op":
            sparsify(model, block_shape, sparsity)
            model = bs.convert(model, block_shape=block_shape, min_sparsity=0)
        path = os.path.join(directory, form)
        bs.export(model, path, portable=form == "portable")
        found[form] = tf.saved_model.load(path)
    return found


def milliseconds(functions, x, seconds):
    """Median time of a call of each, in turns."""
    times = {form: [] for form in functions}
    for form in functions:
        functions[form](x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for form, function in functions.items():
            start = time.perf_counter()
            function(x).numpy()
            times[form].append(1e3 * (time.perf_counter() - start))
    return {form: statistics.median(t) for form, t in times.items()}


def main():
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row of the table")
    options = parser.parse_args()
    print("| | blocks | batch | dense, ms | custom op, ms | portable, ms | portable / custom op |")
    print("|---|---|---|---|---|---|---|")
    for make in (dense_layer, lstm, embedding):
        for block_shape in (4, 16):
            with tempfile.TemporaryDirectory() as directory:
                loaded = exported(make, block_shape, options.sparsity, directory)
            functions = {form: served.serve for form, served in loaded.items()}
            for batch in (1, 16, 256):
                shape = (batch, *make()[1])
                x = np.random.default_rng(1).integers(0, 1000, shape)
                x = tf.constant(x, "int32") if make is embedding else tf.constant(x / 1000, "float32")
                ms = milliseconds(functions, x, options.seconds)
                name = make.__doc__.split(".")[0]
                cells = " | ".join(f"{ms[form]:.2f}" for form in FORMS)
                ratio = ms["portable"] / ms["custom op"]
                print(f"| {name} | {block_shape}x{block_shape} | {batch} | {cells} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
