import math

import numpy as np
import pytest
import tensorflow as tf

from tf_blocksparse import measure


@pytest.mark.parametrize("dtype,w_dtype", [("float32", "float32"), ("bfloat16", "float32"), ("float16", "float16")])
def test_it_measures_both_products_at_all_numbers_of_rows(dtype, w_dtype):
    w = np.random.default_rng(0).standard_normal((12, 20)).astype(w_dtype)
    seen = []

    def product(x):
        seen.append(x.dtype.name)
        return tf.matmul(x, tf.cast(w, dtype))

    times = measure.product_times(w, product, (1, 3, 50), dtype, seconds=0.01)
    assert len(times) == 3
    assert all(len(pair) == 2 and all(math.isfinite(t) and t > 0 for t in pair) for pair in times)
    assert set(seen) == {dtype}
    assert len(seen) == measure._UNROLLED  # traced once


def test_a_loop_makes_every_product_once_a_round():
    count = tf.Variable(0)

    def product(x):
        with tf.control_dependencies([count.assign_add(1)]):
            return tf.identity(x)

    inputs = [tf.fill((2, 3), float(i)) for i in range(measure._UNROLLED)]
    total = measure._repeated(product, "float32")(inputs, rounds=tf.constant(5))
    assert count.numpy() == 5 * measure._UNROLLED
    assert total.numpy() == 5 * sum(range(measure._UNROLLED))


@pytest.mark.parametrize("training", [False, True])
def test_the_dense_product_is_traced_once_for_all_shapes(training):
    loop = measure._dense_loop("float32", "float32", training)
    for rows, cols in ((3, 4), (5, 6), (7, 2)):
        loop([tf.ones((2, rows))] * measure._UNROLLED, rounds=tf.constant(1), w=tf.ones((rows, cols)))
    assert loop.experimental_get_tracing_count() == 1
    assert measure._dense_loop("float32", "float32", training) is loop


def test_a_training_step_makes_both_gradients():
    """What is measured depends on all three products, none of which may be optimised away."""
    x, w = tf.constant([[2.0, 3.0]]), tf.Variable([[5.0], [7.0]])
    step = measure._with_gradients(lambda x: tf.matmul(x, w), w)
    y = 2 * 5 + 3 * 7  # and so are dy, dx = y * w and dw = x * y, of which the first elements count
    assert float(step(x)[0, 0]) == y + y * 5 + 2 * y
    times = measure.product_times(w.numpy(), lambda x: tf.matmul(x, w), (1, 3), seconds=0.01, trained=w)
    assert all(min(pair) > 0 for pair in times)


@pytest.mark.parametrize(
    "dense,sparse,slow_calls",
    [
        (2e-3, 1e-3, 0),
        (2e-3, 1e-3, 30),
        (3e-6, 8e-6, 0),
        (3e-6, 8e-6, 30),
        (0.02, 0.3, 0),
        (0.02, 0.3, 8),
        (1e-6, 1.05e-6, 0),
        (1e-6, 1.05e-6, 30),
    ],
)
def test_the_calls_own_time_and_disturbances_are_taken_off(dense, sparse, slow_calls, monkeypatch):
    rng = np.random.default_rng(0)
    now, calls = [0.0], [0]

    def seconds(loop, rounds):
        calls[0] += 1
        disturbance = rng.choice([0.0, 0.0, 5e-4, 3e-3])
        if calls[0] <= slow_calls and rounds:  # from another process, at the start
            disturbance = 0.02
        taken = 8e-4 + loop * measure._UNROLLED * rounds + disturbance
        now[0] += taken
        return taken

    monkeypatch.setattr(measure, "_seconds", seconds)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    found = measure._least_times([dense, sparse], seconds=0.5)
    np.testing.assert_allclose(found, [dense, sparse], rtol=0.01)


def test_close_times_are_measured_for_longer(monkeypatch):
    def elapsed(*loops):
        now = [0.0]

        def seconds(loop, rounds):
            now[0] += 1e-4 + loop * rounds
            return 1e-4 + loop * rounds

        monkeypatch.setattr(measure, "_seconds", seconds)
        monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
        measure._least_times(loops, seconds=1.0)
        return now[0]

    assert elapsed(1e-3, 1.1e-3) > 2.5 * elapsed(1e-3, 2e-3)
