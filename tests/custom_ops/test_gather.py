"""The look-up op and its gradients against float64 NumPy and the plain-TensorFlow function."""

import numpy as np
import pytest
import tensorflow as tf

from bsr_cases import assert_close, random_bsr
from tf_blocksparse.custom_ops import block_sparse_gather, block_sparse_gather_reference
from tf_blocksparse.custom_ops.library import ops


def look_up(function, w, ids, blocks=None):
    blocks = w.blocks if blocks is None else blocks
    return function(ids, blocks, w.indices, w.indptr, w.in_features, w.out_features)


@pytest.mark.parametrize("block_shape", [(1, 1), (3, 5), (4, 4), (1, 16), (16, 1), (32, 32)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_and_gradient(block_shape, density, dtype):
    w = random_bsr(50, 37, block_shape, density)
    ids = np.array([[0, 49, 7], [7, 7, 31]], dtype)  # equal ids add up
    blocks = tf.constant(w.blocks)
    dy = np.random.default_rng(3).standard_normal([2, 3, 37]).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(blocks)
        y = look_up(block_sparse_gather, w, ids, blocks)
        loss = tf.reduce_sum(y * dy)
    np.testing.assert_array_equal(y, w.dense(np.float32)[ids])
    dense_gradient = np.zeros([50, 37])
    np.add.at(dense_gradient, ids, dy)
    assert_close(tape.gradient(loss, blocks), w.stored(dense_gradient), 3, 4)


@pytest.mark.parametrize("function", [block_sparse_gather, block_sparse_gather_reference])
@pytest.mark.parametrize("shape", [[], [0], [4], [2, 3]])
def test_any_shape_of_ids(function, shape):
    w = random_bsr(50, 37, (4, 8))
    ids = np.random.default_rng(0).integers(0, 50, shape).astype(np.int32)
    np.testing.assert_array_equal(look_up(function, w, ids), w.dense(np.float32)[ids])


def test_unknown_shapes_in_a_function():
    w = random_bsr(50, 37, (4, 8))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.int64)])
    def function(ids):
        y = look_up(block_sparse_gather, w, ids)
        assert y.shape.as_list() == [None, 3, 37]
        return y

    ids = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(function(ids), w.dense(np.float32)[ids])


def test_second_order():
    w = random_bsr(20, 12, (4, 4), 0.6)
    w.blocks = np.nan_to_num(w.blocks)
    ids = np.array([3, 3, 19, 0], np.int32)

    def second(function):
        blocks = tf.constant(w.blocks)
        with tf.GradientTape() as outer:
            outer.watch(blocks)
            with tf.GradientTape() as inner:
                inner.watch(blocks)
                loss = tf.reduce_sum(look_up(function, w, ids, blocks) ** 3)
            loss = tf.reduce_sum(inner.gradient(loss, blocks) ** 2)
        return outer.gradient(loss, blocks)

    expected = second(block_sparse_gather_reference)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(second(block_sparse_gather), expected, rtol=1e-4, atol=1e-4)


def test_large_enough_for_threads():
    w = random_bsr(2000, 1024, (8, 8), 0.3)
    ids = np.random.default_rng(0).integers(0, 2000, [3000]).astype(np.int32)
    np.testing.assert_array_equal(look_up(block_sparse_gather, w, ids), w.dense(np.float32)[ids])


GOOD = dict(
    blocks=np.zeros([2, 4, 4], np.float32), indices=np.array([1, 0], np.int32),
    indptr=np.array([0, 1, 2], np.int32), in_features=8, out_features=8,
)  # fmt: skip


@pytest.mark.parametrize(
    "ids, message",
    [
        (np.array([0, 8, 1], np.int32), r"ids\[1\] = 8 is not in \[0, 8\), the rows"),
        (np.array([0, 1, -1], np.int32), r"ids\[2\] = -1 is not in \[0, 8\)"),
        (np.array([2**40], np.int64), r"ids\[0\] = 1099511627776 is not in \[0, 8\)"),
        (np.array([[0]], np.int32), r"ids must have shape \[num_ids\]"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_gather(ids, **GOOD)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_gather_grad_blocks(ids, dy=np.zeros([ids.size, 8], np.float32), **GOOD)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"indices": np.array([2, 0], np.int32)}, r"indices\[0\] = 2 is not in \[0, 2\)"),
        ({"indptr": np.array([0, 3, 2], np.int32)}, r"indptr\[1\] = 3 and indptr\[2\] = 2"),
        ({"indptr": np.array([0, 2], np.int32)}, r"indptr must have 3 elements"),
        ({"blocks": np.zeros([2, 4], np.float32)}, r"blocks must have shape"),
        ({"blocks": np.zeros([3, 4, 4], np.float32)}, r"dimension 0 of indices must be 3"),
        ({"in_features": 2**31}, r"in_features must be from 1"),
        ({"in_features": 0}, r"in_features"),
        ({"out_features": 2**40}, r"out_features must be from 1"),
    ],
)
def test_bad_patterns(change, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops().block_sparse_gather(np.array([1], np.int32), **{**GOOD, **change})


def test_gradient_of_a_wrong_size():
    for dy, message in (
        (np.zeros([3, 8]), "dimension 0 of dy must be 2"),
        (np.zeros([2, 7]), "dimension 1 of dy must be 8"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            ops().block_sparse_gather_grad_blocks(np.array([1, 2]), dy=dy.astype(np.float32), **GOOD)


def test_wrong_arguments():
    good = dict(GOOD, ids=[1])
    for change, error, message in [
        ({"ids": [1.0]}, TypeError, "`ids` of dtype int32 or int64, got float32"),
        ({"blocks": np.zeros([2, 4, 4])}, TypeError, "`blocks` of dtype float32, got float64"),
        ({"in_features": None}, ValueError, "`in_features` must be a positive int, got None"),
        ({"indices": [[1, 0]]}, ValueError, "`indices` of shape"),
    ]:
        with pytest.raises(error, match=message):
            block_sparse_gather(**{**good, **change})
