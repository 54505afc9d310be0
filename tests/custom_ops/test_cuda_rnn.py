"""Recurrent layers as loops of launches on an emulated GPU: the tests of the CPU's ops. None runs on a GPU."""

import numpy as np
import pytest
import tensorflow as tf

import emulated
import test_rnn
import test_rnn_errors
from tf_blocksparse.custom_ops import block_sparse_lstm

pytestmark = emulated.NEEDED

LEFT_OUT = {
    "test_drawn_settings_hold_every_value": "has no op",
    "test_saved_model": "would be loaded with the CPU's op",
    "test_many_python_threads": "calls the ops 1000 times: too much for an emulator",
    "test_outputs_and_gradients_of_many_settings": "400 settings of each block shape: too much for an emulator",
}
SAME = emulated.tests_of(test_rnn, LEFT_OUT)
ERRORS = {f"{n}_refused": f for n, f in emulated.tests_of(test_rnn_errors, {}).items()}
globals().update(SAME | ERRORS)


@pytest.fixture(autouse=True)
def the_ops_are_emulated():
    with emulated.in_place_of_the_ops(test_rnn_errors):
        yield


def test_the_tests_of_the_cpu_are_here():
    assert len(SAME) > 12 and len(ERRORS) > 7


def test_a_long_sequence_is_a_loop_of_launches():
    """Each step is as many launches as the one before: nothing grows, nothing is copied."""
    empty = (tf.zeros([0, 4, 4]), tf.zeros([0], tf.int32), tf.zeros([17], tf.int32))
    launches = []
    for time in (2, 3, 12):
        x, h = tf.ones([2, time, 8]), tf.zeros([2, 16])
        block_sparse_lstm(x, h, h, empty, empty)
        before = emulated.calls("cuLaunchKernel"), emulated.calls("cuMemcpyHtoDAsync_v2")
        output, _, _ = block_sparse_lstm(x, h, h, empty, empty)
        launches.append(emulated.calls("cuLaunchKernel") - before[0])
        assert emulated.calls("cuMemcpyHtoDAsync_v2") == before[1]
        assert np.isfinite(output).all()
    assert launches[2] - launches[0] == 10 * (launches[1] - launches[0])
