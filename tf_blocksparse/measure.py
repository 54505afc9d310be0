"""How long a product with a weight matrix takes here, dense and block-sparse.

A call of a `tf.function` from Python takes longer than many a product, so the product is repeated inside the graph, on
inputs in turns and each time after the last one has been made; an empty loop's time is taken off. Both kinds take
turns, so that a disturbance of the machine meets both, and of each the least time counts: whatever else runs only
ever adds to it.
"""

import functools
import math
import time

import numpy as np
import tensorflow as tf

SECONDS = 0.1  # for a matrix at one number of rows; samples of both kinds share them
_CLOSE = 1.2  # times nearer to each other than this are measured for three times as long
_SAMPLE_SECONDS = 4e-3  # well above a call's 0.2 to 1 ms
_MIN_SAMPLES = 3
_MAX_ROUNDS = 1000
_UNROLLED = 4  # products a round: a loop of TensorFlow takes about 10 us a round


def product_times(w, sparse_product, row_counts, dtype="float32", seconds=SECONDS, trained=None):
    """Seconds that `x @ w` takes: `tf.matmul` against another way to compute it.

    Args:
        w: array `[in, out]`; the dense product casts it to `dtype`, as a Keras layer does.
        sparse_product: function from `x` `[rows, in]` to `[rows, out]`, to be run in a graph.
        row_counts: list of int, the numbers of rows of `x` to measure at.
        dtype: of `x`.
        seconds: about how long to measure, for each number of rows; a slow product takes longer.
        trained: the `tf.Variable` that `sparse_product` multiplies with, to measure a step of training: the product
            and both its gradients. None: the product alone.

    Returns:
        List of `(dense, sparse)`, floats, for each of `row_counts`.
    """
    dense = functools.partial(_dense_loop(dtype, w.dtype.name, trained is not None), w=tf.constant(w))
    sparse = _repeated(sparse_product if trained is None else _with_gradients(sparse_product, trained), dtype)
    rng = np.random.default_rng(0)
    times = []
    for rows in row_counts:
        inputs = [tf.cast(rng.standard_normal((rows, w.shape[0]), "float32"), dtype) for _ in range(_UNROLLED)]
        times.append(_least_times([functools.partial(loop, inputs) for loop in (dense, sparse)], seconds))
    return times


@functools.cache
def _dense_loop(dtype, w_dtype, training):
    """A function of inputs, rounds and `w`, traced once for matrices of all shapes."""

    def loop(inputs, rounds, w):
        def product(x):
            return tf.matmul(x, tf.cast(w, dtype))

        return _loop(_with_gradients(product, w) if training else product, inputs, rounds)

    return tf.function(loop, (*_signature(dtype), tf.TensorSpec((None, None), w_dtype)), autograph=False)


def _with_gradients(product, w):
    """A function of `x` that makes the product and its gradients to `x` and `w`: a tensor that needs all three."""

    def step(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, w])
            y = product(x)
        dx, dw = tape.gradient(y, [x, w], output_gradients=y)
        return y[:1, :1] + dx[:1, :1] + tf.cast(tf.reshape(dw, (-1, 1))[:1], y.dtype)

    return step


def _repeated(product, dtype):
    """A function of inputs and rounds that makes products one after another."""
    return tf.function(functools.partial(_loop, product), _signature(dtype), autograph=False)


def _signature(dtype):
    return [tf.TensorSpec((None, None), dtype)] * _UNROLLED, tf.TensorSpec((), "int32")


def _loop(product, inputs, rounds):
    def one_round(i, total):
        done = []
        for x in inputs:
            with tf.control_dependencies(done[-1:]):
                done.append(product(tf.identity(x)))
        # An output that nobody reads would be optimised away.
        return i + 1, total + tf.add_n([tf.cast(y[0, 0], "float32") for y in done])

    return tf.while_loop(lambda i, _: i < rounds, one_round, (0, 0.0), parallel_iterations=1)[1]


def _least_times(loops, seconds):
    """Seconds a product of each loop, a function of the number of rounds."""
    rounds = [_enough_rounds(loop) for loop in loops]
    least, empty = [math.inf] * len(loops), [math.inf] * len(loops)
    start, samples = time.perf_counter(), 0
    while samples < _MIN_SAMPLES or time.perf_counter() - start < seconds * (3 if _are_close(least) else 1):
        samples += 1
        for k, loop in enumerate(loops):
            empty[k] = min(empty[k], _seconds(loop, 0))
            elapsed = _seconds(loop, rounds[k])
            if elapsed - empty[k] < _SAMPLE_SECONDS / 8 and rounds[k] < _MAX_ROUNDS:
                # A disturbance hid how short the product is: too short beside a call.
                rounds[k], least[k], samples = 4 * rounds[k], math.inf, 0
            else:
                least[k] = min(least[k], elapsed / rounds[k])
    # A resolution of 10 ns: a product of nothing may come out at less than its empty loop.
    return tuple(max((a - b / n) / _UNROLLED, 1e-8) for a, b, n in zip(least, empty, rounds, strict=True))


def _are_close(times):
    return math.isfinite(max(times)) and max(times) < _CLOSE * min(times)


def _enough_rounds(loop):
    """Rounds that take about `_SAMPLE_SECONDS`, found by doubling; the first call traces and warms up."""
    _seconds(loop, 1)

    def least(n):
        return min(_seconds(loop, n) for _ in range(_MIN_SAMPLES))

    empty, rounds = least(0), 1
    while (elapsed := least(rounds) - empty) < _SAMPLE_SECONDS / 2 and rounds < _MAX_ROUNDS:
        rounds *= 4 if elapsed < _SAMPLE_SECONDS / 8 else 2
    return rounds


def _seconds(loop, rounds):
    rounds = tf.constant(rounds)
    start = time.perf_counter()
    loop(rounds=rounds)
    return time.perf_counter() - start
