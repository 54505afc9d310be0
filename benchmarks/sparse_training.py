"""What training in blocks gains once pruning has ended: a step, its memory, and a whole run.

    python benchmarks/sparse_training.py                  # steps of both kinds in turns, and where the time goes
    python benchmarks/sparse_training.py --memory         # peak memory, each kind in a process of its own
    python benchmarks/sparse_training.py --run            # whole runs of fit, with the callback and without
    python benchmarks/sparse_training.py --units 650 --sparsity 0.8 --block 4x4 --profile

Model: word language model, Embedding -> LSTM -> LSTM -> softmax, all matrices pruned, Adam. A step is one call of the
function that `model.make_train_function()` compiles, on a batch that exists already. "masked" is the pruned model after
its schedule has ended, dense matrices with zeros in them; "masked, XLA" the same as Keras compiles it by default; "in
blocks" what `sparsify_training()` makes of it. They start from the same weights and take turns.

The run is the schedule of the paper: blocks go from the second epoch to 40 % of the epochs. Runs with and without the
callback take turns, each in a process of its own; all of `fit` counts, from the first batch to the last.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from machine import machine

import tf_blocksparse as bs

KINDS = ("masked", "masked, XLA", "in blocks")
WARM_UP = 3  # steps of each that do not count: tracing, compiling, first allocations


def make_model(arguments, jit):
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((arguments.time,), dtype="int32"),
        keras.layers.Embedding(arguments.words, arguments.units),
        keras.layers.LSTM(arguments.units, return_sequences=True),
        keras.layers.LSTM(arguments.units, return_sequences=True),
        keras.layers.Dense(arguments.words),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit)
    return model


def make_kind(arguments, kind, batch):
    """A model whose pattern is fixed."""
    model = make_model(arguments, jit=kind == "masked, XLA")
    bs.prune_blocks(model, arguments.block, bs.ConstantSparsity(arguments.sparsity))
    step_of(model, batch)()  # blocks go with the first step
    if kind == "in blocks":
        bs.sparsify_training(
            model, batch_size=arguments.batch, time_steps=arguments.time, exact=not arguments.embedding_in_blocks
        )
    return model


def make_batch(arguments, batches=1):
    rng = np.random.default_rng(0)
    shape = (batches * arguments.batch, arguments.time)
    ids = np.minimum(rng.zipf(1.3, size=(2, *shape)), arguments.words) - 1  # as rare as words are
    return tuple(ids.astype("int32"))


def step_of(model, batch):
    """A function that trains `model` by one step and returns the milliseconds it took."""
    model.make_train_function()
    batches = itertools.repeat(tuple(map(tf.constant, batch)))

    def step():
        start = time.perf_counter()
        model.train_function(batches)["loss"].numpy()
        return 1e3 * (time.perf_counter() - start)

    return step


def in_turns(steps, rounds):
    """Milliseconds `[rounds, len(steps)]`; who goes first changes every round."""
    times = np.zeros([rounds, len(steps)])
    for i in range(rounds):
        for j in np.roll(np.arange(len(steps)), i):
            times[i, j] = steps[j]()
    return times


def measure_steps(arguments):
    batch = make_batch(arguments)
    models = {kind: make_kind(arguments, kind, batch) for kind in arguments.kinds}
    steps = [step_of(model, batch) for model in models.values()]
    in_turns(steps, WARM_UP)
    times = in_turns(steps, arguments.steps)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}; TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(description(arguments), "\n")
    best = np.min(times[:, [kind.startswith("masked") for kind in models]], axis=1) if len(models) > 1 else times[:, 0]
    print(f"| {'a step':<12} | median ms | minimum ms | best masked / this, of each round | of minima |")
    print("|---|---|---|---|---|")
    for name, own in zip(models, times.T, strict=True):
        print(
            f"| {name:<12} | {np.median(own):.0f} | {own.min():.0f} | {np.median(best / own):.2f} | "
            f"{best.min() / own.min():.2f} |"
        )
    if "in blocks" in models:
        print(f"\n{bs.report(models['in blocks'])}")
    if arguments.profile:
        for name, step in zip(models, steps, strict=True):
            print_profile(name, step)


def print_profile(name, step, steps=3):
    """Milliseconds a step of the kinds of ops that take longest, as TensorFlow's profiler counts them."""
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        for _ in range(steps):
            step()
        tf.profiler.experimental.stop()
        path = next(pathlib.Path(directory).rglob("*.xplane.pb"))
        totals = op_times(path)
    print(f"\n{name}: milliseconds a step, summed over threads")
    for op, nanoseconds in sorted(totals.items(), key=lambda item: -item[1])[:14]:
        print(f"  {nanoseconds / steps / 1e6:8.1f}  {op}")


