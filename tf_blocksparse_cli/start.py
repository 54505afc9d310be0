"""Starts TensorFlow without the lines that it and its libraries write when they start."""

import contextlib
import os
import sys

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def start_tensorflow():
    """Imports TensorFlow, Keras and this package, and runs a first op; quietly, unless the user set a log level."""
    with contextlib.nullcontext() if _LEVEL in os.environ else _no_stderr():
        os.environ.setdefault(_LEVEL, "3")
        import tensorflow as tf

        import tf_blocksparse  # noqa: F401  registers its layers and loads its ops

        tf.zeros([1])  # which looks for devices


@contextlib.contextmanager
def _no_stderr():
    """Drops what is written to the file descriptor of stderr: some is written before any log level counts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
