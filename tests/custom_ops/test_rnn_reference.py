"""The recurrent layers of standard TensorFlow ops against dense matrices and differences."""

import numpy as np
import pytest
import tensorflow as tf

from rnn_cases import CELLS, MASKS, assert_close, expected, problem, total, with_gradients


def doubles(p):
    return [np.nan_to_num(v.astype(np.float64)) for v in p.values]


def reference(p):
    return with_gradients(lambda v: p.call(CELLS[p.cell].reference, v), [v.astype(np.float64) for v in p.values])


def assert_differences(function, values, gradients, seed=0):
    """Asserts gradients of a scalar function by its differences in random directions, for one value after another."""
    rng = np.random.default_rng(seed)
    for i, gradient in enumerate(gradients):
        for _ in range(2):
            direction = rng.standard_normal(values[i].shape)
            ends = [
                function([v + step * direction if j == i else v for j, v in enumerate(values)])
                for step in (1e-5, -1e-5)
            ]
            difference = float(ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(np.vdot(gradient, direction), difference, rtol=1e-6, atol=1e-8)
        assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cell", CELLS)
def test_equals_dense_matrices(cell, mask):
    backwards = mask in ("holes", "right_padded")
    p = problem(cell, mask=mask, go_backwards=backwards, time_major=mask == "holes", return_sequences=mask != "all")
    outputs, gradients = reference(p)
    wanted, wanted_gradients = expected(p)
    assert_close(outputs, wanted, 1e-12)
    assert_close(gradients, wanted_gradients, 1e-12)


@pytest.mark.parametrize("batch, time", [(1, 1), (2, 0), (0, 3), (0, 0)])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_one_step_and_none(cell, batch, time, return_sequences):
    p = problem(cell, batch=batch, time=time, mask="holes", return_sequences=return_sequences, bias=False)
    outputs, _ = reference(p)
    assert_close(outputs, expected(p)[0], 1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal_differences(cell):
    p = problem(cell, in_features=3, units=3, block_shape=(2, 2), batch=2, time=3, mask="holes")
    _, gradients = reference(p)
    assert_differences(lambda values: total(p.call(CELLS[cell].reference, values)), doubles(p), gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_unknown_shapes_in_a_function(cell):
    p = problem(cell, in_features=6, units=5, mask="holes")
    signature = [tf.TensorSpec([None] * v.ndim, v.dtype) for v in p.values]
    for i in range(1, 1 + len(p.states)):
        signature[i] = tf.TensorSpec([None, 5])

    @tf.function(input_signature=[signature, tf.TensorSpec([None, None], tf.bool)])
    def function(values, mask):
        outputs = p.call(CELLS[cell].reference, values, mask=mask)
        return list(outputs), tf.gradients(outputs[0], values)

    for batch, time in ((3, 4), (2, 0), (0, 2)):
        q = problem(cell, in_features=6, units=5, mask="holes", batch=batch, time=time)
        outputs, gradients = function([tf.constant(v) for v in q.values], q.swap(q.mask))
        assert_close([y.numpy() for y in outputs], expected(q)[0])
        assert [g.shape for g in gradients] == [v.shape for v in q.values]


@pytest.mark.parametrize("dtype, eps", [("float16", 1e-3), ("bfloat16", 8e-3), ("float32", 1e-7), ("float64", 1e-16)])
def test_any_floating_dtype(dtype, eps):
    p = problem("lstm")
    output, h, c = p.call(CELLS["lstm"].reference, [tf.cast(v, dtype) for v in p.values])
    assert output.dtype == h.dtype == c.dtype == dtype
    assert np.abs(tf.cast(output, tf.float64) - expected(p)[0][0]).max() < 20 * eps


def test_mixed_dtypes_are_an_error():
    p = problem("rnn")
    values = p.values
    values[1] = values[1].astype(np.float64)
    with pytest.raises(TypeError, match=r"one floating dtype, got `h0` of dtype float64 and `x` of float32"):
        p.call(CELLS["rnn"].reference, values)


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives(cell):
    p = problem(cell, in_features=3, units=3, block_shape=(2, 2), batch=2, time=2)

    def squared_gradients(values):
        values = [tf.convert_to_tensor(v) for v in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = total([y**2 for y in p.call(CELLS[cell].reference, values)])
        return tf.add_n([tf.reduce_sum(g**2) for g in tape.gradient(loss, values)])

    values = [tf.constant(v) for v in doubles(p)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = squared_gradients(values)
    gradients = [np.asarray(g) for g in tape.gradient(loss, values)]
    assert_differences(squared_gradients, [v.numpy() for v in values], gradients)
