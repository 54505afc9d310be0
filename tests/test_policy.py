"""Rules of the project that a machine can check."""

import platform
import re

import pytest

from helpers import ROOT, run_python

PACKAGE = sorted((ROOT / "tf_blocksparse").rglob("*.py"))


def test_no_private_imports():
    private = re.compile(r"^\s*(from|import) (keras\.src|tensorflow\.python|tf_keras)", re.M)
    guilty = [str(p.relative_to(ROOT)) for p in PACKAGE if private.search(p.read_text())]
    assert not guilty, f"{guilty} import private modules, which change without notice: use the public API"


def test_no_prints_in_the_package():
    guilty = [str(p.relative_to(ROOT)) for p in PACKAGE if re.search(r"^\s*print\(", p.read_text(), re.M)]
    assert not guilty, f"{guilty} print: return a value, log, or raise"


def test_only_one_module_imports_tfmot():
    guilty = [
        str(p.relative_to(ROOT))
        for p in PACKAGE
        if re.search(r"^\s*(from|import) tensorflow_model_optimization", p.read_text(), re.M) and p.name != "tfmot.py"
    ]
    assert not guilty, f"{guilty} import TFMOT unguarded, which turns tf.keras into Keras 2: import pruning/tfmot.py"


FLOATING_POINT_MODE = """
import ctypes

import tensorflow as tf

from tf_blocksparse.custom_ops import library_path


def mode():
    environment = (ctypes.c_uint32 * 16)()  # glibc's fenv_t: 28 bytes of the x87 unit, then MXCSR
    assert ctypes.CDLL("libm.so.6").fegetenv(environment) == 0
    return environment[0] & 0xFFFF, environment[7] & ~0x3F  # without the flags of what has happened so far


before = mode()
ops = tf.load_op_library(library_path())
assert mode() == before, f"loading changed (x87, MXCSR) from {before} to {mode()}"
ops.block_sparse_mat_mul(tf.ones([1, 2]), tf.ones([1, 2, 2]), [0], [0, 1], [], out_features=2)
assert mode() == before, f"a product changed (x87, MXCSR) from {before} to {mode()}"
print(before[1] & 0x8040, 5e-324 * 1.0 > 0.0)
"""


@pytest.mark.skipif(
    (platform.system(), platform.machine(), platform.libc_ver()[0]) != ("Linux", "x86_64", "glibc"),
    reason="reads the control register where glibc on x86-64 puts it",
)
def test_loading_the_library_leaves_the_floating_point_mode_alone():
    """Objects linked with -ffast-math make the whole process flush denormal numbers to zero when they are loaded."""
    printed = run_python(FLOATING_POINT_MODE).split()
    assert printed == ["0", "True"], "denormal numbers are flushed to zero"
