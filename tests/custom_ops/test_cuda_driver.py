"""The driver of a GPU as the ops meet it, each in a process of its own, on an emulated one."""

import pytest

import emulated
from helpers import run_python

pytestmark = pytest.mark.skipif(
    not emulated.BUILT, reason=f"{emulated.OPS} is not built: run `make cc-test` where NVRTC is installed"
)

ONE_PRODUCT = """
import numpy as np
import tensorflow as tf
import emulated
from bsr_cases import assert_close, random_bsr
ops = emulated.load()
for shape in [(4, 4), (16, 16), (32, 32), (3, 5)]:
    w = random_bsr(70, 64, shape, 0.5)
    for batch in (1, 5, 40):
        x = np.random.default_rng(0).standard_normal([batch, 70]).astype(np.float32)
        y = ops.block_sparse_mat_mul(x, *w.arrays, [], out_features=64)
        terms = 70 if ARCHITECTURE < 80 else 70 * 2**26  # with TF32
        assert_close(y, x.astype(np.float64) @ w.dense(), terms, 4)
print("all equal")
"""


def run_emulated(code, **environment):
    here = str(emulated.ROOT / "tests" / "custom_ops")
    return run_python(f"import sys\nsys.path.insert(0, {here!r})\n" + code, **environment)


@pytest.mark.parametrize("architecture", [70, 75, 86, 130])
def test_every_architecture(architecture):
    """The image that it gets, which is 8.6's of 8.0 and 13.0's PTX, has every kernel that is asked for."""
    code = f"ARCHITECTURE = {architecture}\n" + ONE_PRODUCT
    assert "all equal" in run_emulated(code, FAKE_CUDA_ARCHITECTURE=str(architecture))


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"TF_BLOCKSPARSE_LIBCUDA": "/no/libcuda.so"}, "the CUDA driver could not be loaded"),
        ({"FAKE_CUDA_DRIVER_VERSION": "11080"}, "the CUDA driver is too old: it supports CUDA 11.8"),
        ({"FAKE_CUDA_ARCHITECTURE": "61"}, "no kernels for this GPU, of compute capability 6.1"),
        ({"FAKE_CUDA_FAIL": "cuLaunchKernel"}, "starting few_f32_1 failed"),
    ],
)
def test_errors_of_the_driver(environment, message):
    code = f"""
import os
import emulated
import tensorflow as tf
ops = emulated.load()
os.environ.update({environment!r})
try:
    ops.block_sparse_mat_mul(tf.ones([1, 4]), tf.ones([1, 4, 4]), [0], [0, 1], [], out_features=4)
except tf.errors.OpError as error:
    print(error.message)
"""
    assert message in run_emulated(code)
