"""The choice of blocks against NumPy's stable sort and plain TensorFlow, and the dense scores of the gate."""

import re

import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import assert_close
from tf_blocksparse.custom_ops import choose_blocks, choose_blocks_reference, gate_scores
from tf_blocksparse.custom_ops.library import ops

BOTH = pytest.mark.parametrize("function", [choose_blocks, choose_blocks_reference])


def normal(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(scores, k, epsilon=1e-3):
    """Ids and gates of `[batch, n]` scores, in float64."""
    gates = np.maximum(scores, 0).astype(np.float64)
    ids = np.sort(np.argsort(-gates, axis=1, kind="stable")[:, :k], axis=1)
    kept = np.take_along_axis(gates, ids, axis=1)
    return ids, kept / np.maximum(kept.sum(1, keepdims=True) / scores.shape[1], epsilon)


def check(function, scores, k):
    ids, gates = function(scores, k)
    expected_ids, expected_gates = expected(scores, k)
    assert ids.dtype == tf.int32
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(gates, expected_gates, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("n", [1, 7, 144, 2304])
@pytest.mark.parametrize("batch", [0, 1, 5, 64])
def test_largest_gates(function, n, batch):
    scores = normal([batch, n])
    for k in sorted({0, 1, n // 10, n // 2, n}):
        check(function, scores, k)


@BOTH
def test_ties_go_to_the_lower_index(function):
    rng = np.random.default_rng(0)
    for values in ([0.0], [2.0], [-1.0, 0.0, 1.0], [1.0, np.nextafter(np.float32(1), np.float32(2))]):
        scores = rng.choice(np.float32(values), [20, 50])
        for k in (1, 10, 25, 49):
            check(function, scores, k)


def test_every_bit_of_a_score_counts():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F800000, [50, 300], dtype=np.uint32)  # all floats from 0 on, alike
    near = (0x3F800000 + rng.integers(0, 3000, [50, 300])).astype(np.uint32)  # one exponent
    for scores in (bits.view(np.float32) / 4, near.view(np.float32)):
        for k in (1, 77, 299):
            ids, _ = choose_blocks(scores, k)
            np.testing.assert_array_equal(ids, expected(scores.astype(np.float64), k)[0])


@BOTH
def test_no_positive_score_gives_zeros(function):
    ids, gates = function(-np.abs(normal([3, 10])), 4)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3]] * 3)
    np.testing.assert_array_equal(gates, np.zeros([3, 4]))
    tiny = np.full([1, 10], 1e-9, np.float32)
    np.testing.assert_allclose(function(tiny, 10)[1], tiny / 1e-3, rtol=1e-6)
    np.testing.assert_allclose(function(tiny, 10, epsilon=1e-12)[1], np.ones([1, 10]), rtol=1e-6)


@BOTH
def test_mean_gate_is_one(function):
    _, gates = function(normal([20, 100]), 30)
    np.testing.assert_allclose(np.sum(gates, axis=1) / 100, np.ones(20), rtol=1e-5)


def test_missing_numbers_and_infinities():
    scores = normal([3, 20])
    scores[1, 7] = np.nan
    scores[2, [3, 8]] = np.inf, -np.inf
    ids, gates = choose_blocks(scores, 5)
    check(choose_blocks, scores[:1], 5)
    assert 7 in ids[1].numpy() and np.isnan(gates[1]).all()
    assert 3 in ids[2].numpy() and 8 not in ids[2].numpy()


@BOTH
@pytest.mark.parametrize("leading", [[], [3], [2, 3], [2, 0]])
def test_any_rank(function, leading):
    scores = normal([*leading, 12])
    ids, gates = function(scores, 5)
    expected_ids, expected_gates = expected(scores.reshape([-1, 12]), 5)
    np.testing.assert_array_equal(ids, expected_ids.reshape([*leading, 5]))
    np.testing.assert_allclose(gates, expected_gates.reshape([*leading, 5]), rtol=1e-6)


