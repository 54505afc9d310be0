"""Tests on a GPU, where there is one: `make gpu-check` runs them. Nobody has run them on one so far."""

import contextlib

import pytest
import tensorflow as tf

NEEDED = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU found")


@contextlib.contextmanager
def everything():
    """Within it all ops go to the GPU that have a kernel there; exact float32, as on the CPU."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        with tf.device("/GPU:0"):
            yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def without_placement(function):
    """Calls it where TensorFlow must not move an op that has no kernel for the GPU to the CPU."""
    before = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        return function()
    finally:
        tf.config.set_soft_device_placement(before)


def assert_there(*tensors):
    """Whether the op that made each of them ran on the GPU."""
    assert {t.device.split(":")[-2] for t in tensors} == {"GPU"}
