"""What a training step of a dynamic layer costs: it and a dense twin train in turns in one process.

    python benchmarks/dynamic_training.py
    python benchmarks/dynamic_training.py --cases 1024x1024:128:128 --rounds 40

A case is in x out : block side : rows of a batch. A step is a call of the function that `model.make_train_function()`
compiles, which is what `fit` calls; the model is the layer alone, with momentum SGD. Who goes first changes every
round. Besides the medians the smallest ratio of one round is given: on a machine that does other things, both.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from machine import machine
from pruning_overhead import in_turns, step_of
from rich import box
from rich.console import Console
from rich.table import Table

import tf_blocksparse as bs

CASES = ("1024x1024:128:128", "1536x6144:128:20", "1024x4608:128:512", "1024x1024:64:128", "784x1024:128:128")
WARM_UP = 3
LIMIT = 2.5  # times a dense step


def make_models(in_features, out_features, block, sparsity):
    """The dense model and its dynamic twins by name."""
    layers = {
        "dense": keras.layers.Dense(out_features),
        "dynamic": bs.DynamicBlockDense(out_features, block_shape=block, sparsity=sparsity),
        "dynamic, gate of a quarter": bs.DynamicBlockDense(
            out_features, block_shape=block, sparsity=sparsity, gate_inputs=in_features // 4
        ),
    }
    models = {}
    for name, layer in layers.items():
        models[name] = keras.Sequential([keras.Input((in_features,)), layer])
        models[name].compile(keras.optimizers.SGD(1e-4, momentum=0.9), "mse", jit_compile=False)
    return models


def measure(case, sparsity, rounds):
    """Rows of the table for one case: `(case, name, median ms, median ratio, smallest ratio)`."""
    shape, block, batch = case.split(":")
    in_features, out_features = map(int, shape.split("x"))
    rng = np.random.default_rng(0)
    data = tuple(tf.constant(rng.standard_normal((int(batch), n)), tf.float32) for n in (in_features, out_features))
    models = make_models(in_features, out_features, int(block), sparsity)
    steps = [step_of(model, data) for model in models.values()]
    in_turns(steps, WARM_UP)
    times = in_turns(steps, rounds)
    for i, name in enumerate(models):
        ratios = times[:, i] / times[:, 0]
        yield case, name, statistics.median(times[:, i]), statistics.median(ratios), min(ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=CASES, help="in x out : block : batch")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    title = f"{machine()}; TensorFlow {tf.__version__}, Keras {keras.__version__}; sparsity {arguments.sparsity}"
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column in ("in x out : block : batch", "layer", "ms a step", "x dense", "smallest"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for case in arguments.cases:
        for row in measure(case, arguments.sparsity, arguments.rounds):
            table.add_row(*row[:2], *(f"{value:.2f}" for value in row[2:]))
    Console(width=150).print(table)
    print(f"At most {LIMIT} times a dense step is what the layers aim at.")


if __name__ == "__main__":
    main()
