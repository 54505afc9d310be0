"""What the commands share: a directory that belongs to one run, and rows of results."""

import json
import sys

from rich import box
from rich.console import Console
from rich.table import Table


def claim_directory(out, settings):
    """Makes the directory of a run; lets only a run of the same settings go on in the directory of an earlier one.

    Args:
        out: `pathlib.Path`.
        settings: dict that JSON can hold.

    Raises:
        FileExistsError: if a run of other settings is there.
    """
    file, written = out / "settings.json", json.dumps(settings, indent=1)
    if file.exists() and file.read_text() != written:
        raise FileExistsError(f"{file.parent} has a run of other settings: see {file.name}. Give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(written)


def print_rows(title, columns, rows):
    """Prints rows of cells as a table that is Markdown, too."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
