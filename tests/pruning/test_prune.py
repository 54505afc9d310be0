import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import run_python
from tf_blocksparse.pruning import pruned_weights

TIME, FEATURES = 5, 7


def sequence_case(*inner):
    return keras.Sequential([keras.Input((TIME, FEATURES)), *inner])


CASES = {
    "dense": lambda: sequence_case(layers.Dense(10), layers.Flatten(), layers.Dense(3)),
    "embedding": lambda: keras.Sequential(
        [keras.Input((TIME,), dtype="int32"), layers.Embedding(30, 9), layers.LSTM(6)]
    ),
    "simple_rnn": lambda: sequence_case(layers.SimpleRNN(9)),
    "gru": lambda: sequence_case(layers.GRU(9)),
    "gru_reset_before": lambda: sequence_case(layers.GRU(9, reset_after=False)),
    "lstm": lambda: sequence_case(layers.LSTM(9)),
    "stacked": lambda: sequence_case(layers.LSTM(9, return_sequences=True), layers.GRU(5)),
    "bidirectional": lambda: sequence_case(layers.Bidirectional(layers.LSTM(9))),
    "time_distributed": lambda: sequence_case(layers.TimeDistributed(layers.Dense(9)), layers.GRU(4)),
    "cells": lambda: sequence_case(layers.RNN([layers.GRUCell(9), layers.LSTMCell(6)])),
    "nested": lambda: sequence_case(sequence_case(layers.Dense(11)), layers.LSTM(4)),
}
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
}
WEIGHTS = {
    "dense": 2,
    "embedding": 3,
    "stacked": 4,
    "bidirectional": 4,
    "time_distributed": 3,
    "cells": 4,
    "nested": 3,
}


def data_for(model, n=48, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, TIME, FEATURES)).astype("float32")
    if len(model.input_shape) == 2:
        x = rng.integers(0, 30, (n, TIME))
    return x, rng.standard_normal((n, *model.output_shape[1:])).astype("float32")


class Watch(keras.callbacks.Callback):
    """Checks after every step that dropped blocks are exactly zero and do not come back."""

    def on_train_begin(self, logs=None):
        self.steps = 0
        self.last = {w.path: None for w in pruned_weights(self.model)}

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        for weight in pruned_weights(self.model):
            mask = np.asarray(weight.constraint.block_mask)
            values = np.asarray(weight.variable)
            dropped = ~np.asarray(weight.constraint.grid.expand(mask))
            assert not values[dropped].any(), weight.path
            assert not np.signbit(values[dropped]).any(), f"{weight.path}: -0.0"
            last = self.last[weight.path]
            assert last is None or not (mask & ~last).any(), f"{weight.path}: a block came back"
            self.last[weight.path] = mask


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_zeros_are_exact_after_every_step_and_stay(case, optimizer):
    model = CASES[case]()
    before = [w.path for w in model.weights]
    schedule = bs.GradualSparsity(0.7, 2, 20, frequency=5)
    assert bs.prune_blocks(model, (4, 2), schedule) is model
    assert [w.path for w in model.weights] == before
    model.compile(OPTIMIZERS[optimizer](), "mse")
    watch = Watch()
    model.fit(*data_for(model), batch_size=2, verbose=0, callbacks=[watch])
    assert watch.steps == 24
    weights = pruned_weights(model)
    assert len(weights) == WEIGHTS.get(case, 2)
    for weight in weights:
        mask = np.asarray(weight.constraint.block_mask)
        assert int(weight.constraint.step) == 24
        assert (~mask).sum() == round(0.7 * mask.size), weight.path


