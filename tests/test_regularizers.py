import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from helpers import loop_blocks
from tf_blocksparse.blocks import BlockGrid


def penalty_by_loops(w, grid):
    return sum(np.sqrt((w[r, c].astype("float64") ** 2).sum()) for _, _, r, c in loop_blocks(grid))


@pytest.mark.parametrize("shape,block,gates", [((8, 8), (4, 4), 1), ((7, 10), (4, 3), 1), ((6, 36), (4, 4), 4)])
def test_penalty_is_the_sum_of_block_norms(shape, block, gates):
    w = np.random.default_rng(0).standard_normal(shape).astype("float32")
    penalty = bs.BlockGroupLasso(0.3, block, gates)(keras.Variable(w))
    expected = 0.3 * penalty_by_loops(w, BlockGrid(shape, block, gates))
    np.testing.assert_allclose(float(penalty), expected, rtol=1e-5)


def test_gradient_is_the_unit_block_and_zero_at_zero_blocks():
    w = np.zeros((4, 4), "float32")
    w[:2, :2] = [[3.0, 0.0], [0.0, 4.0]]
    v = tf.Variable(w)
    with tf.GradientTape() as tape:
        loss = bs.BlockGroupLasso(2.0, 2)(v)
    gradient = tape.gradient(loss, v).numpy()
    expected = np.zeros((4, 4))
    expected[:2, :2] = 2.0 * w[:2, :2] / 5.0
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_follows_the_pruning_schedule_and_ends_with_it():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.5, 3, 10, frequency=2), group_lasso=0.1)
    model.compile(keras.optimizers.Adam(0.0), "mse")
    seen = []
    for _ in range(14):
        seen.append(float(sum(model.losses)))
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 8)))
    assert seen[:3] == [0.0] * 3
    assert all(s > 0 for s in seen[3:10])
    assert seen[10:] == [0.0] * 4


def test_training_with_it_stays_finite_at_zero_blocks():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.75, 0, 8, frequency=1), group_lasso=1e-2)
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), "mse")
    model.fit(np.ones((64, 8)), np.ones((64, 4)), batch_size=2, verbose=0)
    assert all(np.isfinite(v.numpy()).all() for v in [*model.weights, *model.optimizer.variables])


def test_alone_it_acts_all_the_time_and_adds_to_another():
    layer = keras.layers.Dense(4, kernel_regularizer=bs.BlockGroupLasso(0.5, 2, inner=keras.regularizers.L2(0.1)))
    layer.build((None, 4))
    w = np.asarray(layer.kernel)
    expected = 0.5 * penalty_by_loops(w, BlockGrid((4, 4), 2)) + 0.1 * (w**2).sum()
    np.testing.assert_allclose(float(layer.losses[0]), expected, rtol=1e-5)


def test_serialises():
    lasso = bs.BlockGroupLasso(0.5, (4, 2), gates=3, inner=keras.regularizers.L1(0.1))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(lasso))
    assert (copy.factor, copy.block_shape, copy.gates) == (0.5, (4, 2), 3)
    assert isinstance(copy.inner, keras.regularizers.L1)


@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
def test_bad_factor(bad):
    with pytest.raises(ValueError, match="factor"):
        bs.BlockGroupLasso(bad, 4)
