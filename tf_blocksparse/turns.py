"""Times of functions that take turns, so that a disturbance of the machine meets all of them alike.

Each runs in a loop inside of one graph, as a call from Python may take longer than what it calls. Unlike
`tf_blocksparse.measure`, which tells two products apart, this keeps medians as well as minima and runs whole layers
and models.
"""

import dataclasses
import math
import statistics
import time

import keras
import tensorflow as tf

SAMPLE_SECONDS = 0.01  # of one sample, at least: a call from Python takes 0.2 to 1 ms
MIN_SAMPLES, MAX_SAMPLES = 5, 200
_MAX_ROUNDS = 1000


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one call of a function.

    Attributes:
        median: float.
        minimum: float.
        samples: int, how many there are.
    """

    median: float
    minimum: float
    samples: int


def times_in_turns(functions, inputs, seconds=1.0):
    """How long functions take that are called in turns.

    Args:
        functions: list of functions of one argument that return a tensor or a structure of tensors; they are traced.
        inputs: structure of arrays, the argument of all.
        seconds: about how long to measure in all, after tracing; more where five samples of each take longer.

    Returns:
        List of `Times`, in the order of the functions.
    """
    loops = [_loop(function, keras.tree.map_structure(tf.constant, inputs)) for function in functions]
    rounds = [_enough_rounds(loop) for loop in loops]
    samples = [[] for _ in loops]
    end = time.perf_counter() + seconds
    while len(samples[0]) < MIN_SAMPLES or (time.perf_counter() < end and len(samples[0]) < MAX_SAMPLES):
        for loop, n, found in zip(loops, rounds, samples, strict=True):
            found.append(_seconds(loop, n) / n)
    return [Times(statistics.median(found), min(found), len(found)) for found in samples]


def _loop(function, inputs):
    """A function of the number of rounds that calls `function` so often, each time after the last call has ended."""

    def one_round(i, total):
        with tf.control_dependencies([total]):
            fresh = keras.tree.map_structure(tf.identity, inputs)
        outputs = [tf.reshape(y, [-1])[:1] for y in keras.tree.flatten(function(fresh))]
        numbers = [tf.strings.length(y) if y.dtype == tf.string else y for y in outputs]
        # What nobody reads would not be computed.
        return i + 1, total + sum(tf.reduce_sum(tf.cast(y, "float32")) for y in numbers)

    @tf.function(autograph=False)
    def loop(rounds):
        return tf.while_loop(lambda i, _: i < rounds, one_round, (0, 0.0), parallel_iterations=1)[1]

    return loop


def _enough_rounds(loop):
    """Rounds of which one sample takes long enough; the first call traces and warms up."""
    _seconds(loop, 1)

    def least(n):  # a disturbance would make one sample long
        return min(_seconds(loop, n) for _ in range(3))

    rounds = 1
    while (needed := least(rounds)) < SAMPLE_SECONDS / 2 and rounds < _MAX_ROUNDS:
        rounds = min(_MAX_ROUNDS, 8 * rounds, max(2 * rounds, math.ceil(rounds * SAMPLE_SECONDS / needed)))
    return rounds


def _seconds(loop, rounds):
    rounds = tf.constant(rounds)
    start = time.perf_counter()
    loop(rounds).numpy()
    return time.perf_counter() - start
