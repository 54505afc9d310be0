"""The product's tests on a GPU, where there is one: `make gpu-check` runs them. Nobody has run them on one so far."""

import numpy as np
import pytest
import tensorflow as tf

import on_gpu
import test_matmul
import test_narrow_matmul
from bsr_cases import assert_close, random_bsr
from emulated import tests_of
from test_matmul import normal
from tf_blocksparse.custom_ops import block_sparse_matmul

pytestmark = on_gpu.NEEDED

LEFT_OUT = {
    "test_huge_outputs_without_rows_cost_nothing": "allocates nothing on any device",
    "test_indices_overwritten_in_the_graph_after_their_check": "InplaceUpdate of int32 is an op of the CPU",
}
SAME = tests_of(test_matmul, LEFT_OUT)
NARROW = tests_of(test_narrow_matmul, {"test_standard_ops_give_the_same": "has no op"})
globals().update(SAME | {f"{n}_of_16_bits": f for n, f in NARROW.items()})


@pytest.fixture(autouse=True)
def on_the_gpu():
    with on_gpu.everything():
        yield


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

    y, dx, dblocks = on_gpu.without_placement(run)
    on_gpu.assert_there(y, dx, dblocks)
    dense = w.dense()
    assert_close(y, x.astype(np.float64) @ dense, 700, 4)
    assert_close(dx, dy.astype(np.float64) @ dense.T, 900, 4)
    assert_close(dblocks, w.stored(x.T.astype(np.float64) @ dy), batch, 4)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("block_shape", [(4, 4), (16, 16), (32, 32), (64, 64), (128, 128), (12, 2)])
@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_products_of_16_bits_on_the_device(block_shape, batch, dtype):
    w, blocks = test_narrow_matmul.narrow_bsr(700, 900, block_shape, 0.3, 3, order="column", dtype=dtype)
    x, x64 = test_narrow_matmul.normal([batch, 700], dtype)
    dy, dy64 = test_narrow_matmul.normal([batch, 900], dtype, seed=2)

    def run():
        with tf.GradientTape() as tape:
            tape.watch([x, blocks])
            y = block_sparse_matmul(x, blocks, w.indices, w.indptr, **w.layout)
        return y, *tape.gradient(y, [x, blocks], output_gradients=dy)

    y, dx, dblocks = on_gpu.without_placement(run)
    on_gpu.assert_there(y, dx, dblocks)
    dense = w.dense()
    test_narrow_matmul.assert_rounded_once(y, x64 @ dense, dtype, 700)
    test_narrow_matmul.assert_rounded_once(dx, dy64 @ dense.T, dtype, 900)
    test_narrow_matmul.assert_rounded_once(dblocks, w.stored(x64.T @ dy64), dtype, batch)


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_tf32_on_tensor_cores(side):
    w = random_bsr(512, 384, (side, side), 0.5)
    x = normal([300, 512])
    tf.config.experimental.enable_tensor_float_32_execution(True)
    y = block_sparse_matmul(x, *w.arrays, **w.layout)
    error = np.abs(y - x.astype(np.float64) @ w.dense()).max()
    assert error < 8 * 2**-11 * np.sqrt(512)
