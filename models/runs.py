"""What commands that train share: settings that a directory keeps, callbacks that let a run go on, files, a table."""

import dataclasses
import json
import os
import shutil
import sys

import keras
from rich import box
from rich.console import Console
from rich.table import Table

import tf_blocksparse as bs
from models.epochs import Backup
from models.workers import WorkerError


def keep_settings(out, settings):
    """Lets only a run of the same settings go on in the directory of an earlier one.

    Args:
        out: path of the directory, which is made.
        settings: dict that JSON can hold.

    Raises:
        FileExistsError: if the directory has a run of other settings, or models of something else.
    """
    file, written = out / "settings.json", json.dumps(settings, indent=1)
    if file.exists() and file.read_text() != written:
        raise FileExistsError(f"{file.parent} has a run of other settings: see {file.name}. Give another --out.")
    if not file.exists() and out.is_dir() and any(path.is_dir() or path.suffix == ".keras" for path in out.iterdir()):
        raise FileExistsError(
            f"{out} has models or directories, and no {file.name} that says of what. Give another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"settings-{os.getpid()}.part"  # several processes may write it, and others read
    part.write_text(written)
    part.replace(file)


def save(model, file):
    """Writes a `.keras` file that is whole whenever it is there."""
    part = file.with_name(f"part-{file.name}")
    model.save(part)
    part.replace(file)


def export(model, path):
    """Writes a SavedModel, also in the place of that of an earlier attempt of the same run."""
    part = path.with_name(f"part-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    bs.export(model, part)
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)


def prepare_and_execute(prepare, options):
    """What a command does: prepares, which finds all that is wrong with its arguments and data, then runs.

    Args:
        prepare: function of the options that returns an object with a method `execute()`.
        options: what the command line was read to.
    """
    try:
        run = prepare(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    try:
        run.execute()
    except WorkerError as error:
        sys.exit(f"error: {error}")


def callbacks(out, name, tensorboard=False, pruned=False):
    """Callbacks for `fit`: a run that was stopped goes on after its last whole epoch, and logs go on.

    Args:
        out: path of the directory.
        name: of the model, which its files begin with.
        tensorboard: bool, whether to write logs for it.
        pruned: bool, whether the model is.
    """
    found = [keras.callbacks.CSVLogger(out / f"{name}.csv", append=True)]
    if tensorboard:
        found.append(keras.callbacks.TensorBoard(out / "tensorboard" / name))
        if pruned:
            found.append(bs.PruningTensorBoard(out / "tensorboard" / f"{name}_pruning"))
    return [*found, Backup(out / f"{name}_backup.weights.h5")]


def print_rows(title, columns, rows):
    """Prints a table that reads well in a terminal and is Markdown, too; the first column is text."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def gradual_schedule(target, steps_per_epoch, epochs):
    """`GradualSparsity` from the second epoch, or in a short run a tenth of it, to 60 % of the epochs."""
    total = steps_per_epoch * epochs
    begin, end = min(steps_per_epoch, total // 10), max(round(0.6 * total), 1)
    return bs.GradualSparsity(target, begin, end, min(100, max(1, (end - begin) // 20)))


def parameters(model):
    """Trainable parameters of a model, and those of them that are not zero: two ints."""
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    return sum(w.size for w in weights), sum(int((w != 0).sum()) for w in weights)


def preset_with(presets, name, settings):
    """The preset of that name with `settings`, a dict from names of its fields, in place of its own.

    Raises:
        ValueError: if there is no such preset or setting, or a setting is of another type.
    """
    if name not in presets:
        raise ValueError(f"There is no preset {name!r}. There are: {', '.join(presets)}.")
    preset, known = presets[name], {field.name for field in dataclasses.fields(presets[name])}
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"The preset has no setting {setting!r}. It has: {', '.join(sorted(known))}.")
        old = getattr(preset, setting)
        if isinstance(old, (int, float)) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"The setting {setting} is {old!r} in the preset: expected a number, got {value!r}.")
        if isinstance(old, int) and (value != int(value) or value < 1):
            raise ValueError(f"The setting {setting} is {old!r} in the preset: expected 1, 2, ..., got {value!r}.")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return dataclasses.replace(preset, **settings)
