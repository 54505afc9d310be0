"""Reads the command line."""

import argparse
import dataclasses
import json

from rich.console import Console
from rich.table import Table

from tf_blocksparse_cli.doctor import diagnose

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def main(arguments=None):
    """Runs the command that `arguments` (by default those of the process) name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tf-blocksparse", description="Block-sparse Keras models.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="check this installation",
        description="Checks this installation, and says what to do about what is wrong. The exit status is 1 if there "
        "is a problem, and 0 with warnings only.",
    )
    doctor.add_argument("--json", action="store_true", help="write JSON: a list of findings")
    options = parser.parse_args(arguments)
    findings = diagnose()
    console = Console(soft_wrap=options.json)
    if options.json:
        console.print_json(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        console.print(_table(findings))
    return int(any(finding.status == "problem" for finding in findings))


def _table(findings):
    table = Table("", "")
    for column in ("found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        status = f"[{_COLOURS[finding.status]}]{finding.status}[/]"
        table.add_row(status, finding.what, _plain(finding.found), _plain(finding.advice))
    return table


def _plain(text):
    return text.replace("[", r"\[")  # which rich reads as markup
