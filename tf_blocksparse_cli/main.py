"""Reads the command line."""

import argparse
import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from tf_blocksparse_cli import bench, convert, export, inspect, prune
from tf_blocksparse_cli.arguments import add_json
from tf_blocksparse_cli.doctor import diagnose
from tf_blocksparse_cli.errors import FAILURE, CommandError, one_line
from tf_blocksparse_cli.output import plain

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_COMMANDS = {
    "inspect": (inspect, "what is in a model file or a SavedModel"),
    "prune": (prune, "zero blocks of a trained model at once, for trying"),
    "convert": (convert, "a pruned model to one of block-sparse layers"),
    "export": (export, "a converted model to a SavedModel"),
    "bench": (bench, "time this model on this machine, dense and in blocks"),
}


def main(arguments=None):
    """Runs the command that `arguments` (by default those of the process) name; returns the exit status.

    0: done. 1: it could not be done, and a line on stderr says why. 2: the command line is wrong.
    """
    options = _parser().parse_args(arguments)
    if options.command == "doctor":
        return _doctor(options)
    try:
        return _COMMANDS[options.command][0].run(options)
    except CommandError as error:
        return _fail(options, error, error.status)
    except ImportError as error:
        return _fail(options, f"{one_line(error)} (`tf-blocksparse doctor` says more.)", FAILURE)
    except (ValueError, TypeError, OSError) as error:  # what the package refuses, and files
        return _fail(options, one_line(error), FAILURE)
    except KeyboardInterrupt:
        return _fail(options, "interrupted", 130)


def _parser():
    parser = argparse.ArgumentParser(prog="tf-blocksparse", description="Block-sparse Keras models.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, summary) in _COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary, description=module.DESCRIPTION))
    doctor = commands.add_parser(
        "doctor",
        help="check this installation",
        description="Checks this installation, and says what to do about what is wrong. The exit status is 1 if there "
        "is a problem, and 0 with warnings only.",
    )
    add_json(doctor)
    return parser


def _fail(options, message, status):
    print(f"tf-blocksparse {options.command}: error: {message}", file=sys.stderr)
    return status


def _doctor(options):
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
        table.add_row(status, finding.what, plain(finding.found), plain(finding.advice))
    return table