def test_gradients_equal_the_reference():
    scores = normal([6, 30])
    scores[0] = -1
    scores[1] = 1e-6

    def two_orders(function):
        given = tf.constant(scores)
        with tf.GradientTape() as outer:
            outer.watch(given)
            with tf.GradientTape() as inner:
                inner.watch(given)
                loss = tf.reduce_sum(tf.sin(function(given, 12)[1]) * normal([6, 12], seed=3))
            first = inner.gradient(loss, given)
            loss = tf.reduce_sum(tf.sin(first))
        return first, outer.gradient(loss, given)

    for actual, e in zip(two_orders(choose_blocks), two_orders(choose_blocks_reference), strict=True):
        assert np.abs(e[2:]).max() > 0.1 and not np.any(e[0])
        np.testing.assert_allclose(actual, e, rtol=2e-4, atol=2e-5)


def test_k_that_is_known_only_when_it_runs():
    @tf.function(input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int32)])
    def function(scores, k):
        ids, gates = choose_blocks(scores, k)
        assert ids.shape.as_list() == gates.shape.as_list() == [None, None]
        return ids, gates, tf.gradients(gates**2, scores)[0]

    for k in (3, 9):
        ids, gates, slope = function(normal([4, 20]), k)
        np.testing.assert_array_equal(ids, expected(normal([4, 20]), k)[0])
        assert np.count_nonzero(slope) == np.count_nonzero(gates) > 0


def test_shape_function():
    with tf.Graph().as_default():
        scores = tf.compat.v1.placeholder(tf.float32, [None, 20])
        ids, gates = choose_blocks(scores, 7)
        assert ids.shape.as_list() == gates.shape.as_list() == [None, 7]
        with pytest.raises(ValueError, match="k must be from 0 to the number of scores, 20, got 21"):
            choose_blocks(scores, 21)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 9}, r"k must be from 0 to the number of scores, 8, got 9"),
        ({"k": -1}, r"k must be from 0 to .* got -1|cannot be negative|must be non-negative"),
        ({"k": [2]}, r"k must have shape \[\]"),
        ({"scores": np.zeros([8], np.float32)}, r"scores must have shape \[batch, n\], got shape \[8\]"),
        ({"epsilon": 0.0}, r"epsilon must be above 0, got 0"),
        ({"epsilon": float("nan")}, r"epsilon must be above 0, got nan"),
    ],
)
def test_bad_inputs(change, message):
    good = {"scores": np.zeros([2, 8], np.float32), "k": 3, "epsilon": 1e-3}
    ops().block_sparse_choose_blocks(**good)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_choose_blocks(**{**good, **change})


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"scores": np.float32(1)}, ValueError, "expects `scores` of shape .* got a scalar"),
        ({"scores": np.zeros([2, 8])}, TypeError, "expects `scores` of dtype float32, got float64"),
        ({"epsilon": 0}, ValueError, "`epsilon` must be above 0, got 0"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=re.compile(message)):
        choose_blocks(**{"scores": np.zeros([2, 8], np.float32), "k": 3, **change})


@pytest.mark.parametrize("features", [1, 37, 64, 384])
@pytest.mark.parametrize("leading", [[1], [5], [2, 3]])
def test_dense_scores(features, leading):
    x, kernel, bias = normal([*leading, features]), normal([features, 50], 2), normal([50], 3)
    dense = x.astype(np.float64) @ kernel
    assert_close(gate_scores(x, kernel), dense, features, 4)
    assert_close(gate_scores(x, kernel, bias), dense + bias, features, 4)


def test_gradients_of_dense_scores():
    inputs = [tf.constant(normal(shape)) for shape in ([4, 64], [64, 30], [30])]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        actual = tf.reduce_sum(tf.tanh(gate_scores(*inputs)))
        dense = tf.reduce_sum(tf.tanh(tf.matmul(*inputs[:2]) + inputs[2]))
    for a, e in zip(tape.gradient(actual, inputs), tape.gradient(dense, inputs), strict=True):
        np.testing.assert_allclose(a, e, atol=2e-5)


def test_dense_scores_of_a_kernel_of_unknown_shape():
    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([4, None])])
    def function(x, kernel):
        return gate_scores(x, kernel)

    with pytest.raises(ValueError, match=r"`kernel` of a known shape \[features, n\], got \(4, None\)"):
        function(normal([2, 4]), normal([4, 3]))
