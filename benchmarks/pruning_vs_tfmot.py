"""Block pruning by tf_blocksparse and by TFMOT, side by side: the same model, start, data, schedule and optimizer.

    python benchmarks/pruning_vs_tfmot.py
    python benchmarks/pruning_vs_tfmot.py --target 0.8 --steps 400 --json numbers.json

Each side runs in a process of its own that this script starts (`--side NAME --out FILE`): TFMOT works on Keras 2
(`tf_keras`) only. TFMOT is used as its guide says: `prune_low_magnitude` on the model, `UpdatePruningStep` as the first
callback of `fit`, `strip_pruning` at the end.

Three cases, of an LSTM and two Dense layers that learn to tell noisy curves apart: a schedule whose length is a
multiple of `frequency`; one whose length is not, with TFMOT's default frequency; and the first schedule on matrices
that the blocks do not divide. What is reported of weights and masks is computed by the same NumPy code, from
what both sides hold after every batch.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from machine import machine
from pruning_sides import BLOCK_SHAPE, SIDES, block_max
from rich import box
from rich.console import Console
from rich.table import Table

BEGIN = 20
LENGTH = 12  # time steps of a sequence
SAMPLES = 4096


def cases(arguments):
    """Name: sizes of the model and the schedule's end and frequency."""
    whole = {"features": 16, "units": arguments.units, "hidden": 64, "classes": 12}
    ragged = {**whole, "features": 30, "hidden": 30, "classes": 10}
    # The last third of the training is left to recover.
    frequency, room = arguments.frequency, arguments.steps * 2 // 3 - BEGIN
    end = BEGIN + room // frequency * frequency
    late = BEGIN + max(1, room // 100) * 100 - 5
    return {
        f"{end - BEGIN} steps, every {frequency}": {**whole, "end": end, "frequency": frequency},
        f"{late - BEGIN} steps, every 100 (not divisible)": {**whole, "end": late, "frequency": 100},
        f"ragged matrices, {end - BEGIN} steps, every {frequency}": {**ragged, "end": end, "frequency": frequency},
    }


def make_data(features, classes):
    """Curves of one of `classes` shapes at a random speed, in noise: `[SAMPLES, LENGTH, features]` and labels."""
    rng = np.random.default_rng(1)
    phases, rates = rng.uniform(0, 2 * np.pi, [classes, features]), rng.uniform(0.2, 1.0, [classes, features])
    labels = rng.integers(classes, size=SAMPLES)
    moments = np.arange(LENGTH)[None, :, None] * rng.uniform(0.8, 1.25, [SAMPLES, 1, 1])
    curves = np.sin(moments * rates[labels][:, None] + phases[labels][:, None])
    return (curves + rng.normal(0, 0.5, curves.shape)).astype("float32"), labels.astype("int32")


def builder(case):
    """A function that builds the model in the Keras it is given, always with the same weights."""

    def build(keras, constraint=None):
        def kernels(layer, *names):
            return {
                f"{n}_constraint": constraint(f"{layer}/{n.replace('recurrent', 'recurrent_kernel')}") for n in names
            }

        def options(layer, *names):
            return {"name": layer, **(kernels(layer, *names) if constraint else {})}

        layers = keras.layers
        model = keras.Sequential(
            [
                layers.Input((LENGTH, case["features"])),
                layers.LSTM(case["units"], **options("lstm", "kernel", "recurrent")),
                layers.Dense(case["hidden"], activation="relu", **options("hidden", "kernel")),
                layers.Dense(case["classes"], **options("classes", "kernel")),
            ]
        )
        rng = np.random.default_rng(2)
        model.set_weights(
            [rng.normal(0, 1 / np.sqrt(sum(w.shape) / len(w.shape)), w.shape) for w in model.get_weights()]
        )
        return model

    return build


def compiled(keras, model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"], jit_compile=False)
    return model


def wrongly_dropped(ranked, mask):
    """Blocks that were dropped although as many others score lower, by a ranking in float64: (wrong, dropped)."""
    scores, dropped = block_max(ranked), int((~mask).sum())
    if not dropped:
        return 0, 0
    highest = np.sort(scores, axis=None)[dropped - 1]
    return int((scores[~mask] > highest).sum()), dropped


def recorder(side, model, files, record):
    """A callback of `side`'s Keras that looks at weights and masks after every batch and keeps the extremes."""
    before = {"weights": side.weights(model), "masks": side.masks(model)}
    record.update({key: dict.fromkeys(before["masks"], 0) for key in ("leak", "revived")}, first={}, saved={})

    def note(step):
        weights, masks = side.weights(model), side.masks(model)
        ranked = side.ranked(before["weights"])
        for name, mask in masks.items():
            record["leak"][name] = max(record["leak"][name], leak(weights[name], mask))
            record["revived"][name] += int((mask & ~before["masks"][name]).sum())
            if name not in record["first"] and not mask.all():
                record["first"][name] = wrongly_dropped(ranked[name], mask)
        before.update(weights=weights, masks=masks)
        if step in files:
            model.save(files[step])
            record["saved"][step] = masks

    class Recorder(side.keras.callbacks.Callback):
        step = 0

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            note(self.step)

    return Recorder()


def leak(w, mask):
    """Largest |w| in the blocks that the mask has dropped."""
    return float(np.max(block_max(w)[~mask], initial=0.0))


def epoch_end_saver(side, model, epoch, path, masks):
    """A callback that saves the model after one epoch, as `ModelCheckpoint` does."""

    class Saver(side.keras.callbacks.Callback):
        def on_epoch_end(self, number, logs=None):
            if number == epoch:
                model.save(path)
                masks.update(side.masks(model))

    return Saver()


def train(side, case, arguments, directory):
    """Trains one case with `fit` and returns what was seen."""
    inputs, labels = make_data(case["features"], case["classes"])
    held_out = SAMPLES // 4
    model = side.pruned(builder(case), BEGIN, case["end"], case["frequency"], arguments.target, watch=True)
    compiled(side.keras, model)
    per_epoch = (SAMPLES - held_out) // arguments.batch
    # In the middle of an epoch, half an epoch before the training is over.
    middle = max(1, (arguments.steps // per_epoch - 1) * per_epoch + per_epoch // 2)
    files = {middle: os.path.join(directory, "middle" + side.file_suffix)}
    record, at_end, end_file = {}, {}, os.path.join(directory, "end" + side.file_suffix)
    model.fit(
        inputs[held_out:],
        labels[held_out:],
        batch_size=arguments.batch,
        epochs=-(-arguments.steps // per_epoch),
        shuffle=False,
        verbose=0,
        callbacks=[
            *side.callbacks(),
            recorder(side, model, files, record),
            epoch_end_saver(side, model, middle // per_epoch, end_file, at_end),
        ],
    )
    masks = record.pop("saved")[middle]
    model, weights = side.stripped(model)
    compiled(side.keras, model)
    return {
        **record,
        "reached": {name: float((block_max(w) == 0).mean()) for name, w in weights.items()},
        "shapes": {name: w.shape for name, w in weights.items()},
        "accuracy": model.evaluate(inputs[:held_out], labels[:held_out], verbose=0)[1],
        "file in an epoch": zero_share(side.weights(side.load(files[middle])), masks),
        "file in an epoch, stripped": zero_share(side.stripped(side.load(files[middle]))[1], masks),
        "file after an epoch": zero_share(side.weights(side.load(end_file)), at_end),
    }


def zero_share(weights, masks):
    """Share of the blocks dropped by the masks that are all zero in the weights; NaN if none is dropped."""
    zero = sum(int((block_max(weights[name])[~mask] == 0).sum()) for name, mask in masks.items())
    dropped = sum(int((~mask).sum()) for mask in masks.values())
    return zero / dropped if dropped else float("nan")


def time_steps(side, case, arguments):
    """Milliseconds of steps of the plain and the pruned model, in turns, and of steps that update the mask."""
    import tensorflow as tf

    never = 10**6
    build = builder(case)
    plain = compiled(side.keras, build(side.keras))
    pruned = compiled(side.keras, side.pruned(build, 0, never**2, never, arguments.target))
    side.start(pruned)
    inputs, labels = (tf.constant(a[: arguments.batch]) for a in make_data(case["features"], case["classes"]))
    batches = iter(tf.data.Dataset.from_tensors((inputs, labels)).repeat())
    functions = [side.train_function(model) for model in (plain, pruned)]

    def step(function):
        start = time.perf_counter()
        function(batches)["loss"].numpy()
        return 1e3 * (time.perf_counter() - start)

    def rounds(number, update):
        times = np.zeros([number, 2])
        for i in range(number):
            if update:
                side.next_step_updates(pruned, never)
            for j in (0, 1) if i % 2 else (1, 0):
                times[i, j] = step(functions[j])
        return times

    rounds(5, False), rounds(2, True)
    ordinary, updates = rounds(arguments.rounds, False), rounds(arguments.rounds // 4, True)
    difference = np.median(ordinary[:, 1] - ordinary[:, 0])
    return {
        "plain": np.median(ordinary[:, 0]),
        "pruned": np.median(ordinary[:, 1]),
        "difference": difference,
        "update": np.median(updates[:, 1] - updates[:, 0]) - difference,
    }


def run_side(name, arguments):
    """All that is measured of one side, as JSON can hold it."""
    side = SIDES[name]()
    found = {"keras": side.keras.__version__, "cases": {}}
    for label, case in cases(arguments).items():
        with tempfile.TemporaryDirectory() as directory:
            found["cases"][label] = train(side, case, arguments, directory)
    try:
        found["bidirectional"] = side.bidirectional()
    except Exception as error:  # whatever it is, it is the answer
        found["bidirectional"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    found["times"] = time_steps(side, next(iter(cases(arguments).values())), arguments)
    return found


def in_own_process(name):
    """`run_side` in a new process with the same arguments."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "out.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--side", name, "--out", str(out)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{name} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
        return json.loads(out.read_text())


def rows(found, arguments):
    """The table: rows of a label and one text for each side."""
    ours = next(iter(found.values()))
    yield ["Keras", *(one["keras"] for one in found.values())]
    for label, case in ours["cases"].items():
        sides = [one["cases"][label] for one in found.values()]
        yield [f"**{label}**"] + [""] * len(sides)
        for name, shape in case["shapes"].items():
            label = f"blocks zero of {name} {shape[0]}x{shape[1]}, target {arguments.target:g}"
            yield [label, *(f"{side['reached'][name]:.3f}" for side in sides)]
        yield [
            "largest magnitude in dropped blocks after a step",
            *(f"{max(side['leak'].values()):.2g}" for side in sides),
        ]
        yield ["dropped blocks that came back", *(str(sum(side["revived"].values())) for side in sides)]
        for name in case["shapes"]:
            counts = [side["first"].get(name, (0, 0)) for side in sides]
            if any(dropped for _, dropped in counts):
                texts = [f"{wrong} of {dropped}" for wrong, dropped in counts]
                yield [f"wrong blocks in the first drop of {name}", *texts]
        for when in ("in an epoch", "in an epoch, stripped", "after an epoch"):
            texts = [f"{side[f'file {when}']:.3f}" for side in sides]
            yield [f"dropped blocks that are zero in a file saved {when}", *texts]
        yield ["accuracy, held-out", *(f"{side['accuracy']:.3f}" for side in sides)]
    times = [one["times"] for one in found.values()]
    yield ["ms a step, not pruned, same Keras", *(f"{t['plain']:.2f}" for t in times)]
    yield ["ms a step, pruned", *(f"{t['pruned']:.2f}" for t in times)]
    yield ["ms that pruning adds to a step", *(f"{t['difference']:+.2f}" for t in times)]
    yield ["ms that a mask update adds", *(f"{t['update']:+.2f}" for t in times)]
    yield ["Bidirectional(LSTM)", *(one["bidirectional"].split(". ")[0] for one in found.values())]


def print_table(found, arguments):
    height, width = BLOCK_SHAPE
    title = (
        f"{machine()}\nLSTM({arguments.units}) + Dense + Dense, Adam, {height}x{width} blocks by largest |w|, "
        f"{arguments.steps} steps of batch {arguments.batch}, pruning from step {BEGIN}"
    )
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", max_width=44)
    for row in rows(found, arguments):
        table.add_row(*row)
    Console(width=170).print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=float, default=0.9, help="sparsity in blocks")
    parser.add_argument("--units", type=int, default=128, help="of the LSTM")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=384, help="of each training; rounded up to whole epochs")
    parser.add_argument("--frequency", type=int, default=20, help="of the schedules that it divides")
    parser.add_argument("--rounds", type=int, default=200, help="timed steps")
    parser.add_argument("--json", help="file for the numbers")
    parser.add_argument("--side", choices=SIDES, help="measure this one only, in this process")
    parser.add_argument("--out", help="with --side: file for its numbers")
    arguments = parser.parse_args()
    if arguments.steps < 192:
        parser.error("--steps: at least 192, two epochs, or files are saved before any block is dropped")
    if arguments.side:
        pathlib.Path(arguments.out).write_text(json.dumps(run_side(arguments.side, arguments), default=float))
        return
    found = {name: in_own_process(name) for name in SIDES}
    print_table(found, arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"arguments": vars(arguments), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
