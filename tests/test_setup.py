"""What a user sees who cannot build."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT


def check_compiler(**environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "PATH")}
    return subprocess.run(
        [sys.executable, "setup.py", "check_compiler"],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "environment,message",
    [
        (dict(PATH="/nowhere"), "no C++ compiler found"),
        (dict(PATH="/nowhere", CXX="no-such-c++"), "CXX is 'no-such-c++', which was not found"),
    ],
)
def test_a_missing_compiler_is_said_before_anything_is_built(environment, message):
    result = check_compiler(**environment)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_compiler_that_is_there_is_found():
    assert check_compiler(PATH=os.environ["PATH"]).returncode == 0
