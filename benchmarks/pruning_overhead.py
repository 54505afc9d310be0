"""What pruning adds to a training step: a dense model and a pruned copy train in turns in one process.

    python benchmarks/pruning_overhead.py
    python benchmarks/pruning_overhead.py --optimizer sgd --block 8x8 --batch 16 --steps 400
    python benchmarks/pruning_overhead.py --jit

Model: LSTM -> Dense over all time steps, cross-entropy from logits. The copies start from the same weights and see
the same batch. Each round trains every copy by one step; who goes first changes every round. A step is a call of the
function that `model.make_train_function()` compiles, which is what `fit` calls, on tensors that exist already:
`train_on_batch` and `fit` run the same function, but add milliseconds of Python whose noise is as large as what is
measured here. A third copy, dense again, shows what the difference between two equal models looks like.

Ordinary steps and steps that update the mask are told apart. Updates are rare, so after the rounds more of them
are made by moving the constraint's counter to the step before the next one.
"""

import argparse
import itertools
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from machine import machine
from pruning_sides import next_call_updates
from rich import box
from rich.console import Console
from rich.table import Table

import tf_blocksparse as bs
from tf_blocksparse.pruning import pruned_weights

WARM_UP = 4  # steps of every copy that do not count: tracing, first allocations, the mask update of step 1


def make_model(arguments):
    model = keras.Sequential(
        [
            keras.Input((arguments.time, arguments.inputs)),
            keras.layers.LSTM(arguments.units, return_sequences=True),
            keras.layers.Dense(arguments.classes),
        ]
    )
    return model


def make_models(arguments):
    """Copies of one model by name; "pruned" is pruned."""
    names = ["dense", "pruned"] + (["dense again"] if arguments.control else [])
    models = {name: make_model(arguments) for name in names}
    for model in models.values():
        model.set_weights(models["dense"].get_weights())
    steps = WARM_UP + arguments.steps + arguments.frequency * (arguments.updates + 1)
    schedule = bs.GradualSparsity(arguments.sparsity, begin_step=0, end_step=steps, frequency=arguments.frequency)
    bs.prune_blocks(models["pruned"], block_shape=arguments.block, schedule=schedule)
    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[arguments.optimizer]
    for model in models.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(1e-3), loss, jit_compile=arguments.jit)
    return models


def step_of(model, batch):
    """A function that trains `model` by one step and returns the milliseconds it took."""
    model.make_train_function()
    batches = itertools.repeat(batch)

    def step():
        start = time.perf_counter()
        loss = model.train_function(batches)["loss"]
        loss.numpy()
        return 1e3 * (time.perf_counter() - start)

    return step


