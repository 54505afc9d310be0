"""Trains a model in many ways, to many sparsities, with many block shapes, and draws what the papers draw of that.

    python -m models.sweep --data ptb --out runs/ptb                 # the word language model, its preset `cut`
    python -m models.sweep --model qrnn_lm --data ptb --preset small --methods dense dynamic block_agp --block-shapes 32
    python -m models.sweep --out runs/ptb --figures                  # draws only

One run for every method, sparsity, block shape and seed that the command names; `models.sweep_methods` says what each
method does. `results.csv` has a row for each run that has ended; `curves.csv`, `layers.csv` and `connections.csv` have
its sparsity over time, by weight, and how many output connections its neurons have left. A sweep that was stopped goes
on with the same command, in the middle of a run after the last whole epoch of that. More methods, sparsities, block
shapes or seeds may be asked for later in the same directory; other settings may not.

Any module can be swept that has a function `sweep_task(data, preset, settings)`, which returns an object with

- `metric`: the name, among those of `scores()`, of what figures show; lower is better, or with an attribute
  `higher_is_better = True` higher;
- `epochs`, `steps_per_epoch`: of every training;
- `units`: the width that `build()` makes of itself;
- `include`: what `prune_blocks(include=...)` is given: the weights that the model's paper prunes; None: all;
- `build(seed, units=None, dynamic=None)`: a new, uncompiled `keras.Model`, the same for the same seed, of that width.
  `dynamic` is None or `(block_shape, schedule)`: layers that choose their blocks; a model that has no such layers
  raises `ValueError`;
- `check_blocks(block_shape)`, optional: raises `ValueError` if the model cannot be pruned in such blocks;
- `fit(model, callbacks)`: compiles the model and trains all epochs, each the same when it comes after a restart;
- `scores(model)`: dict from name to float.

`data` is a directory or None, `preset` a name or None (what a sweep takes by default), `settings` a dict from
`--set NAME=VALUE`. It raises `ValueError` or `OSError` if there is anything wrong with them.
`language_modelling.LanguageModelTask` is one.
"""

import importlib
import json
import math
import pathlib
import sys
import time

import keras
import numpy as np

import tf_blocksparse as bs
from models import runs, sweep_figures
from models.epochs import Backup
from models.sweep_grid import Cell, by, command, grid, parse
from models.sweep_methods import METHODS, SINGLE, prune, rising_sparsity, steps_of
from models.sweep_tables import CurveLog, Seconds, Table

COLUMNS = {
    "curves": ("run", "step", "weight", "sparsity", "threshold"),
    "layers": ("run", "weight", "sparsity", "elements"),
    "connections": ("run", "connections", "neurons"),
}


