"""Times of contestants that take turns, so that a disturbance of the machine meets all alike.

TensorFlow's contestants repeat their product in a loop inside of one `tf.function`: a call of it from Python costs
more than a small product. The loop has one node for each input, as a model has one for each layer; unrolled, every
copy of an op would keep an index of the blocks of its own, and they would drive each other out of the cache. What
the call and the loop cost is measured on a twin that multiplies nothing, and subtracted.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import tensorflow as tf

SAMPLE_SECONDS = 0.012  # of one sample, but for contestants that take longer for one round
MIN_SAMPLES, MAX_SAMPLES = 5, 200
SLOW, SLOW_SAMPLES = 20, 2  # a rival this many times slower than the block-sparse op gets so many samples only
# Threads of OpenBLAS and OpenMP spin for tens of milliseconds after a product, at the cost of whoever is next.
SETTLE_SECONDS = 0.06


@dataclasses.dataclass
class Contestant:
    """One way to make the product.

    Args:
        name: for the tables.
        kind: "ours", "dense" or "sparse".
        call: makes `rounds` rounds over all inputs; in a graph it returns the result of `repeated`.
        result: the product of the first input, a float32 array, to check.
        products: number of products in a round.
        block_shape: of the matrix, where it matters.
        in_graph: whether the rounds are those of a loop in a `tf.function`.
        own_threads: whether it runs threads of its own, which spin when it is done.
    """

    name: str
    kind: str
    call: Callable
    result: Callable
    products: int
    block_shape: tuple | None = None
    in_graph: bool = False
    own_threads: bool = False


@dataclasses.dataclass
class Times:
    """Seconds of one product: the median and the minimum of `samples` samples."""

    median: float
    minimum: float
    samples: int


def variables(arrays):
    """Variables of arrays or of tuples of them, as layers hold their weights.

    A loop hands a variable through for nothing, but takes several steps a round for each tensor that it captures.
    """
    return tf.nest.map_structure(tf.Variable, list(arrays))


def repeated(product, inputs):
    """A `tf.function` of the number of rounds; each makes the product of every input, one after another.

    Args:
        product: function of one element of `inputs` that returns a tensor.
        inputs: list of variables, or of tuples of them.

    Returns:
        Function `(rounds: int32 tensor) -> float32 scalar`, the sum of the first elements of all products. A result
        that nobody reads would not be computed, and each product waits for the sum before it.
    """

    def body(i, total):
        for x in inputs:
            with tf.control_dependencies([total]):
                y = product(x)
                first = y[(0,) * y.shape.rank]
            total += first
        return i + 1, total

    @tf.function
    def function(rounds):
        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda i, _: i < rounds, body, start, parallel_iterations=1)[1]

    return function


def graph_contestant(name, kind, product, inputs, **fields):
    """A `Contestant` of a product made of TensorFlow ops."""
    function = repeated(product, inputs)

    def call(rounds):
        return function(tf.constant(rounds))

    return Contestant(name, kind, call, lambda: product(inputs[0]).numpy(), len(inputs), in_graph=True, **fields)


def python_contestant(name, kind, product, inputs, result=None, **fields):
    """A `Contestant` of a plain function of one input."""

    def call(rounds):
        for _ in range(rounds):
            for x in inputs:
                product(x)

    result = result or (lambda: product(inputs[0]))
    return Contestant(name, kind, call, result, len(inputs), **fields)


def empty_twin(inputs):
    """A contestant like those in graphs, without a product."""
    return graph_contestant("nothing", "empty", lambda x: tf.convert_to_tensor(x), inputs)


def seconds_of(call, rounds):
    """Seconds of one call."""
    start = time.perf_counter()
    call(rounds)
    return time.perf_counter() - start


def rounds_for(contestant, seconds=SAMPLE_SECONDS):
    """Rounds that take about so many seconds: at least 1. Also warms the contestant up."""
    contestant.call(1)
    rounds, needed = 1, seconds_of(contestant.call, 1)
    while needed < seconds / 2:
        rounds = min(8 * rounds, max(2 * rounds, round(rounds * seconds / needed)))
        needed = seconds_of(contestant.call, rounds)
    return max(1, round(rounds * seconds / needed))


class Turns:
    """Samples of contestants in turns.

    Args:
        contestants: list of `Contestant`.
        twin: `Contestant` without a product, of the loop that those in graphs run in, on as many inputs.
        threads: int, threads that each may use: with one, nobody's threads spin.
    """

    TWIN_ROUNDS = 400

    def __init__(self, contestants, twin, threads):
        self.contestants, self.twin, self.threads = contestants, twin, threads
        self.samples = [[] for _ in contestants]
        self.call_seconds, self.loop_seconds = [], []

    def run(self, seconds):
        """Takes turns for so many seconds, and until all have the samples they need; returns a list of `Times`."""
        twin_rounds = [1, self.TWIN_ROUNDS]
        self.twin.call(1)
        rounds = [self._calibrate(contestant) for contestant in self.contestants]
        wanted = self._samples_wanted(rounds)
        end = time.perf_counter() + seconds
        while True:
            self._sample_twin(twin_rounds)
            for i, contestant in enumerate(self.contestants):
                if len(self.samples[i]) < wanted[i]:
                    self.samples[i].append(self._sample(contestant, rounds[i]))
            done = max(map(len, self.samples))
            if done >= MAX_SAMPLES or (done >= MIN_SAMPLES and time.perf_counter() > end):
                break
        return [self._times(*item) for item in zip(self.contestants, self.samples, rounds, strict=True)]

    def _calibrate(self, contestant):
        rounds = rounds_for(contestant)
        self._settle(contestant)
        return rounds

    def _samples_wanted(self, rounds):
        """Samples that each contestant may get: few for those that are far slower than the block-sparse op."""
        firsts = []
        for contestant, n, samples in zip(self.contestants, rounds, self.samples, strict=True):
            samples.append(self._sample(contestant, n))
            firsts.append(samples[0] / (n * contestant.products))
        ours = [t for t, contestant in zip(firsts, self.contestants, strict=True) if contestant.kind == "ours"]
        slow = SLOW * max(ours, default=float("inf"))
        return [
            SLOW_SAMPLES if contestant.kind == "sparse" and first > slow else MAX_SAMPLES
            for contestant, first in zip(self.contestants, firsts, strict=True)
        ]

    def _sample(self, contestant, rounds):
        contestant.call(1)  # brings its weights back to the cache, as they are for every later round
        seconds = seconds_of(contestant.call, rounds)
        self._settle(contestant)
        return seconds

    def _settle(self, contestant):
        if contestant.own_threads and self.threads > 1:
            time.sleep(SETTLE_SECONDS)

    def _sample_twin(self, rounds):
        self.twin.call(1)
        few, many = (seconds_of(self.twin.call, n) for n in rounds)
        self.call_seconds.append(few)
        self.loop_seconds.append((many - few) / (rounds[1] - rounds[0]))

    def _times(self, contestant, samples, rounds):
        products = rounds * contestant.products

        def each(statistic):
            # Of the tiniest products noise may leave nothing.
            return max(statistic(samples) - self._cost(contestant, rounds, statistic), 1e-9) / products

        return Times(each(statistics.median), each(min), len(samples))

    def _cost(self, contestant, rounds, statistic):
        """Seconds of a sample that are the call's and the loop's."""
        if not contestant.in_graph:
            return 0.0
        return statistic(self.call_seconds) + (rounds - 1) * statistic(self.loop_seconds)
