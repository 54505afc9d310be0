"""Products with chosen blocks, and the choice, on a GPU, where there is one. Nobody has run them on one so far."""

import numpy as np
import pytest
import tensorflow as tf

import on_gpu
import test_choose_blocks
import test_cuda_dynamic
import test_dynamic_matmul
from bsr_cases import assert_close
from emulated import tests_of
from test_dynamic_matmul import random_case
from tf_blocksparse.custom_ops import choose_blocks, dynamic_block_matmul

pytestmark = on_gpu.NEEDED

LEFT_OUT = {
    **test_cuda_dynamic.LEFT_OUT,
    "test_ids_overwritten_in_the_graph_after_their_check": "InplaceUpdate of int32 is an op of the CPU",
}
CHOICE = {f"{n}_of_the_choice": f for n, f in tests_of(test_choose_blocks, {}).items()}
globals().update(tests_of(test_dynamic_matmul, LEFT_OUT) | CHOICE)


@pytest.fixture(autouse=True)
def on_the_gpu():
    with on_gpu.everything():
        yield


@pytest.mark.parametrize("block_shape", [(4, 4), (16, 16), (32, 64), (128, 128)])
@pytest.mark.parametrize("batch", [1, 8, 100, 1000])
def test_on_the_device(block_shape, batch):
    case = random_case(700, 900, block_shape, batch, share=0.2)

    def run():
        inputs = [tf.constant(a) for a in (case.x, case.blocks, case.block_gates)]
        ids, dy = tf.identity(tf.constant(case.block_ids)), tf.ones([batch, 900])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            x, blocks, gates = inputs
            y = dynamic_block_matmul(x, blocks, ids, gates, **case.sizes)
        return y, *tape.gradient(y, inputs, output_gradients=dy)

    y, *gradients = on_gpu.without_placement(run)
    on_gpu.assert_there(y, *gradients)
    assert_close(y, case.product(), 700, 8)
    for a, e in zip(gradients, case.gradients(np.ones([batch, 900])), strict=True):
        assert_close(a, e, max(900, batch), 8)


def test_the_choice_on_the_device():
    scores = test_choose_blocks.normal([50, 2304])
    ids, gates = on_gpu.without_placement(lambda: choose_blocks(tf.constant(scores), 230))
    on_gpu.assert_there(gates)
    expected_ids, expected_gates = test_choose_blocks.expected(scores, 230)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(gates, expected_gates, rtol=1e-6)
