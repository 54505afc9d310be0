"""The grid of a sweep: which runs there are, and how the command line names them."""

import argparse
import dataclasses
import itertools
import json
import pathlib
import shlex

from models.sweep_methods import METHODS, SINGLE


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the grid: what sets it apart from the others."""

    method: str
    target: float
    block_shape: tuple | None
    factor: float | None
    seed: int

    @property
    def run(self):
        """Its name, that of its directory."""
        parts = [self.method]
        if self.target:
            parts.append(f"{self.target:g}")
        if self.block_shape:
            parts.append(by(self.block_shape))
        if self.factor is not None:
            parts.append(f"factor{self.factor:g}")
        return "-".join([*parts, f"seed{self.seed}"])


def grid(options):
    """The cells, the dense ones first: the slopes of thresholds come from them."""
    cells = []
    for seed, name in itertools.product(options.seeds, options.methods):
        method = METHODS[name]
        factor = options.factors.get(name, method.factor)
        shapes = [None] if method.schedule is None else options.block_shapes if method.in_blocks else [SINGLE]
        targets = [0.0] if name == "dense" else options.sparsities
        cells += [Cell(name, target, shape, factor, seed) for shape in shapes for target in targets]
    needed = [Cell("dense", 0.0, None, None, cell.seed) for cell in cells]  # of which figures show what was lost
    return list(dict.fromkeys([*needed, *cells]))


def by(shape):
    """A block shape as text: `"12x2"`."""
    return "x".join(map(str, shape))


def command(options, cell):
    """The command that makes this one run."""
    words = ["python", "-m", "models.sweep", "--model", options.model]
    words += [] if options.data is None else ["--data", str(options.data)]
    words += [] if options.preset is None else ["--preset", options.preset]
    for name, value in options.set:
        words += ["--set", f"{name}={json.dumps(value)}"]
    words += ["--methods", cell.method, "--seeds", str(cell.seed)]
    words += ["--sparsities", f"{cell.target:g}"] if cell.target else []
    words += ["--block-shapes", by(cell.block_shape)] if METHODS[cell.method].in_blocks else []
    words += [] if cell.factor is None else ["--factor", f"{cell.method}={cell.factor:g}"]
    return shlex.join(words)


def _block_shape(word):
    """`"16"` or `"12x2"` -> `(height, width)`."""
    try:
        sides = [int(part) for part in word.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: expected a block shape such as 16 or 12x2")
    return sides[0], sides[-1]


def _assignment(word):
    """`"name=value"` -> `(name, value)`, the value read as JSON, or as text if it is none."""
    name, is_there, value = word.partition("=")
    if not is_there or not name:
        raise argparse.ArgumentTypeError(f"{word!r}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _sparsity(word):
    """A fraction above 0 and below 1."""
    value = float(word)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{word}: expected a fraction above 0 and below 1, as 0.9")
    return value


def parse(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.sweep", description="Trains a grid of sparse models.")
    parser.add_argument("--model", default="word_lm", help="a module of models/ that can be swept (default: word_lm)")
    parser.add_argument("--data", help="the model's directory of data")
    parser.add_argument("--preset", help="of the model")
    parser.add_argument("--set", type=_assignment, nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["dense", "bp", "wp", "agp"])
    parser.add_argument("--sparsities", type=_sparsity, nargs="+", default=[0.65, 0.8, 0.9])
    parser.add_argument("--block-shapes", type=_block_shape, nargs="+", default=[(4, 4), (16, 16)])
    parser.add_argument("--factor", type=_assignment, nargs="+", action="extend", default=[], metavar="METHOD=FACTOR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=pathlib.Path, help="directory for the results (default: runs/sweep-MODEL)")
    parser.add_argument("--figures", action="store_true", help="draw what --out has, train nothing")
    options = parser.parse_args(arguments)
    options.factors = dict(options.factor)
    for name, factor in options.factors.items():
        if name not in METHODS or METHODS[name].penalty is None:
            parser.error(
                f"--factor {name}: no method with a penalty; there are {[m for m in METHODS if METHODS[m].penalty]}"
            )
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 0:
            parser.error(f"--factor {name}={factor}: expected a number of at least 0")
    options.out = options.out or pathlib.Path("runs") / f"sweep-{options.model}"
    return options
