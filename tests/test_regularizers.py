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


def test_training_with_it_stays_finite_at_zero_blocks():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.75, 0, 8, frequency=1), regularizer=bs.BlockGroupLasso(1e-2))
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), "mse")
    model.fit(np.ones((64, 8)), np.ones((64, 4)), batch_size=2, verbose=0)
    assert all(np.isfinite(v.numpy()).all() for v in [*model.weights, *model.optimizer.variables])


def pruned_dense(**arguments):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, **arguments)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def losses_over_steps(model, steps):
    seen = []
    for _ in range(steps):
        seen.append(float(sum(model.losses)))
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 8)))
    return seen


REGULARIZERS = {
    "group lasso": (
        lambda **k: bs.BlockGroupLasso(0.5, 2, **k),
        lambda w: 0.5 * penalty_by_loops(w, BlockGrid((8, 8), 2)),
    ),
    "group lasso by size": (
        lambda **k: bs.BlockGroupLasso(0.5, 2, scale_by_size=True, **k),
        lambda w: 0.5 * 2 * penalty_by_loops(w, BlockGrid((8, 8), 2)),
    ),
    "l1": (lambda **k: keras.regularizers.L1(0.5), lambda w: 0.5 * np.abs(w).sum()),
    "l1/2": (lambda **k: bs.LHalf(0.5, **k), lambda w: 0.5 * np.sqrt(np.abs(w)).sum()),
}


@pytest.mark.parametrize("name", REGULARIZERS)
class TestEachOf:
    def test_alone_it_acts_for_the_whole_training(self, name):
        make, closed_form = REGULARIZERS[name]
        model = pruned_dense(kernel_regularizer=make(follow_schedule=False))
        bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 2, 4, frequency=1))
        w = np.asarray(model.layers[0].kernel, "float64")
        seen = losses_over_steps(model, 7)
        np.testing.assert_allclose(seen[:2], closed_form(w), rtol=1e-5)
        np.testing.assert_allclose(seen[-1], closed_form(np.asarray(model.layers[0].kernel, "float64")), rtol=1e-5)
        assert 0 < seen[-1] < seen[0]

    def test_with_pruning_it_acts_while_the_schedule_runs(self, name):
        make, closed_form = REGULARIZERS[name]
        model = pruned_dense()
        bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 2, 6, frequency=4), regularizer=make())
        w = np.asarray(model.layers[0].kernel, "float64")
        seen = losses_over_steps(model, 9)
        assert seen[:2] == [0.0] * 2
        np.testing.assert_allclose(seen[2], closed_form(w), rtol=1e-5)
        assert all(loss > 0 for loss in seen[2:6])
        assert seen[6:] == [0.0] * 3

    def test_without_pruning_it_acts_all_the_time(self, name):
        make, closed_form = REGULARIZERS[name]
        model = pruned_dense(kernel_regularizer=make())
        w = np.asarray(model.layers[0].kernel, "float64")
        np.testing.assert_allclose(losses_over_steps(model, 3), closed_form(w), rtol=1e-5)

    def test_gradient_is_finite_and_zero_at_zero_blocks(self, name):
        make, _ = REGULARIZERS[name]
        v = keras.Variable(np.zeros((8, 8), "float32"))
        v.assign(np.pad([[3.0, 0.0], [0.0, -4.0]], (0, 6)))
        with tf.GradientTape() as tape:
            loss = make()(v)
        gradient = tape.gradient(loss, v.value).numpy()
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[v.numpy() == 0], 0)
        assert gradient[0, 0] > 0 > gradient[1, 1]

    def test_serialises(self, name):
        regularizer = REGULARIZERS[name][0]()
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(regularizer))
        assert type(copy) is type(regularizer)
        assert copy.get_config() == regularizer.get_config()

    def test_it_adds_to_what_the_layer_had(self, name):
        make, closed_form = REGULARIZERS[name]
        model = pruned_dense(kernel_regularizer=keras.regularizers.L2(0.25))
        bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 1, 4), regularizer=make())
        w = np.asarray(model.layers[0].kernel, "float64")
        seen = losses_over_steps(model, 3)
        np.testing.assert_allclose(seen[0], 0.25 * (w**2).sum(), rtol=1e-5)
        np.testing.assert_allclose(seen[1], 0.25 * (w**2).sum() + closed_form(w), rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: bs.BlockGroupLasso(0.5), lambda: bs.LHalf(0.5)])
def test_on_a_pruned_layer_our_own_follow_the_schedule(make):
    model = pruned_dense()
    layer = model.layers[0]
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 2, 5, frequency=1))
    layer.kernel.regularizer = layer.kernel_regularizer = make()
    seen = losses_over_steps(model, 8)
    assert [loss > 0 for loss in seen] == [False] * 2 + [True] * 3 + [False] * 3


def test_group_lasso_takes_blocks_gates_and_view_from_the_pruning():
    model = keras.Sequential([keras.Input((5, 7)), keras.layers.LSTM(6), keras.layers.Reshape((2, 3, 1))])
    model.add(keras.layers.Conv2DTranspose(5, 2, use_bias=False))
    schedule = bs.GradualSparsity(0.5, 0, 4)
    bs.prune_blocks(model, (4, 3), schedule, regularizer=bs.BlockGroupLasso(0.5))
    lstm, conv = model.layers[0].cell, model.layers[2]
    expected = penalty_by_loops(np.asarray(lstm.kernel), BlockGrid((7, 24), (4, 3), 4))
    expected += penalty_by_loops(np.asarray(lstm.recurrent_kernel), BlockGrid((6, 24), (4, 3), 4))
    as_matrix = np.asarray(conv.kernel).transpose(0, 1, 3, 2).reshape(4, 5)  # [height * width * in, out]
    expected += penalty_by_loops(as_matrix, BlockGrid((4, 5), (4, 3)))
    np.testing.assert_allclose(float(sum(model.losses)), 0.5 * expected, rtol=1e-5)


def test_group_lasso_scale_counts_the_elements_of_edge_blocks():
    w = np.random.default_rng(0).standard_normal((5, 7)).astype("float32")
    grid = BlockGrid((5, 7), (4, 3))
    expected = sum(np.linalg.norm(w[r, c]) * np.sqrt(w[r, c].size) for _, _, r, c in loop_blocks(grid))
    lasso = bs.BlockGroupLasso(0.3, (4, 3), scale_by_size=True)
    np.testing.assert_allclose(float(lasso(keras.Variable(w))), 0.3 * expected, rtol=1e-5)


def test_lhalf_below_its_cut_is_the_chord():
    w = np.array([[1e-4, -0.01], [0.04, 0.0]], "float32")
    expected = 2.0 * (1e-4 / np.sqrt(0.01) + 0.01 / np.sqrt(0.01) + np.sqrt(0.04))
    np.testing.assert_allclose(float(bs.LHalf(2.0, cut=0.01)(keras.Variable(w))), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda f: bs.BlockGroupLasso(f, 4), bs.LHalf])
@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
def test_bad_factor(make, bad):
    with pytest.raises(ValueError, match="factor"):
        make(bad)


def test_bad_arguments():
    with pytest.raises(ValueError, match="cut=0"):
        bs.LHalf(1.0, cut=0)
    with pytest.raises(ValueError, match="needs a `block_shape`"):
        bs.BlockGroupLasso(1.0)(keras.Variable(np.ones((4, 4), "float32")))
