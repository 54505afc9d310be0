"""Where a command writes: results to stdout, everything else to stderr."""

import contextlib
import json
import logging
import sys

from rich.console import Console
from rich.table import Table

from tf_blocksparse_cli.start import start_tensorflow

_LOGGER = "tf_blocksparse"


@contextlib.contextmanager
def work(what):
    """Shows what a command is at on stderr, and keeps everything that libraries print off stdout.

    Args:
        what: str, what is done first; then whatever the package logs.
    """
    console = Console(stderr=True)
    with contextlib.redirect_stdout(sys.stderr):
        with console.status("starting TensorFlow"):
            start_tensorflow()
        with console.status(what) as status, _logged(console, status):
            yield status


@contextlib.contextmanager
def _logged(console, status):
    """What the package logs: information as the status, warnings to stay."""
    handler, logger = _Handler(console, status), logging.getLogger(_LOGGER)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Handler(logging.Handler):
    def __init__(self, console, status):
        super().__init__()
        self._console, self._status = console, status

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            self._console.print(f"warning: {record.getMessage()}", markup=False, highlight=False, soft_wrap=True)
        elif self._console.is_terminal:
            self._status.update(plain(record.getMessage()))


def write(result):
    """Writes a result for people to stdout: a text, a rich table, or what has a text of its own."""
    if isinstance(result, Table):
        Console(width=None if sys.stdout.isatty() else 120).print(result)
    else:
        print(str(result).rstrip())


def write_json(values):
    """Writes a result for programs to stdout: JSON and nothing else."""
    print(json.dumps(values, indent=2))


def plain(text):
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
