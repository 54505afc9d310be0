"""Recurrent layers on a GPU, where there is one: `make gpu-check` runs them. Nobody has run them on one so far."""

import pytest
import tensorflow as tf

import on_gpu
import test_rnn
import test_rnn_errors
from emulated import tests_of
from rnn_cases import CELLS, assert_close, expected, problem, with_gradients

pytestmark = on_gpu.NEEDED

LEFT_OUT = {"test_outputs_and_gradients_of_many_settings": "400 settings of each block shape: a part is enough"}
ERRORS = {f"{n}_refused": f for n, f in tests_of(test_rnn_errors, {}).items()}
globals().update(tests_of(test_rnn, LEFT_OUT) | ERRORS)


@pytest.fixture(autouse=True)
def on_the_gpu():
    with on_gpu.everything():
        yield


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch, units", [(1, 512), (64, 256)])
def test_on_the_device(cell, batch, units):
    p = problem(
        cell, in_features=200, units=units, block_shape=(16, 16), batch=batch, time=20, mask="holes", density=0.2
    )
    run = lambda values: p.call(CELLS[cell].function, [tf.constant(v) for v in values], save=True)  # noqa: E731
    on_gpu.assert_there(*on_gpu.without_placement(lambda: run(p.values)))
    outputs, gradients = with_gradients(lambda v: p.call(CELLS[cell].function, v, save=True), p.values)
    wanted, wanted_gradients = expected(p)
    assert_close(outputs, wanted)
    assert_close(gradients, wanted_gradients, 2e-4)
