"""Finds and loads the library of ops, once in a process.

A library built with TensorFlow's C++ interface fits one minor version of TensorFlow. Its file name
says which, so that a wrong one is refused with words instead of an undefined symbol.
"""

import ctypes
import functools
import re
from pathlib import Path

import tensorflow as tf

_DIRECTORY = Path(__file__).parent
_NAME = re.compile(r"_block_sparse_ops\.tf-(\d+\.\d+)\.so")


def _find(directory, tf_version):
    """The library in `directory` that fits TensorFlow `tf_version`."""
    minor = ".".join(tf_version.split(".")[:2])
    built = {}
    for path in sorted(Path(directory).glob("_block_sparse_ops.tf-*.so")):
        match = _NAME.fullmatch(path.name)
        if match:
            built[match.group(1)] = path
    if minor in built:
        return str(built[minor])
    if not built:
        raise ImportError(
            f"The library of block-sparse ops is not in {directory}: it has not been built. Run "
            "`pip install .` in the source directory of tf_blocksparse (or `pip install -e .` to "
            "work on it); that needs a C++17 compiler."
        )
    versions = " and ".join(built)
    raise ImportError(
        f"The block-sparse ops were built for TensorFlow {versions}, but TensorFlow {tf_version} "
        f"is installed. Run `pip install 'tensorflow=={versions.split(' ')[-1]}.*'`, or install "
        f"a version of tf_blocksparse that supports TensorFlow {minor}."
    )


def library_path():
    """Path of the library of ops, for a process that imports TensorFlow alone.

    A SavedModel that uses the ops needs them registered before it is loaded. Importing
    `tf_blocksparse` does that; where only TensorFlow is wanted, load the library by its path.

    Returns:
        Path of the shared library, a string.

    Raises:
        ImportError: if the library is missing, or was built for another version of TensorFlow.

    Example:
    ```python
    tf.load_op_library("<what library_path() returned>")
    tf.saved_model.load("model")
    ```
    """
    return _find(_DIRECTORY, tf.__version__)


@functools.cache
def ops():
    """The module of generated op functions; loading the library a second time would give none."""
    return tf.load_op_library(library_path())


def instruction_set():
    """Names of the instruction sets that this process multiplies with, that of float32 blocks last.

    Returns:
        Tuple of strings, such as `("avx512_vnni", "avx512_bf16", "avx512")` or `("generic",)`; empty if
        `TF_BLOCKSPARSE_MAX_ISA` names none, so that every op fails.

    Raises:
        ImportError: as `library_path()`.
    """
    ops()  # so that it is TensorFlow that loads the library
    function = ctypes.CDLL(library_path()).TfBlockSparseInstructionSet
    function.restype = ctypes.c_char_p
    return tuple((function() or b"").decode().split())