class Sweep:
    """All runs of a grid, in one directory."""

    def __init__(self, options):
        self.options, self.out = options, options.out
        module = importlib.import_module(options.model if "." in options.model else f"models.{options.model}")
        if not hasattr(module, "sweep_task"):
            raise ValueError(f"{module.__name__} has no function sweep_task(data, preset, settings): see models.sweep.")
        self.task = module.sweep_task(options.data, options.preset, dict(options.set))
        self.steps = steps_of(self.task.epochs, self.task.steps_per_epoch)
        self.cells = grid(options)
        self._widths = {}  # target -> of the dense model as small as one pruned to it
        self._check_methods()
        self._keep_settings()
        self.results = Table(self.out / "results.csv")
        self.details = {name: Table(self.out / f"{name}.csv", columns) for name, columns in COLUMNS.items()}

    def _check_methods(self):
        """Finds what cannot be pruned as asked for before anything trains; learns which weights are pruned."""
        first = self.cells[0].seed
        model = self.build(first)
        self.parameters = _parameters(model)
        bs.prune_blocks(model, SINGLE, bs.ConstantSparsity(0.5), include=self.task.include)
        self.pruned = {w.path: w for w in bs.report(model).weights if w.state == "pruned"}
        for cell in self.cells:
            if cell.method == "dynamic":
                self.build(first, dynamic=(cell.block_shape, rising_sparsity(cell.target, self.steps)))
            elif METHODS[cell.method].is_sparse:
                getattr(self.task, "check_blocks", lambda shape: None)(cell.block_shape)
                bs.GradualSparsity(cell.target, 0, 1)  # raises if the target is none

    def _keep_settings(self):
        """Lets only a sweep of the same model, data and settings go on in the directory of an earlier one."""
        options = self.options
        data = None if options.data is None else str(pathlib.Path(options.data).resolve())
        settings = {"model": options.model, "preset": options.preset, "data": data, "set": dict(options.set)}
        settings.update(metric=self.task.metric, epochs=self.task.epochs, steps_per_epoch=self.task.steps_per_epoch)
        if getattr(self.task, "higher_is_better", False):
            settings["higher_is_better"] = True
        runs.keep_settings(self.out, settings)

    def build(self, seed, **arguments):
        """A new model; nothing of the one before stays."""
        keras.backend.clear_session()
        return self.task.build(seed, **arguments)

    def directory(self, cell):
        """Where a run keeps what it needs to go on."""
        return self.out / "runs" / cell.run

    def execute(self):
        """Trains what has not been trained yet, a row for each; then draws."""
        done = {row["run"] for row in self.results.rows}
        missing = [cell for cell in self.cells if cell.run not in done]
        print(f"{len(self.cells)} runs, {len(self.cells) - len(missing)} of them done before: {self.out}", flush=True)
        begun = time.monotonic()
        for number, cell in enumerate(missing, start=1):
            print(f"\n[{number}/{len(missing)}] {cell.run}{_time_left(begun, number, len(missing))}", flush=True)
            row = self.run(cell)
            print(", ".join(f"{name} {value}" for name, value in row.items() if name in self._shown(row)), flush=True)
        for file in sweep_figures.draw_all(self.out):
            print(file)

    def _shown(self, row):
        return ("sparsity", "live_parameters", "comput", "train_seconds", self.task.metric)

    def run(self, cell):
        """Trains one model, or goes on training it; writes its rows: the one of `results.csv`."""
        directory = self.directory(cell)
        directory.mkdir(parents=True, exist_ok=True)
        model = self.model(cell)
        log = CurveLog(directory / "curves.json", every=max(1, self.steps.total // 100))
        seconds = Seconds(directory / "seconds.csv")
        backup = Backup(directory / "backup.weights.h5")
        self.task.fit(model, [seconds, log, backup])
        if cell.method == "dense":
            model.save_weights(directory / "model.weights.h5")
        row = self.row(cell, model, seconds.total())
        for name, rows in self._detail_rows(cell, model, log).items():
            self.details[name].replace(cell.run, rows)
        self.results.replace(cell.run, [row])
        backup.path.unlink()
        return row

    def model(self, cell):
        """A fresh model that will train as the cell says."""
        if cell.method == "small_dense":
            return self.build(cell.seed, units=self.units_for(cell.target))
        if cell.method == "dynamic":
            return self.build(cell.seed, dynamic=(cell.block_shape, rising_sparsity(cell.target, self.steps)))
        if METHODS[cell.method].schedule != "ramp":
            model = self.build(cell.seed)
            if not METHODS[cell.method].is_sparse:
                return model
            dense = None
        else:
            model, dense = self.build(cell.seed), self.task.build(cell.seed)
            dense.load_weights(self.directory(Cell("dense", 0.0, None, None, cell.seed)) / "model.weights.h5")
        prune(model, cell.method, cell.target, cell.block_shape, cell.factor, self.steps, self.task.include, dense)
        keras.utils.set_random_seed(cell.seed)  # as for the dense run, which builds one model only
        return model

    def units_for(self, target):
        """The width of the dense model that has as many parameters as a model pruned to `target` has left."""
        if target in self._widths:
            return self._widths[target]
        elements = sum(math.prod(w.matrix_shape) for w in self.pruned.values())
        wanted = self.parameters - target * elements
        low, high = 1, self.task.units
        while low < high:  # the widest that has no more
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _parameters(self.build(0, units=middle)) <= wanted else (low, middle - 1)
        self._widths[target] = low
        return low

    def row(self, cell, model, seconds):
        """What `results.csv` says of a run."""
        weights = {w.path: w for w in bs.report(model).weights}
        pruned = [w for w in weights.values() if w.state == "pruned"]
        parameters, elements = _parameters(model), sum(math.prod(w.matrix_shape) for w in pruned)
        zeros = sum(round(w.weight_sparsity * math.prod(w.matrix_shape)) for w in pruned)
        whole = sum(w.multiply_adds for w in self.pruned.values())
        computed, gates = sum(weights[path].multiply_adds for path in self.pruned if path in weights), 0
        sparsity = sum(w.sparsity * math.prod(w.matrix_shape) for w in pruned) / elements if pruned else 0.0
        if cell.method == "dynamic":
            parts = bs.computation(model)
            computed, gates = sum(part.chosen for part in parts), sum(part.gate for part in parts)
            sparsity = 1 - computed / sum(part.dense for part in parts)
        options = self.options
        return {
            "run": cell.run,
            "model": options.model,
            "preset": options.preset or "",
            "settings": json.dumps(dict(options.set)),
            "method": cell.method,
            "target_sparsity": cell.target,
            "block_shape": by(cell.block_shape) if cell.block_shape else "",
            "factor": "" if cell.factor is None else cell.factor,
            "seed": cell.seed,
            "units": self.units_for(cell.target) if cell.method == "small_dense" else self.task.units,
            "epochs": self.task.epochs,
            "steps": self.steps.total,
            "sparsity": round(sparsity, 6),
            "parameters": parameters,
            "live_parameters": parameters - zeros,
            "comput": round(computed / whole, 6),
            "gates": round(gates / whole, 6),
            "train_seconds": round(seconds, 1),
            **{name: round(float(value), 6) for name, value in self.task.scores(model).items()},
            "command": command(options, cell),
        }

    def _detail_rows(self, cell, model, log):
        rows = {"curves": log.rows(cell.run), "layers": [], "connections": []}
        pruned = [w for w in bs.report(model).weights if w.state == "pruned"]
        for w in pruned:
            elements = math.prod(w.matrix_shape)
            rows["layers"].append({"run": cell.run, "weight": w.path, "sparsity": w.sparsity, "elements": elements})
        if pruned:
            kept = bs.output_connections(model)
            numbers = np.unique(np.concatenate([kept[w.path] for w in pruned]), return_counts=True)
            for values in zip(*numbers, strict=True):
                rows["connections"].append(
                    dict(zip(COLUMNS["connections"], (cell.run, *map(int, values)), strict=True))
                )
        return rows


def _parameters(model):
    """Trainable parameters of a model: int."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def _time_left(begun, number, runs):
    """How long the other runs will take, if they take as long as those before, for the progress line."""
    if number == 1:
        return ""
    seconds = (time.monotonic() - begun) / (number - 1) * (runs - number + 1)
    return f", about {seconds / 60:.0f} minutes left"


def main(arguments=None):
    """The command: prepares, which finds all that is wrong with its arguments and data, then runs."""
    options = parse(arguments)
    try:
        if options.figures:
            print(*sweep_figures.draw_all(options.out), sep="\n")
            return
        sweep = Sweep(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    sweep.execute()


if __name__ == "__main__":
    main()