def op_times(path):
    """Nanoseconds by kind of op, from a profile of TensorFlow."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    totals = {}
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                op = name.split(":")[-1] if ":" in name else ""
                if op.lstrip("_")[:1].isupper() and "::" not in name:
                    totals[op] = totals.get(op, 0) + event.duration_ps / 1e3
    return totals


def print_memory(arguments):
    """Highest memory of a process that trains in each kind, over that before its first step."""
    print(f"{description(arguments)}; peak of a process, MB; before: with the model made, and not trained\n")
    with tempfile.TemporaryDirectory() as directory:
        for kind in arguments.kinds:
            file = ("--file", str(pathlib.Path(directory, "model.keras")))
            child("--make", kind, *file)
            print(f"{kind:<12}", json.dumps(child("--memory-of", kind, *file)), flush=True)


def measure_memory(arguments):
    """Trains a model that comes from a file, in a process that has held nothing else."""
    model = keras.models.load_model(arguments.file)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # to load takes more than to train: the peak begins anew
    before = megabytes("VmRSS")
    step = step_of(model, make_batch(arguments))
    for _ in range(3):
        step()
    print(json.dumps({"before": before, "peak": megabytes("VmHWM")}))


def megabytes(name):
    """A figure of this process that Linux keeps."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{name}:"))


def save_kind(arguments, kind):
    make_kind(arguments, kind, make_batch(arguments)).save(arguments.file)
    print(json.dumps(os.path.getsize(arguments.file)))


def print_run(arguments):
    """Seconds of whole runs, which take turns."""
    print(f"{description(arguments)}; {arguments.epochs} epochs of {arguments.batches} batches; whole runs of fit\n")
    results = {kind: [] for kind in arguments.kinds}
    for i in range(arguments.runs):
        for kind in np.roll(arguments.kinds, i):
            results[kind].append(child("--run-of", kind))
            print(f"{kind:<12}", json.dumps(results[kind][-1]), flush=True)
    seconds = {kind: np.median([r["seconds"] for r in found]) for kind, found in results.items()}
    best = min(value for kind, value in seconds.items() if kind.startswith("masked"))
    for kind, value in seconds.items():
        print(f"{kind:<12} {value:7.1f} s, best masked / this {best / value:.2f}")


def measure_run(arguments, kind):
    """One whole run; with "in blocks" Keras compiles by XLA or not until the swap, as `--jit` says."""
    model = make_model(arguments, jit=kind == "masked, XLA" or (kind == "in blocks" and arguments.jit))
    schedule = bs.GradualSparsity.in_epochs(
        arguments.sparsity, begin_epoch=1, end_epoch=0.4 * arguments.epochs, steps_per_epoch=arguments.batches
    )
    bs.prune_blocks(model, arguments.block, schedule)
    exact = not arguments.embedding_in_blocks
    swap = bs.SparsifyTraining(batch_size=arguments.batch, time_steps=arguments.time, exact=exact)
    x, y = make_batch(arguments, arguments.batches)
    start = time.perf_counter()
    history = model.fit(
        x,
        y,
        batch_size=arguments.batch,
        epochs=arguments.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[swap] if kind == "in blocks" else [],
    )
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": round(seconds, 2), "loss": history.history["loss"][-1], "swapped": swap.swapped_at}))


def child(*options):
    """What a process of this script prints in its last line."""
    words = [sys.executable, __file__, *sys.argv[1:], *options]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def description(arguments):
    height, width = arguments.block
    return (
        f"Embedding({arguments.words}, {arguments.units}), LSTM({arguments.units}) x 2, softmax({arguments.words}); "
        f"{100 * arguments.sparsity:g} % in {height}x{width}; batch {arguments.batch}, T = {arguments.time}, Adam"
    )


def block(text):
    """(4, 4) of "4x4"."""
    height, width = text.split("x")
    return int(height), int(width)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=1500)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--block", type=block, default="16x16")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--time", type=int, default=35, help="words of a sequence")
    parser.add_argument("--steps", type=int, default=9, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--embedding-in-blocks", action="store_true", help="exact=False, see sparsify_training()")
    parser.add_argument("--profile", action="store_true", help="show which ops take the time of a step")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--make", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--run-of", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=1, help="whole runs of each kind")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batches", type=int, default=20, help="of an epoch")
    parser.add_argument("--jit", action="store_true", help="runs in blocks begin with XLA")
    return parser


def main():
    arguments = make_parser().parse_args()
    if arguments.make:
        save_kind(arguments, arguments.make)
    elif arguments.memory_of:
        measure_memory(arguments)
    elif arguments.run_of:
        measure_run(arguments, arguments.run_of)
    elif arguments.memory:
        print_memory(arguments)
    elif arguments.run:
        print_run(arguments)
    else:
        measure_steps(arguments)


if __name__ == "__main__":
    main()
