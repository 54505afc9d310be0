"""What the commands are asked in the same words: data, preset, directory, how to prune; and kinds of values."""

import argparse
import math
import pathlib
import time

import tf_blocksparse as bs


def command_parser(command, description, data, presets, preset="small", needs_data=True):
    """A parser of what every command that trains is asked.

    Args:
        command: name of the module.
        description: of `--help`.
        data: what `--data` is, for `--help`.
        presets: dict by name.
        preset: name of the one that is taken by default.
        needs_data: bool, whether `--data` must be given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m models.{command}", description=description)
    parser.add_argument("--data", required=needs_data, help=data)
    parser.add_argument("--preset", choices=presets, default=preset)
    parser.add_argument("--seed", type=at_least(0), default=0)
    now = pathlib.Path("runs") / time.strftime(f"{command}-%Y%m%d-%H%M%S")
    text = f"directory for the results; a run that was stopped goes on in its own (default: runs/{command}-TIME)"
    parser.add_argument("--out", type=pathlib.Path, default=now, help=text)
    parser.add_argument("--tensorboard", action="store_true", help="write logs for TensorBoard below --out")
    return parser


def add_preset_arguments(parser, *counts):
    """Adds whole numbers, and the learning rate, that may be given in place of the preset's; returns the group."""
    group = parser.add_argument_group("in place of the preset's")
    for name in counts:
        group.add_argument(f"--{name}", type=at_least(1))
    group.add_argument("--learning-rate", type=positive)
    return group


def add_pruning_arguments(parser, target, block_shape, group_lasso="factor; default: none"):
    """Adds what all commands that prune are asked; returns the group.

    Args:
        parser: an `argparse.ArgumentParser`.
        target: default sparsity; None: the preset has one or several.
        block_shape: default `(height, width)`.
        group_lasso: help of `--group-lasso`.
    """
    group = parser.add_argument_group("pruning")
    if target is None:
        group.add_argument("--target", type=float, nargs="+", help="sparsities, fractions; default: the preset's")
    else:
        group.add_argument("--target", type=float, default=target, help=f"sparsity, a fraction (default: {target})")
    shown = " ".join(map(str, block_shape))
    add_block_shape(group, "--block-shape", block_shape, f"height and width (default: {shown})")
    group.add_argument("--group-lasso", type=float, help=group_lasso)
    group.add_argument("--min-sparsity", type=fraction, help="layers below it stay dense; default: measured")
    return group


def add_step_arguments(group):
    """Adds the steps of a schedule, which `threshold_ramps.planned_steps()` fills in by [BSR] Table 1."""
    group.add_argument("--begin-step", type=at_least(0), help="default: the second epoch, or half of --end-step")
    group.add_argument("--ramp-step", type=at_least(0), help="where a ramp gets steeper; default: 20 %% of the epochs")
    group.add_argument("--end-step", type=at_least(0), help="default: 40 %% of the epochs")
    group.add_argument("--frequency", type=at_least(1), help="steps between updates; default: 100, or 10 an epoch")


def add_block_shape(group, flag, default, text):
    """Adds a block shape: one number or two, read as `(height, width)`."""
    group.add_argument(flag, type=at_least(1), nargs="+", default=default, action=_BlockShape, help=text)


class _BlockShape(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"{' '.join(map(str, values))}: expected height and width")
        setattr(namespace, self.dest, (values[0], values[-1]))


def at_least(least):
    """A kind of value: whole numbers from `least` on."""

    def read(word):
        if not word.removeprefix("-").isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word}: expected a whole number, {least} or more")
        return int(word)

    return read


def positive(word):
    """A kind of value: numbers above 0."""
    return _number(word, lambda value: 0 < value < math.inf, "a number above 0")


def fraction(word):
    """A kind of value: fractions, as sparsities are."""
    return _number(word, lambda value: 0 <= value <= 1, "a fraction, from 0 to 1")


def _number(word, is_one, expected):
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not is_one(value):
        raise argparse.ArgumentTypeError(f"{word}: expected {expected}")
    return value


def given(options, *names):
    """Those of the options that were given: dict, lists as tuples."""
    found = {name: getattr(options, name) for name in names}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items() if v is not None}


def group_lasso(options):
    """The regularizer that `--group-lasso` asks for, or None."""
    return None if options.group_lasso is None else bs.BlockGroupLasso(options.group_lasso)
