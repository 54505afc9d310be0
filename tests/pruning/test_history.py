import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.compat.v1 import train as v1_train

import tf_blocksparse as bs
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.tensorboard import mask_picture


def model_with(schedule, **settings):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(12, name="a"), layers.Dense(6, name="b")])
    bs.prune_blocks(model, (4, 2), schedule, **settings)
    return model


def fit(model, steps, callbacks=(), epochs=1, **compile_settings):
    model.compile("sgd", "mse", **compile_settings)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2 * steps, 8)), rng.standard_normal((2 * steps, 6))
    model.fit(x, y, batch_size=2, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


class TestSparsityHistory:
    def test_records_what_the_masks_are_at_these_steps(self):
        model, history, seen = model_with(bs.GradualSparsity(0.75, 2, 9, frequency=3)), bs.SparsityHistory(every=2), []

        def look(batch, logs):
            seen.append({w.path: np.asarray(w.pruning.block_mask) for w in pruned_weights(model)})

        fit(model, 11, [keras.callbacks.LambdaCallback(on_train_batch_end=look), history])
        assert history.steps == [2, 4, 6, 8, 10, 11]
        for path, sparsities in history.sparsity.items():
            assert sparsities == [1 - seen[step - 1][path].mean() for step in history.steps]

    def test_threshold_of_a_ramp_is_the_schedules(self):
        ramp, history = bs.ThresholdRamp(2, 4, 8, 0.1, 0.2, frequency=2), bs.SparsityHistory(every=1)
        fit(model_with(ramp), 9, [history])
        expected = [float(ramp.threshold(step)) for step in range(1, 10)]
        assert history.threshold == {"a/kernel": expected, "b/kernel": expected}

    def test_threshold_of_a_ranking_is_the_lowest_score_that_is_kept(self):
        model, history = model_with(bs.GradualSparsity(0.75, 0, 4, frequency=1)), bs.SparsityHistory(every=1)
        fit(model, 6, [history])
        for weight in pruned_weights(model):
            mask, w = np.asarray(weight.pruning.block_mask), np.abs(np.asarray(weight.variable))
            blocks = [w[4 * i : 4 * i + 4, 2 * j : 2 * j + 2].max() for i, j in zip(*np.nonzero(mask), strict=True)]
            assert history.threshold[weight.path][-1] == pytest.approx(min(blocks))

    @pytest.mark.parametrize("several,expected", [(3, [3, 6, 9, 12]), (5, [5, 10, 12])])
    def test_several_steps_at_once(self, several, expected):
        history = bs.SparsityHistory(every=2)
        fit(model_with(bs.GradualSparsity(0.5, 0, 4)), 12, [history], steps_per_execution=several)
        assert history.steps == expected

    def test_goes_on_in_the_next_fit(self):
        model, history = model_with(bs.GradualSparsity(0.5, 0, 4)), bs.SparsityHistory(every=3)
        fit(model, 5, [history])
        fit(model, 5, [history])
        assert history.steps == [3, 5, 8, 10]

    def test_a_training_that_is_too_short_is_told_before_it_begins(self, caplog):
        fit(model_with(bs.GradualSparsity(0.5, 0, 21)), 10, [bs.SparsityHistory()], epochs=2)
        assert "ends at step 21" in caplog.text and "ends at step 20 at the latest" in caplog.text

    @pytest.mark.parametrize("end_step,settings", [(20, {}), (10, dict(gradient_accumulation_steps=2))])
    def test_a_training_that_is_long_enough_is_not(self, caplog, end_step, settings):
        fit(model_with(bs.GradualSparsity(0.5, 0, end_step), **settings), 10, [bs.SparsityHistory()], epochs=2)
        assert "pruning schedule ends" not in caplog.text

    def test_a_model_that_is_not_pruned_has_no_history(self):
        model, history = keras.Sequential([keras.Input((8,)), layers.Dense(6)]), bs.SparsityHistory()
        fit(model, 3, [history])
        assert (history.steps, history.sparsity, history.threshold) == ([], {}, {})

    def test_every_is_at_least_one(self):
        with pytest.raises(ValueError, match="every=0"):
            bs.SparsityHistory(every=0)


def events_in(folder):
    """`(tag, step, tensor proto)` of all event files in a folder."""
    for path in sorted(folder.glob("events*")):
        for event in v1_train.summary_iterator(str(path)):
            for value in event.summary.value:
                yield value.tag, event.step, value.tensor


class TestPruningTensorBoard:
    def test_writes_what_happened(self, tmp_path):
        model = model_with(bs.GradualSparsity(0.75, 0, 6, frequency=2))
        board = bs.PruningTensorBoard(tmp_path, every=4)
        fit(model, 5, [board], epochs=2)
        events = list(events_in(tmp_path))
        for path in ("a/kernel", "b/kernel"):
            sparsities = [(step, float(tf.make_ndarray(t))) for tag, step, t in events if tag == f"sparsity/{path}"]
            assert sparsities == [
                (step, pytest.approx(value)) for step, value in zip(board.steps, board.sparsity[path], strict=True)
            ]
            thresholds = [float(tf.make_ndarray(t)) for tag, _, t in events if tag == f"threshold/{path}"]
            assert thresholds == pytest.approx(board.threshold[path])
            assert [step for tag, step, _ in events if tag == f"block_mask/{path}"] == [5, 10]
            assert [step for tag, step, _ in events if tag == f"output_connections/{path}"] == [5, 10]
        without = [float(tf.make_ndarray(t)) for tag, _, t in events if tag == "neurons_without_output/b/kernel"]
        assert without[-1] == bs.neurons_without_output(model)["b/kernel"]
        overall = [float(tf.make_ndarray(t)) for tag, _, t in events if tag == "sparsity/all"]
        zeros = sum((w.matrix() == 0).sum() for w in pruned_weights(model))
        assert overall[-1] == pytest.approx(zeros / (8 * 12 + 12 * 6))

    def test_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"tf-blocksparse\[tensorboard\]"):
            bs.PruningTensorBoard(tmp_path)

    def test_a_model_that_is_not_pruned_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="nothing to show"):
            fit(keras.Sequential([keras.Input((8,)), layers.Dense(6)]), 1, [bs.PruningTensorBoard(tmp_path)])


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (700, 20), (1300, 900)])
def test_picture_of_a_mask_has_its_density(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    picture = mask_picture(mask, pixels=256)
    assert max(picture.shape) <= 256
    assert 0 <= picture.min() and picture.max() <= 1
    assert picture.mean() == pytest.approx(1 - mask.mean(), abs=0.01)
    assert math.prod(picture.shape) > 0


def test_picture_of_a_small_mask_is_enlarged():
    picture = mask_picture(np.array([[True, False]]), pixels=8)
    np.testing.assert_array_equal(picture, [[0, 0, 1, 1]] * 2)
