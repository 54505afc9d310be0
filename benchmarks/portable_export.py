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


def bidirectional():
    """A bidirectional LSTM of 256 units over 20 time steps."""
    lstm = layers.LSTM(256, return_sequences=True)
    return keras.Sequential([keras.Input((20, 256), name="x"), layers.Bidirectional(lstm)]), (20, 256)


def chosen_blocks():
    """A layer of 1024x1024 that chooses a tenth of its blocks; dense is all of them."""
    dynamic = bs.DynamicBlockDense(1024, block_shape=64, sparsity=0.9)
    return keras.Sequential([keras.Input((1024,), name="x"), dynamic]), (1024,)


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
            if make is not chosen_blocks:
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
    parser.add_argument("--only", help="the cases of these functions, such as lstm,bidirectional")
    options = parser.parse_args()
    cases = (dense_layer, lstm, bidirectional, embedding, chosen_blocks)
    print("| | blocks | batch | dense, ms | custom op, ms | portable, ms | portable / custom op |")
    print("|---|---|---|---|---|---|---|")
    for make in cases:
        if options.only and make.__name__ not in options.only.split(","):
            continue
        for block_shape in (4, 16) if make is not chosen_blocks else (64,):
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
