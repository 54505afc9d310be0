"""Compares a dense model with its block-sparse one: time side by side, size, and what a fresh process answers."""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.table import Table

import tf_blocksparse as bs

# A process that has never heard of the package: TensorFlow, the op library, and a SavedModel.
_FRESH_PROCESS = """
import sys
import numpy as np
import tensorflow as tf
library, model, inputs, outputs = sys.argv[1:]
tf.load_op_library(library)
served = tf.saved_model.load(model)
np.save(outputs, served.serve(np.load(inputs)).numpy())
assert "tf_blocksparse" not in sys.modules
"""


def interleaved_medians(functions, inputs, rounds=40):
    """Median milliseconds a call of each function; they take turns, so that drift of the machine hits all alike.

    Args:
        functions: Keras models or functions of one tensor; traced into graphs.
        inputs: array.
        rounds: int, calls of each that count, after two that do not.

    Returns:
        Milliseconds, in the order of the functions.
    """
    inputs = tf.constant(inputs)
    traced = [tf.function(function, autograph=False) for function in functions]
    times = [[] for _ in functions]
    for round_number in range(-2, rounds):
        for function, values in zip(traced, times, strict=True):
            start = time.perf_counter()
            function(inputs)
            if round_number >= 0:
                values.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(values) for values in times]


def memory_bytes(model):
    """Bytes of all weights of a model, indices included."""
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.weights)


def directory_bytes(path):
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def fresh_process_outputs(saved_model, inputs):
    """What a SavedModel answers in a new process that imports TensorFlow and the op library only."""
    with tempfile.TemporaryDirectory() as directory:
        files = [pathlib.Path(directory) / name for name in ("inputs.npy", "outputs.npy")]
        np.save(files[0], inputs)
        arguments = [bs.ops.library_path(), pathlib.Path(saved_model).resolve(), *files]
        result = subprocess.run(
            [sys.executable, "-c", _FRESH_PROCESS, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=directory,
        )
        if result.returncode:
            raise RuntimeError(f"The fresh process could not serve {saved_model}:\n{result.stderr}")
        return np.load(files[1])


def print_comparison(title, rows):
    """Prints a table that reads well in a terminal and is Markdown, too.

    Args:
        title: str.
        rows: `(what, format, (dense, block-sparse))` each, the values as numbers.
    """
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for column in ("dense", "block-sparse", "dense / block-sparse"):
        table.add_column(column, justify="right", no_wrap=True)
    for what, form, (dense, sparse) in rows:
        ratio = "" if what.startswith("sparsity") or not sparse else f"{dense / sparse:.2f}"
        table.add_row(what, f"{dense:{form}}", f"{sparse:{form}}", ratio)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
