"""Files for the tests of the command line."""

import contextlib
import io
import json

import keras
from keras import layers

from tf_blocksparse_cli.main import main


def small_model(name="small"):
    """Look-ups, a recurrent layer and a product."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            layers.Embedding(24, 16, name="words"),
            layers.SimpleRNN(16, return_sequences=True, name="rnn"),
            layers.Dense(10, name="out"),
        ],
        name=name,
    )


def run(*arguments):
    """`(exit status, stdout, stderr)` of the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def run_json(*arguments):
    """What a command that succeeds writes with `--json`."""
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def error_of(*arguments, status=1):
    """The one line that a command that fails writes to stderr, and nothing to stdout."""
    found, out, err = run(*arguments)
    assert (found, out) == (status, ""), (found, out, err)
    *_, line = err.strip().splitlines()
    assert line.startswith("tf-blocksparse ") and "Traceback" not in err
    return line