def in_turns(steps, rounds, before=lambda: None):
    """Milliseconds of one step of each, `[rounds, len(steps)]`; the order turns with every round."""
    times = np.zeros([rounds, len(steps)])
    for i in range(rounds):
        before()
        order = np.roll(np.arange(len(steps)), i)
        for j in order[:: 1 if i // len(steps) % 2 else -1]:
            times[i, j] = steps[j]()
    return times


def median_interval(values, confidence=0.95, draws=2000):
    """Bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, [draws, len(values)]), axis=1)
    return tuple(np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2]))


def measure(arguments):
    """Paired differences and what follows from them: a dict of numbers, in milliseconds and per cent."""
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.time)
    inputs = tf.constant(rng.standard_normal([*shape, arguments.inputs]), tf.float32)
    batch = inputs, tf.constant(rng.integers(arguments.classes, size=shape))
    models = make_models(arguments)
    steps = [step_of(model, batch) for model in models.values()]
    in_turns(steps, WARM_UP)
    times = in_turns(steps, arguments.steps)
    is_update = (WARM_UP + 1 + np.arange(arguments.steps)) % arguments.frequency == 0
    pruned = models["pruned"]
    updates = in_turns(
        steps, arguments.updates, before=lambda: next_call_updates(pruned_weights(pruned), arguments.frequency)
    )
    updates = np.concatenate([updates, times[is_update]])
    ordinary = times[~is_update]
    dense = np.median(ordinary[:, 0])
    result = {
        "ms dense": dense,
        "ms pruned": np.median(ordinary[:, 1]),
        "ms step with mask update": np.median(updates[:, 1]),
        "differences": differences(ordinary[:, 1] - ordinary[:, 0], dense),
        "update differences": differences(updates[:, 1] - updates[:, 0], dense),
        "trimmed mean %": 100 * (trimmed_mean(times[:, 1]) / trimmed_mean(times[:, 0]) - 1),
        "ordinary steps": len(ordinary),
        "update steps": len(updates),
        "sparsity": {w.path: bs.blocks.sparsity(w.constraint.block_mask) for w in pruned_weights(pruned)},
    }
    if arguments.control:
        result["control differences"] = differences(ordinary[:, 2] - ordinary[:, 0], dense)
        result["control trimmed mean %"] = 100 * (trimmed_mean(times[:, 2]) / trimmed_mean(times[:, 0]) - 1)
    # What an update costs on top of an ordinary step, spread over the steps from one to the next.
    extra = result["update differences"]["ms"] - result["differences"]["ms"]
    result["mask update ms"] = extra
    result["amortised ms"] = result["differences"]["ms"] + extra / arguments.frequency
    result["amortised %"] = 100 * result["amortised ms"] / dense
    return result


def trimmed_mean(values):
    """Mean without the tenth that took longest, in which the machine did something else."""
    return np.sort(values)[: max(1, len(values) * 9 // 10)].mean()


def differences(values, dense):
    """Median of paired differences: ms, per cent of a dense step, 95 % interval and quartiles in per cent."""
    return {
        "ms": np.median(values),
        "%": 100 * np.median(values) / dense,
        "interval %": [100 * v / dense for v in median_interval(values)],
        "quartiles %": [100 * v / dense for v in np.quantile(values, [0.25, 0.75])],
    }


def print_result(arguments, result):
    title = (
        f"{machine()}; TensorFlow {tf.__version__}, Keras {keras.__version__}\n"
        f"LSTM({arguments.units}) + Dense({arguments.classes}), batch {arguments.batch} x {arguments.time} steps, "
        f"{arguments.optimizer}{', XLA' if arguments.jit else ''}, blocks {arguments.block[0]}x{arguments.block[1]}, "
        f"frequency {arguments.frequency}; {result['ordinary steps']} + {result['update steps']} steps each"
    )
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for column in ("ms", "% of a dense step", "95 % interval", "quartiles"):
        table.add_column(column, justify="right", no_wrap=True)

    def add(label, found):
        spreads = [f"{low:+.2f} .. {high:+.2f}" for low, high in (found["interval %"], found["quartiles %"])]
        table.add_row(label, f"{found['ms']:+.3f}", f"{found['%']:+.2f}", *spreads)

    table.add_row("step, dense", f"{result['ms dense']:.3f}")
    table.add_row("step, pruned", f"{result['ms pruned']:.3f}")
    table.add_row("step, pruned, with mask update", f"{result['ms step with mask update']:.3f}")
    add("pruned - dense", result["differences"])
    add("pruned - dense, with mask update", result["update differences"])
    if "control differences" in result:
        add("dense again - dense (noise)", result["control differences"])
    table.add_row("a mask update alone", f"{result['mask update ms']:+.3f}")
    table.add_row("overhead, updates spread evenly", f"{result['amortised ms']:+.3f}", f"{result['amortised %']:+.2f}")
    table.add_row("the same, trimmed means", "", f"{result['trimmed mean %']:+.2f}")
    if "control trimmed mean %" in result:
        table.add_row("dense again - dense, trimmed means", "", f"{result['control trimmed mean %']:+.2f}")
    Console(width=150).print(table)
    print("Differences are medians of paired differences, with a bootstrap interval of that median.")


def block(text):
    """(4, 4) of "4x4"."""
    height, width = text.split("x")
    return int(height), int(width)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--time", type=int, default=20, help="length of a sequence")
    parser.add_argument("--block", type=block, default="4x4")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--frequency", type=int, default=100, help="steps between mask updates")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    parser.add_argument("--jit", action="store_true", help="compile the step with XLA")
    parser.add_argument("--steps", type=int, default=200, help="rounds at the true share of mask updates")
    parser.add_argument("--updates", type=int, default=20, help="rounds more with a mask update each")
    parser.add_argument("--no-control", dest="control", action="store_false", help="leave out the second dense copy")
    parser.add_argument("--json", help="file for the numbers")
    arguments = parser.parse_args()
    result = measure(arguments)
    print_result(arguments, result)
    if arguments.json:
        numbers = {"machine": machine(), "arguments": vars(arguments), **result}
        pathlib.Path(arguments.json).write_text(json.dumps(numbers, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
