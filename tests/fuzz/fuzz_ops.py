"""Calls the ops as hostile SavedModels and requests do, and compares each outcome with plain rules.

Every call has to end in the right result, or in InvalidArgument (in a graph that is being made, ValueError) with what
is wrong in its text; and exactly the sound calls in a result. What crashes ends the process.

python tests/fuzz/fuzz_ops.py 100000 --seed 7
"""

import argparse
import collections
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from fuzz.op_cases import Call, draw  # noqa: E402
from fuzz.op_rules import Refused, expected  # noqa: E402

GRAPH_EVERY = 25  # making a graph takes many times as long as a call


def fuzz(count, seed, ops):
    """Counts of outcomes: dict from `(op, "right" or "refused")`; raises AssertionError at the first wrong one."""
    outcomes = collections.Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        call = draw(rng)
        try:
            outcomes[call.op, _check(call, ops, rng if number % GRAPH_EVERY == 0 else None)] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, case {number}: {error}\n{call}") from error
    return outcomes


def _check(call, ops, rng):
    try:
        y, allowed = expected(call)
    except Refused:
        y = None
    try:
        actual = call.run(ops).numpy() if rng is None else _run_graph(call, ops, rng)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        assert y is None, f"refused, but sound: {error}"
        assert any(letter.isdigit() for letter in str(error)) or "'" in str(error), f"names no value: {error}"
        return "refused"
    assert y is not None, f"not sound, but computed: {actual}"
    assert actual.shape == y.shape, f"shape {actual.shape}, expected {y.shape}"
    off = np.abs(actual - y)
    wrong = ~np.isnan(y) & ~(off <= allowed)
    assert not wrong.any(), f"got {actual[wrong]}, expected {y[wrong]}"
    return "right"


def _run_graph(call, ops, rng):
    """The same in a graph, of which shapes are known in part."""
    with tf.Graph().as_default():
        tensors, feed = {}, {}
        for name, value in call.tensors.items():
            shape = [None if rng.integers(2) else size for size in value.shape]
            tensors[name] = tf.compat.v1.placeholder(value.dtype, None if rng.integers(4) == 0 else shape)
            feed[tensors[name]] = value
        y = Call(call.op, tensors, call.attrs).run(ops)
        with tf.compat.v1.Session() as session:
            return session.run(y, feed)


def main():
    """Runs what the command line says."""
    from tf_blocksparse.custom_ops.library import ops

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes = fuzz(options.count, options.seed, ops())
    print(f"{options.count} calls in {time.perf_counter() - start:.0f} s, none wrong")
    for (op, outcome), number in sorted(outcomes.items()):
        print(f"  {op:20} {outcome:8} {number}")


if __name__ == "__main__":
    main()