@pytest.mark.parametrize("settings", [dict(jit_compile=True), dict(run_eagerly=True), dict(steps_per_execution=4)])
def test_ways_to_run_a_step_give_the_same_masks(settings):
    masks = []
    for given in ({}, settings):
        keras.utils.set_random_seed(3)
        model = sequence_case(layers.Flatten(), layers.Dense(20, activation="relu"), layers.Dense(4))
        bs.prune_blocks(model, 4, bs.GradualSparsity(0.6, 0, 20, frequency=4))
        model.compile("adam", "mse", **given)
        model.fit(*data_for(model), batch_size=2, verbose=0, shuffle=False)
        masks.append([np.asarray(w.constraint.block_mask) for w in pruned_weights(model)])
    for expected, actual in zip(*masks, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_threshold_ramp_prunes_layers_differently():
    model = CASES["stacked"]()
    ramp = bs.ThresholdRamp.for_model(model, 0.8, (4, 2), epochs=5, steps_per_epoch=24, frequency=4)
    bs.prune_blocks(model, (4, 2), ramp)
    model.compile("sgd", "mse")
    watch = Watch()
    model.fit(*data_for(model), batch_size=2, epochs=5, verbose=0, callbacks=[watch])
    sparsities = [1 - np.asarray(w.constraint.block_mask).mean() for w in pruned_weights(model)]
    assert 0.3 < np.mean(sparsities) < 1.0
    assert len(set(sparsities)) > 1


def test_one_schedule_for_each_kind_of_weight():
    model = CASES["embedding"]()
    kinds = {
        "recurrent": bs.GradualSparsity(0.9, 0, 4),
        "linear": bs.GradualSparsity(0.5, 0, 4),
    }
    bs.prune_blocks(model, 1, kinds)
    model.compile("sgd", "mse")
    model.fit(*data_for(model, n=8), batch_size=2, verbose=0)
    found = {w.attributes.weight: 1 - np.asarray(w.constraint.block_mask).mean() for w in pruned_weights(model)}
    assert found == pytest.approx({"kernel": 0.5, "recurrent_kernel": 0.9}, abs=0.01)


@pytest.mark.parametrize(
    "selection,expected",
    [
        (dict(include="second*"), ["second/kernel"]),
        (dict(exclude=["first", "third"]), ["second/kernel"]),
        (dict(include=lambda layer: layer.units == 4), ["second/kernel", "third/kernel"]),
        (dict(include=lambda layer: layer.units == 4, exclude="third"), ["second/kernel"]),
    ],
)
def test_include_and_exclude(selection, expected):
    inner = [layers.Dense(8, name="first"), layers.Dense(4, name="second"), layers.Dense(4, name="third")]
    model = sequence_case(*inner)
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4), **selection)
    assert [w.path for w in pruned_weights(model)] == expected
    by_object = sequence_case(layers.Dense(8), layers.Dense(4, name="x"))
    bs.prune_blocks(by_object, 2, bs.GradualSparsity(0.5, 0, 4), include=by_object.layers[1])
    assert [w.path for w in pruned_weights(by_object)] == ["x/kernel"]


def test_a_shared_layer_is_pruned_once():
    x = keras.Input((6,))
    shared = layers.Dense(6)
    model = keras.Model(x, shared(shared(x)))
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6)), np.ones((8, 6)), batch_size=2, verbose=0)
    (weight,) = pruned_weights(model)
    assert int(weight.constraint.step) == 4


def test_subclassed_model_that_is_not_built():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = [layers.LSTM(8), layers.Dense(4)]

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    model = bs.prune_blocks(Model(), (4, 4), bs.GradualSparsity(0.5, 0, 4))
    model.compile("adam", "mse")
    model.fit(np.ones((8, TIME, 4)), np.ones((8, 4)), batch_size=2, verbose=0, callbacks=[Watch()])
    assert [1 - np.asarray(w.constraint.block_mask).mean() for w in pruned_weights(model)] == [0.5] * 3


def test_a_model_that_was_trained_before_is_pruned_too():
    model = CASES["dense"]()
    model.compile("sgd", "mse")
    x, y = data_for(model)
    model.fit(x, y, batch_size=2, verbose=0)
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4))
    model.fit(x, y, batch_size=2, verbose=0)
    assert all(int(w.constraint.step) == 24 for w in pruned_weights(model))


def test_the_constraint_of_the_user_goes_on():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, kernel_constraint="non_neg")])
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 8)), -np.ones((8, 8)), batch_size=2, verbose=0)
    kernel = np.asarray(model.layers[0].kernel)
    assert (kernel >= 0).all()
    assert (kernel == 0).mean() >= 0.5
    bs.strip_pruning(model)
    assert isinstance(model.layers[0].kernel.constraint, keras.constraints.NonNeg)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_resume_is_bit_identical(tmp_path, suffix):
    def fresh():
        keras.utils.set_random_seed(5)
        model = CASES["bidirectional"]()
        bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.8, 0, 40, frequency=3), group_lasso=1e-3)
        model.compile(OPTIMIZERS["adam"](), "mse")
        return model

    def train(model, seed):
        model.fit(*data_for(model, seed=seed), batch_size=2, shuffle=False, verbose=0)

    through = fresh()
    train(through, 0)
    path = tmp_path / f"model{suffix}"
    (through.save if suffix == ".keras" else through.save_weights)(path)
    train(through, 1)
    if suffix == ".keras":
        resumed = keras.models.load_model(path)
    else:
        resumed = fresh()
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(path)
    train(resumed, 1)
    for a, b in zip(through.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(pruned_weights(through), pruned_weights(resumed), strict=True):
        assert int(a.constraint.step) == int(b.constraint.step) == 48
        np.testing.assert_array_equal(a.constraint.block_mask, b.constraint.block_mask)


def test_tf_checkpoint_restores_step_and_masks(tmp_path):
    def fresh():
        model = CASES["bidirectional"]()
        return bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.8, 0, 40, frequency=3))

    model = fresh()
    model.compile("adam", "mse")
    model.fit(*data_for(model), batch_size=2, verbose=0)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    restored = fresh()
    tf.train.Checkpoint(model=restored).restore(path).assert_existing_objects_matched()
    for a, b in zip(pruned_weights(model), pruned_weights(restored), strict=True):
        assert int(a.constraint.step) == int(b.constraint.step) == 24
        np.testing.assert_array_equal(a.constraint.block_mask, b.constraint.block_mask)
        np.testing.assert_array_equal(a.variable, b.variable)


