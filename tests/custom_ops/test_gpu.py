"""The product's tests on a GPU, where there is one: `make gpu-check` runs them. Nobody has run them on one so far."""

import numpy as np
import pytest
import tensorflow as tf

import test_matmul
from bsr_cases import assert_close, random_bsr
from test_matmul import normal
from tf_blocksparse.custom_ops import block_sparse_matmul

pytestmark = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU found")

LEFT_OUT = {
    "test_huge_outputs_without_rows_cost_nothing": "allocates nothing on any device",
    "test_indices_overwritten_in_the_graph_after_their_check": "InplaceUpdate of int32 is an op of the CPU",
}
SAME = {n: f for n, f in vars(test_matmul).items() if n.startswith("test_") and n not in LEFT_OUT}
globals().update(SAME)


@pytest.fixture(autouse=True)
def on_the_gpu():
    """All ops go to the GPU that have a kernel there; exact float32, as on the CPU."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with tf.device("/GPU:0"):
        yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def without_placement(function):
    """Calls it where TensorFlow must not move an op that has no kernel for the GPU to the CPU."""
    before = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        return function()
    finally:
        tf.config.set_soft_device_placement(before)


@pytest.mark.parametrize(
    "block_shape", [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (12, 2), (1, 16), (3, 5)]
)
@pytest.mark.parametrize("batch", [1, 8, 64, 1000])
@pytest.mark.parametrize("order", ["row", "column"])
def test_products_on_the_device(block_shape, batch, order):
    w = random_bsr(700, 900, block_shape, 0.3, gates=3, order=order)
    x, dy = normal([batch, 700]), normal([batch, 900], seed=2)

    def run():
        blocks, given = tf.constant(w.blocks), tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch([given, blocks])
            y = block_sparse_matmul(given, blocks, w.indices, w.indptr, **w.layout)
        return y, *tape.gradient(y, [given, blocks], output_gradients=tf.constant(dy))

    y, dx, dblocks = without_placement(run)
    assert {t.device.split(":")[-2] for t in (y, dx, dblocks)} == {"GPU"}
    dense = w.dense()
    assert_close(y, x.astype(np.float64) @ dense, 700, 4)
    assert_close(dx, dy.astype(np.float64) @ dense.T, 900, 4)
    assert_close(dblocks, w.stored(x.T.astype(np.float64) @ dy), batch, 4)


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_tf32_on_tensor_cores(side):
    w = random_bsr(512, 384, (side, side), 0.5)
    x = normal([300, 512])
    tf.config.experimental.enable_tensor_float_32_execution(True)
    y = block_sparse_matmul(x, *w.arrays, **w.layout)
    error = np.abs(y - x.astype(np.float64) @ w.dense()).max()
    assert error < 8 * 2**-11 * np.sqrt(512)
