"""The products of a GPU on an emulated one: the tests of the CPU's op, and what only a GPU has. None runs on a GPU."""

import numpy as np
import pytest
import tensorflow as tf

import emulated
import test_matmul
import test_narrow_matmul
from bsr_cases import assert_close, random_bsr
from test_matmul import normal
from tf_blocksparse.custom_ops import block_sparse_matmul

pytestmark = emulated.NEEDED

LEFT_OUT = {
    "test_reference": "has no op",
    "test_saved_model": "would be loaded with the CPU's op",
    "test_gradient_of_a_loop_loaded_from_a_saved_model": "would be loaded with the CPU's op",
}
LEFT_OUT_NARROW = {"test_standard_ops_give_the_same": "has no op"}
SAME = emulated.tests_of(test_matmul, LEFT_OUT)
NARROW = {f"{n}_of_16_bits": f for n, f in emulated.tests_of(test_narrow_matmul, LEFT_OUT_NARROW).items()}
globals().update(SAME | NARROW)


@pytest.fixture(autouse=True)
def the_ops_are_emulated():
    with emulated.in_place_of_the_ops(test_matmul, test_narrow_matmul) as patch:
        patch.setattr(test_matmul, "BATCHES", [1, 3, 8, 17, 70])
        yield


def test_the_tests_of_the_cpu_are_here():
    assert len(SAME) > 20 and len(NARROW) >= 8


def test_the_kernels_ran():
    before = emulated.calls("cuLaunchKernel")
    w = random_bsr(24, 20, (4, 4))
    block_sparse_matmul(normal([3, 24]), *w.arrays, **w.layout)
    assert emulated.calls("cuLaunchKernel") > before


def test_a_pattern_is_copied_once():
    w = random_bsr(64, 48, (8, 8), gates=3)
    indices, indptr = tf.constant(w.indices), tf.constant(w.indptr)
    x = normal([5, 64])
    before = emulated.calls("cuMemcpyHtoDAsync_v2")
    for _ in range(4):
        y = block_sparse_matmul(x, w.blocks, indices, indptr, **w.layout)
        assert_close(y, x.astype(np.float64) @ w.dense(), 64, 4)
    assert emulated.calls("cuMemcpyHtoDAsync_v2") == before + 1


def test_tf32_as_tensorflow_says():
    """Where tf.config allows it, operands are rounded to 10 bits of fraction, on tensor cores."""
    w = random_bsr(256, 64, (32, 32), 0.9)
    x = normal([70, 256])
    expected = x.astype(np.float64) @ w.dense()
    exact = block_sparse_matmul(x, *w.arrays, **w.layout)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    rounded = block_sparse_matmul(x, *w.arrays, **w.layout)
    errors = [np.abs(y - expected).max() for y in (exact.numpy(), rounded.numpy())]
    assert errors[0] < 1e-4
    assert 1e-3 < errors[1] < 8 * 2**-11 * np.sqrt(256)