SCHEDULE = bs.GradualSparsity(0.5, 0, 10)


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: bs.prune_blocks(keras.Sequential(), 4, SCHEDULE), ValueError, "nothing to prune.*empty model"),
        (lambda: bs.prune_blocks(layers.Conv2D(3, 3), 4, SCHEDULE), ValueError, "nothing to prune in Conv2D.*Dense"),
        (lambda: bs.prune_blocks("lstm", 4, SCHEDULE), TypeError, r"Keras 3 layer.*'lstm'"),
        (lambda: bs.prune_blocks(layers.Dense(4), 0, SCHEDULE), ValueError, "block_shape=0"),
        (lambda: bs.prune_blocks(layers.Dense(4), (1, 2, 3), SCHEDULE), ValueError, r"block_shape=\(1, 2, 3\)"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4), ValueError, "`schedule` is missing"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, 0.5), TypeError, r"Received: 0\.5"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, {"dense": SCHEDULE}), ValueError, "has the keys"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, score="median"), ValueError, "median"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, include=3), TypeError, "Received: 3"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, exclude="*"), ValueError, "nothing to prune"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, group_lasso=-1), ValueError, "factor=-1"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, train_steps=9), ValueError, "ends after training"),
        (
            lambda: bs.prune_blocks(bs.prune_blocks(layers.Dense(4), 4, SCHEDULE), 4, SCHEDULE),
            ValueError,
            "pruned already",
        ),
        (lambda: bs.strip_pruning(layers.Dense(4)), ValueError, "Nothing is pruned"),
    ],
)
def test_errors_come_at_once_and_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_refused_call_changes_nothing():
    model = CASES["stacked"]()
    with pytest.raises(TypeError):
        bs.prune_blocks(model, 4, {"recurrent": SCHEDULE, "linear": 3})
    assert not pruned_weights(model)


class TestStrip:
    def trained(self):
        model = CASES["bidirectional"]()
        bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.7, 0, 20), group_lasso=1e-4)
        model.compile("adam", "mse")
        model.fit(*data_for(model), batch_size=2, verbose=0)
        return model

    def test_a_plain_keras_model_remains(self, tmp_path):
        model = self.trained()
        x, _ = data_for(model)
        expected = model.predict(x, verbose=0)
        assert bs.strip_pruning(model) is model
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
        assert not pruned_weights(model)
        assert "tf_blocksparse" not in model.to_json()
        model.save(tmp_path / "plain.keras")
        np.save(tmp_path / "x.npy", x)
        run_python(
            "import sys, keras, numpy as np\n"
            "model = keras.models.load_model(sys.argv[1] + '/plain.keras')\n"
            "np.save(sys.argv[1] + '/y.npy', model.predict(np.load(sys.argv[1] + '/x.npy'), verbose=0))\n"
            "assert 'tf_blocksparse' not in sys.modules",
            tmp_path,
        )
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)

    def test_masks_once_more(self):
        model = self.trained()
        weight = pruned_weights(model)[0]
        weight.variable.assign(np.ones(weight.variable.shape))
        bs.strip_pruning(model)
        assert (np.asarray(weight.variable) == 0).mean() > 0.5

    def test_training_that_stopped_early_is_told(self, caplog):
        model = CASES["dense"]()
        bs.prune_blocks(model, 4, bs.GradualSparsity(0.7, 0, 1000))
        bs.strip_pruning(model)
        assert "ends at step 1000, but only 0 steps" in caplog.text


class TestWrapper:
    def build(self, wrapped):
        keras.utils.set_random_seed(7)
        schedule = bs.GradualSparsity(0.6, 0, 20, frequency=4)
        wrap = (lambda layer: bs.PruneBlocks(layer, 2, schedule)) if wrapped else (lambda layer: layer)
        model = keras.Sequential(
            [
                keras.Input((TIME,), dtype="int32"),
                wrap(layers.Embedding(30, 8, mask_zero=True)),
                wrap(layers.Bidirectional(layers.GRU(6))),
                wrap(layers.Dense(4)),
            ]
        )
        if not wrapped:
            bs.prune_blocks(model, 2, schedule)
        model.compile("adam", "mse")
        model.fit(*data_for(model), batch_size=2, shuffle=False, verbose=0)
        return model

    def test_does_what_prune_blocks_does(self, tmp_path):
        wrapped, in_place = self.build(True), self.build(False)
        for a, b in zip(wrapped.get_weights(), in_place.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        x, _ = data_for(wrapped)
        expected = in_place.predict(x, verbose=0)
        np.testing.assert_array_equal(wrapped.predict(x, verbose=0), expected)
        wrapped.save(tmp_path / "wrapped.keras")
        loaded = keras.models.load_model(tmp_path / "wrapped.keras")
        assert [int(w.constraint.step) for w in pruned_weights(loaded)] == [24] * 6
        stripped = bs.strip_pruning(loaded)
        np.testing.assert_array_equal(stripped.predict(x, verbose=0), expected)
        assert "tf_blocksparse" not in stripped.to_json()

    def test_needs_a_schedule(self):
        with pytest.raises(ValueError, match="`schedule` is missing"):
            bs.PruneBlocks(layers.Dense(4), 4)
