"""What a sweep writes while it goes: tables that are whole at any moment, and logs that outlive a restart."""

import csv
import json
import os
import pathlib
import time

import keras

import tf_blocksparse as bs
from models.epochs import steps_done


class Table:
    """A CSV file with a column `run`; a reader always finds it whole.

    Args:
        path: of the file; it need not be there.
        columns: names, or None: those of its first row.
    """

    def __init__(self, path, columns=None):
        self.path = pathlib.Path(path)
        self.columns = columns
        self.rows = read(path) if self.path.exists() else []

    def replace(self, run, rows):
        """Puts rows in the place of those that the run may have."""
        self.rows = [row for row in self.rows if row["run"] != run] + rows
        if not self.rows:
            return
        columns = self.columns or list(dict.fromkeys(name for row in self.rows for name in row))
        part = self.path.with_suffix(".part")
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)


def read(path):
    """Rows of a CSV file: list of dicts of text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Seconds(keras.callbacks.Callback):
    """Writes how long each epoch took, validation included; of an epoch that was trained twice the last time counts."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{epoch},{time.perf_counter() - self._begun}\n")

    def total(self):
        """Seconds of all epochs: float."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return sum({epoch: float(seconds) for epoch, seconds in (line.split(",") for line in lines)}.values())


class CurveLog(bs.SparsityHistory):
    """A `SparsityHistory` that goes on after a restart, from what it wrote at the end of the last epoch."""

    def __init__(self, path, every):
        super().__init__(every)
        self.path = pathlib.Path(path)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.path.exists():
            self._restore(json.loads(self.path.read_text()))

    def _restore(self, written):
        """Takes what was recorded up to the step that the weights are at."""
        kept = sum(step <= steps_done(self.model) for step in written["steps"])
        self.steps = written["steps"][:kept]
        self.sparsity = {path: values[:kept] for path, values in written["sparsity"].items()}
        self.threshold = {path: values[:kept] for path, values in written["threshold"].items()}

    def on_epoch_end(self, epoch, logs=None):
        self._write()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._write()

    def _write(self):
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"steps": self.steps, "sparsity": self.sparsity, "threshold": self.threshold}))
        part.replace(self.path)

    def rows(self, run):
        """What was recorded, for a table: list of dicts."""
        return [
            {"run": run, "step": step, "weight": path, "sparsity": round(s, 6), "threshold": f"{t:.6g}"}
            for path in self.sparsity
            for step, s, t in zip(self.steps, self.sparsity[path], self.threshold[path], strict=False)
        ]
