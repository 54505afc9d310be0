"""The forms of a product with gated blocks, against float64 NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from helpers import ROOT, assert_close, loop_blocks, run_python
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.layers import dynamic_product as forms

GRIDS = [
    BlockGrid((8, 12), (4, 4)),
    BlockGrid((7, 13), (4, 5)),  # ragged both ways
    BlockGrid((3, 5), (8, 8)),  # one block, larger than the matrix
    BlockGrid((10, 24), (4, 3), gates=4),
    BlockGrid((10, 20), (3, 3), gates=4),  # each gate's last block is smaller
]
FORMS = [None, forms.scaled_inputs_product, forms.scaled_outputs_product]


def case(grid, rows=5, density=0.5):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((rows, grid.shape[0])), rng.standard_normal(grid.shape)
    gates = rng.random((rows, *grid.mask_shape)) * (rng.random((rows, *grid.mask_shape)) < density)
    return x, w, gates, rng.standard_normal((rows, grid.shape[1]))


def oracle(x, w, gates, dy, grid):
    """Product and gradients of `sum(y * dy)` by x, w and gates, block by block, in float64."""
    y, dx, dw, dg = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w), np.zeros_like(gates)
    for n, (i, j, rows, cols) in itertools.product(range(len(x)), loop_blocks(grid)):
        g = gates[n, i, j]
        product = x[n, rows] @ w[rows, cols]
        y[n, cols] += g * product
        dx[n, rows] += g * w[rows, cols] @ dy[n, cols]
        dw[rows, cols] += g * np.outer(x[n, rows], dy[n, cols])
        dg[n, i, j] = product @ dy[n, cols]
    return y, dx, dw, dg


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__ if form else "by shape")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_value_and_gradients(form, grid, rows):
    *inputs, dy = case(grid, rows)
    expected = oracle(*inputs, dy, grid)
    tensors = [tf.constant(a, tf.float32) for a in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = forms.dynamic_product(*tensors, grid, form)
        loss = tf.reduce_sum(y * tf.constant(dy, tf.float32))
    for actual, wanted in zip([y, *tape.gradient(loss, tensors)], expected, strict=True):
        assert_close(actual, wanted, length=max(grid.shape), scale=4)


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.__name__ if form else "by shape")
def test_second_derivatives(form):
    grid = BlockGrid((4, 6), (2, 3))
    x, w, gates, dy = (tf.constant(a) for a in case(grid, 2))

    def gradient_norm(x):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(tf.square(form(x, w, gates, grid)) * dy)
        return tf.reduce_sum(tf.square(tape.gradient(loss, w)))

    theoretical, numerical = tf.test.compute_gradient(gradient_norm, [x], delta=1e-5)
    np.testing.assert_allclose(theoretical[0], numerical[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_in_a_graph_of_unknown_batch(jit):
    grid = GRIDS[1]
    x, w, gates, dy = case(grid)
    function = tf.function(
        lambda x, w, g: forms.dynamic_product(x, w, g, grid),
        input_signature=[
            tf.TensorSpec([None, grid.shape[0]]),
            tf.TensorSpec(grid.shape),
            tf.TensorSpec([None, *grid.mask_shape]),
        ],
        jit_compile=jit,
    )
    y = function(*(tf.constant(a, tf.float32) for a in (x, w, gates)))
    assert_close(y, oracle(x, w, gates, dy, grid)[0], length=13)


def test_the_form_is_chosen_by_shape(monkeypatch):
    called = []
    for name in ("scaled_inputs_product", "scaled_outputs_product"):
        monkeypatch.setattr(forms, name, lambda *_, name=name: called.append(name))
    forms.dynamic_product(None, None, None, BlockGrid((64, 64), 8))
    forms.dynamic_product(None, None, None, BlockGrid((64, 256), 8))
    assert called == ["scaled_inputs_product", "scaled_outputs_product"]


MEMORY = """
import resource
import sys

import tensorflow as tf

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.layers import dynamic_product as forms


def step(rows, form):
    grid = BlockGrid((512, 512), 16)  # 32 x 32 blocks
    inputs = [tf.ones([rows, 512]), tf.ones([512, 512]), tf.ones([rows, 32, 32])]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = getattr(forms, form)(*inputs, grid)
    tape.gradient(y, inputs)


step(8, sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(4096, sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.__name__ if form else "by shape")
def test_memory_of_a_step_does_not_grow_with_the_blocks(form):
    """A scaled copy for each block column, 8 MB each here, would be 256 MB; a matrix for each example 4 GB."""
    megabytes = float(run_python(MEMORY, form.__name__, PYTHONPATH=str(ROOT)))
    assert megabytes < 150
