"""What commands that train share: settings that a directory keeps, callbacks that let a run go on, pruning, a table."""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import keras
from rich import box
from rich.console import Console
from rich.table import Table

import tf_blocksparse as bs


def keep_settings(out, settings):
    """Lets only a run of the same settings go on in the directory of an earlier one.

    Args:
        out: path of the directory, which is made.
        settings: dict that JSON can hold.

    Raises:
        FileExistsError: if the directory has a run of other settings.
    """
    file, written = out / "settings.json", json.dumps(settings, indent=1)
    if file.exists() and file.read_text() != written:
        raise FileExistsError(f"{file.parent} has a run of other settings: see {file.name}. Give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(written)


def directory(out, command):
    """`out`, or if it is None a directory of the present time for that command: path."""
    return out or pathlib.Path("runs") / time.strftime(f"{command}-%Y%m%d-%H%M%S")


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
    run.execute()


def callbacks(out, name, tensorboard=False, pruned=False):
    """Callbacks for `fit`: a run that was stopped goes on after its last whole epoch, and logs go on.

    Args:
        out: path of the directory.
        name: of the model, which its files begin with.
        tensorboard: bool, whether to write logs for it.
        pruned: bool, whether the model is.
    """
    found = [
        keras.callbacks.BackupAndRestore(out / f"{name}_backup", delete_checkpoint=False),
        keras.callbacks.CSVLogger(out / f"{name}.csv", append=True),
    ]
    if tensorboard:
        found.append(keras.callbacks.TensorBoard(out / "tensorboard" / name))
        if pruned:
            found.append(bs.PruningTensorBoard(out / "tensorboard" / f"{name}_pruning"))
    return found


def print_rows(title, columns, rows):
    """Prints a table that reads well in a terminal and is Markdown, too; the first column is text."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def add_pruning_arguments(parser, target, block_shape):
    """Adds what all commands that prune are asked in the same words.

    Args:
        parser: an `argparse.ArgumentParser`.
        target: default sparsity; None: the preset has one or several.
        block_shape: default `(height, width)`.
    """
    pruning = parser.add_argument_group("pruning")
    if target is None:
        pruning.add_argument("--target", type=float, nargs="+", help="sparsities, fractions; default: the preset's")
    else:
        pruning.add_argument("--target", type=float, default=target, help=f"sparsity, a fraction (default: {target})")
    shown = " ".join(map(str, block_shape))
    pruning.add_argument(
        "--block-shape", type=side, nargs="+", default=block_shape, help=f"height and width (default: {shown})"
    )
    pruning.add_argument("--group-lasso", type=float, help="factor; default: none")
    pruning.add_argument("--min-sparsity", type=float, help="layers below it stay dense; default: measured")


def side(word):
    """Height or width of a block, from the command line."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: expected height and width, 1 or more each")
    return int(word)


def check_block_shape(parser, options):
    """Makes `options.block_shape` a pair, or ends the command."""
    if len(options.block_shape) > 2:
        parser.error(f"--block-shape {' '.join(map(str, options.block_shape))}: expected height and width")
    options.block_shape = (options.block_shape[0], options.block_shape[-1])


def group_lasso(options):
    """The regularizer that `--group-lasso` asks for, or None."""
    return None if options.group_lasso is None else bs.BlockGroupLasso(options.group_lasso)


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
