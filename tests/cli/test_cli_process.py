"""The command as a process: quiet, with its exit status, and quick to help."""

import json
import os
import subprocess
import sys

from helpers import ROOT


def process(*arguments, code=None):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "tf_blocksparse_cli"]), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def test_only_the_result_is_written(files):
    result = process("inspect", files / "fast.keras", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["kind"] == "keras"
    assert result.stderr == ""


def test_errors_are_one_line(files):
    result = process("inspect", files / "no.keras")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tf-blocksparse inspect: error: ") and result.stderr.count("\n") == 1
    result = process("prune", files / "dense.keras")
    assert result.returncode == 2 and "usage: tf-blocksparse prune" in result.stderr


def test_help_comes_without_tensorflow():
    code = """
import sys
from tf_blocksparse_cli.main import main
for command in ("inspect", "prune", "convert", "export", "bench", "doctor"):
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert end.code == 0
assert not {"tensorflow", "keras", "numpy"} & set(sys.modules)
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: tf-blocksparse") == 6
