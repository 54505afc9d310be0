"""Values on the command line that several commands take."""

import argparse


def add_json(parser):
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="write JSON to stdout, and nothing else")


def add_block_shape(parser, default=None, what="blocks of so many rows and columns; one number: square ones"):
    """Adds `--block-shape H W`."""
    parser.add_argument("--block-shape", type=whole, nargs="+", action=_Sides, metavar="N", default=default, help=what)


def add_batch(parser):
    """Adds what products are measured at."""
    parser.add_argument(
        "--batch", type=whole, nargs="+", metavar="N", help="batch sizes to measure at (default: 1 and 16)"
    )


def add_dtype(parser):
    """Adds what blocks are stored and multiplied in."""
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "int8"), default="float32", help="of the stored blocks"
    )
    parser.add_argument(
        "--product-dtype",
        choices=("float32", "bfloat16", "int8"),
        help="what the inputs of products are rounded to (default: as --dtype; float32: not at all)",
    )


def add_selection(parser):
    """Adds which weights are pruned."""
    patterns = "name patterns of layers or weights, as in 'lstm*' '*/recurrent_kernel'"
    parser.add_argument("--include", nargs="+", metavar="PATTERN", help=f"prune only these: {patterns}")
    parser.add_argument("--exclude", nargs="+", metavar="PATTERN", help=f"leave these alone: {patterns}")
    parser.add_argument("--score", choices=("max", "mean", "l2"), default="max", help="of |w| in a block")
    parser.add_argument(
        "--ranking", choices=("layer", "global"), default="layer", help="each weight to the target, or all together"
    )


def whole(text):
    """An int of at least 1."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return value


def fraction(text):
    """A float in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        hint = f"; for {text} % write {value / 100:g}" if 1 <= value < 100 else ""
        raise argparse.ArgumentTypeError(f"expected a fraction in [0, 1), received {text!r}{hint}")
    return value


def positive(text):
    """A float above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


class _Sides(argparse.Action):
    """One or two numbers as `(height, width)`."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            parser.error(f"{option_string} takes a height and a width, or one number. Received: {values}")
        setattr(namespace, self.dest, (values[0], values[-1]))
