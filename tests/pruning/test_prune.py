import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from helpers import run_python
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.tfmot import tfmot

TIME, FEATURES = 5, 7


def sequence_case(*inner):
    return keras.Sequential([keras.Input((TIME, FEATURES)), *inner])


CASES = {
    "dense": lambda: sequence_case(layers.Dense(10), layers.Flatten(), layers.Dense(3)),
    "embedding": lambda: keras.Sequential(
        [keras.Input((TIME,), dtype="int32"), layers.Embedding(30, 9), layers.LSTM(6)]
    ),
    "stacked": lambda: sequence_case(layers.LSTM(9, return_sequences=True), layers.GRU(5)),
    "bidirectional": lambda: sequence_case(layers.Bidirectional(layers.LSTM(9))),
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
    found = {w.name: 1 - np.asarray(w.constraint.block_mask).mean() for w in pruned_weights(model)}
    assert found == pytest.approx({"kernel": 0.5, "recurrent_kernel": 0.9}, abs=0.01)


@pytest.mark.parametrize(
    "selection,expected",
    [
        (dict(include="second*"), ["second/kernel"]),
        (dict(exclude=["first", "third"]), ["second/kernel"]),
        (dict(include=lambda layer: layer.units == 4), ["second/kernel", "third/kernel"]),
        (dict(include=lambda layer: layer.units == 4, exclude="third"), ["second/kernel"]),
        (dict(include=["first/kernel", "*ird/k*"]), ["first/kernel", "third/kernel"]),
        (dict(include=[layers.LSTM, layers.Dense], exclude="*st"), ["second/kernel", "third/kernel"]),
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


def test_block_shapes_and_schedules_by_kind_and_by_name():
    model = keras.Sequential([keras.Input((TIME,), dtype="int32"), layers.Embedding(30, 9, name="words")])
    for layer in (layers.LSTM(8, return_sequences=True, name="lstm_1"), layers.LSTM(8, name="lstm_2")):
        model.add(layer)
    model.add(layers.Dense(12, name="out"))
    half, most = bs.GradualSparsity(0.5, 0, 2), bs.GradualSparsity(0.75, 0, 2)
    bs.prune_blocks(
        model,
        block_shape={"recurrent": (8, 4), "lstm_*": 4, "*": 2},
        schedule={"lstm_2": most, "recurrent": half, "out/kernel": half},
    )
    found = {w.path: (w.pruning.block_shape, w.pruning.schedule.target_sparsity) for w in pruned_weights(model)}
    assert found == {
        "lstm_1/recurrent_kernel": ((8, 4), 0.5),
        "lstm_2/kernel": ((4, 4), 0.75),
        "lstm_2/recurrent_kernel": ((8, 4), 0.75),
        "out/kernel": ((2, 2), 0.5),
    }


def test_what_is_pruned_and_what_is_not_is_logged(caplog):
    caplog.set_level("INFO", logger="tf_blocksparse")
    inner = [layers.Dense(8, name="a"), layers.Dense(4, name="b"), layers.Reshape((2, 10, 1))]
    model = sequence_case(*inner, layers.SeparableConv2D(3, 2, name="c"))
    bs.prune_blocks(model, {"*": (4, 2)}, {"linear": bs.GradualSparsity(0.5, 0, 4)}, exclude="b")
    assert caplog.messages == [
        "pruned: a/kernel in 4 x 2 blocks",
        "left alone: b/kernel: in `exclude`",
        "left alone: c/pointwise_kernel: no schedule or block shape for it",
        "left alone: a/bias: it is added",
        "left alone: b/bias: it is added",
        "left alone: c/depthwise_kernel: each channel has a filter of its own, which is no matrix product",
        "left alone: c/bias: it is added",
    ]


def test_a_target_that_whole_blocks_cannot_come_near_is_told_before_training(caplog):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(40, name="fine"), layers.Dense(10, name="coarse")])
    bs.prune_blocks(model, 32, bs.GradualSparsity(0.75, 0, 4))
    assert [m.split(" has only")[0] for m in caplog.messages] == ["coarse/kernel"]
    assert "2 x 1 blocks of (32, 32): its sparsity will be 0.500" in caplog.text


class TwoMatrices(layers.Layer):
    """A layer whose weights have no constraints: two matrices side by side, and a vector."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], 10), name="w")
        self.scale = self.add_weight(shape=(10,), name="scale")

    def call(self, x):
        return x @ self.w * self.scale


class TestNamedWeights:
    def trained(self, **arguments):
        model = sequence_case(TwoMatrices(name="custom"), layers.Flatten(), layers.Dense(3))
        bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.5, 0, 8, frequency=4), **arguments)
        model.compile("adam", "mse")
        model.fit(*data_for(model), batch_size=4, verbose=0, callbacks=[Watch()])
        return model

    @pytest.mark.parametrize("weights", ["w", "custom/w", ["w", "custom/w"], {"*/w": 1}])
    def test_are_pruned(self, weights):
        model = self.trained(weights=weights)
        assert [w.path for w in pruned_weights(model)] == [f"{model.layers[-1].name}/kernel", "custom/w"][::-1]
        w = np.asarray(model.layers[0].w)
        assert (w == 0).mean() == pytest.approx(0.5, abs=0.1)

    def test_gates(self):
        model = self.trained(weights={"w": 2}, include="custom")
        (weight,) = pruned_weights(model)
        assert weight.pruning.grid.mask_shape == (2, 2 * 3)

    def test_without_their_name_they_are_left_alone(self):
        assert len(pruned_weights(self.trained())) == 1

    def test_a_vector_cannot_be_pruned(self):
        with pytest.raises(ValueError, match="custom/scale cannot be pruned: it is a vector"):
            self.trained(weights="scale")

    def test_strip(self):
        model = bs.strip_pruning(self.trained(weights="w"))
        assert model.layers[0].w.constraint is None


class TestGlobalRanking:
    def trained(self, ranking="global", schedule=None, **settings):
        keras.utils.set_random_seed(4)
        model = CASES["stacked"]()
        for weight, scale in zip(model.layers[0].cell.weights, (4.0, 0.5, 1.0), strict=True):
            weight.assign(scale * weight)
        schedule = schedule or bs.GradualSparsity(0.8, 2, 20, frequency=6)
        bs.prune_blocks(model, (4, 2), schedule, ranking=ranking)
        model.compile(keras.optimizers.SGD(0.01), "mse", **settings)
        model.fit(*data_for(model), batch_size=2, shuffle=False, verbose=0, callbacks=[Watch()])
        return model

    @pytest.mark.parametrize("settings", [{}, dict(jit_compile=True), dict(run_eagerly=True)], ids=str)
    def test_target_is_reached_over_all_weights_to_one_block(self, settings):
        masks = [np.asarray(w.pruning.block_mask) for w in pruned_weights(self.trained(**settings))]
        total = sum(mask.size for mask in masks)
        assert sum((~mask).sum() for mask in masks) == round(0.8 * total)
        shares = [1 - mask.mean() for mask in masks]
        assert max(shares) - min(shares) > 0.2
        assert all(mask.any() for mask in masks)

    def test_lowest_scores_of_all_go_first(self):
        model = self.trained(schedule=bs.ConstantSparsity(0.6, begin_step=24))  # the last step: nothing trains after
        reference = self.trained(schedule=bs.GradualSparsity(0.0, 0, 24))
        scores = [np.array(w.pruning.scores(w.variable)) for w in pruned_weights(reference)]
        for one in scores:
            one[np.unravel_index(one.argmax(), one.shape)] = np.inf  # a weight keeps its best block
        flat = np.concatenate([one.ravel() for one in scores])
        kept = np.ones(flat.size, bool)
        kept[np.argsort(flat, kind="stable")[: round(0.6 * flat.size)]] = False
        found = np.concatenate([np.asarray(w.pruning.block_mask).ravel() for w in pruned_weights(model)])
        np.testing.assert_array_equal(found, kept)

    def test_no_weight_loses_its_last_block(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(8)])
        model.layers[0].kernel.assign(1e-6 * np.asarray(model.layers[0].kernel))
        bs.prune_blocks(model, 2, bs.ConstantSparsity(0.6), ranking="global")
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.train_on_batch(np.ones((2, 8)), np.ones((2, 8)))
        kept = [np.asarray(w.pruning.block_mask).sum() for w in pruned_weights(model)]
        assert kept == [1, 32 - round(0.6 * 32) - 1]

    def test_weights_of_one_schedule_share_a_target(self):
        model = CASES["stacked"]()
        schedules = {"recurrent": bs.ConstantSparsity(0.5), "linear": bs.ConstantSparsity(0.75)}
        bs.prune_blocks(model, (4, 2), schedules, ranking="global")
        model.compile("sgd", "mse")
        model.fit(*data_for(model, n=2), verbose=0)
        for kind, target in (("recurrent", 0.5), ("linear", 0.75)):
            masks = [np.asarray(w.pruning.block_mask) for w in pruned_weights(model) if w.kind == kind]
            assert sum((~m).sum() for m in masks) == round(target * sum(m.size for m in masks))

    def test_a_weight_may_be_the_only_one_of_its_schedule(self):
        model = sequence_case(layers.SimpleRNN(8))
        schedules = {"recurrent": bs.ConstantSparsity(0.5), "linear": bs.ConstantSparsity(0.75)}
        bs.prune_blocks(model, (4, 2), schedules, ranking="global")
        model.compile("sgd", "mse")
        model.train_on_batch(*data_for(model, n=2))
        assert {w.path.split("/")[1]: w.sparsity for w in bs.report(model).weights} == {
            "kernel": 0.75,
            "recurrent_kernel": 0.5,
        }

    def test_a_threshold_has_no_target_to_spread(self):
        with pytest.raises(ValueError, match="HardThreshold without target_sparsity"):
            bs.prune_blocks(CASES["dense"](), 4, bs.HardThreshold(0.1), ranking="global")

    def test_a_clone_must_be_linked(self):
        clone = keras.models.clone_model(self.trained())
        clone.compile("sgd", "mse")
        with pytest.raises(ValueError, match="link_ranking"):
            clone.fit(*data_for(clone, n=2), verbose=0)
        bs.link_ranking(clone).compile("sgd", "mse")
        clone.fit(*data_for(clone, n=2), verbose=0)
        assert [int(w.pruning.step) for w in pruned_weights(clone)] == [1] * 4


def test_tfmots_schedule_reaches_its_target_whatever_the_frequency():
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.7, begin_step=2, end_step=20, frequency=7)
    model = bs.prune_blocks(CASES["dense"](), (4, 2), schedule)
    model.compile("sgd", "mse")
    model.fit(*data_for(model), batch_size=2, verbose=0)
    for weight in pruned_weights(model):
        mask = np.asarray(weight.pruning.block_mask)
        assert (~mask).sum() == round(0.7 * mask.size)


def test_steps_are_optimizer_steps_when_gradients_accumulate():
    model = sequence_case(layers.Flatten(), layers.Dense(8))
    schedule = bs.GradualSparsity(0.5, 2, 4, frequency=1, initial_sparsity=0.2)
    bs.prune_blocks(model, (5, 2), schedule, gradient_accumulation_steps=3)
    model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=3), "mse")
    (weight,) = pruned_weights(model)
    dropped = []
    for _ in range(15):
        model.train_on_batch(*data_for(model, n=2))
        dropped.append(int((~np.asarray(weight.pruning.block_mask)).sum()))
        assert int(weight.pruning.step) == int(model.optimizer.iterations)
    n = weight.pruning.grid.num_blocks
    at_3 = 0.5 + (0.2 - 0.5) * 0.5**3
    assert dropped == [0] * 5 + [round(0.2 * n)] * 3 + [round(at_3 * n)] * 3 + [round(0.5 * n)] * 4


def test_a_frozen_layer_waits():
    model = CASES["stacked"]()
    bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.5, 0, 4, frequency=1))
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    x, y = data_for(model, n=8)
    model.fit(x, y, batch_size=2, verbose=0)
    assert [int(w.pruning.step) for w in pruned_weights(model)] == [0, 0, 4, 4]
    model.layers[0].trainable = True
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=2, verbose=0)
    assert [int(w.pruning.step) for w in pruned_weights(model)] == [4, 4, 8, 8]
    assert [(~np.asarray(w.pruning.block_mask)).mean() for w in pruned_weights(model)] == pytest.approx([0.5] * 4, 0.05)


def test_a_shared_layer_is_pruned_once():
    x = keras.Input((6,))
    shared = layers.Dense(6)
    model = keras.Model(x, shared(shared(x)))
    bs.prune_blocks(model, 2, bs.GradualSparsity(0.5, 0, 4))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6)), np.ones((8, 6)), batch_size=2, verbose=0)
    (weight,) = pruned_weights(model)
    assert int(weight.constraint.step) == 4


def test_layers_that_are_pruned_before_they_are_wrapped():
    def pruned(layer):
        schedule = bs.GradualSparsity(0.7, 0, 8, frequency=2)
        return bs.prune_blocks(layer, (4, 2), schedule, regularizer=bs.BlockGroupLasso(1e-3))

    model = sequence_case(
        layers.Bidirectional(pruned(layers.LSTM(6, return_sequences=True)), name="both"),
        layers.TimeDistributed(pruned(layers.Dense(9, name="dense")), name="each"),
        layers.RNN([pruned(layers.GRUCell(6, name="low")), pruned(layers.SimpleRNNCell(4, name="high"))], name="rnn"),
    )
    model.compile("adam", "mse")
    model.fit(*data_for(model, n=20), batch_size=2, verbose=0, callbacks=[Watch()])
    weights = pruned_weights(model)
    assert len(weights) == 4 + 1 + 4
    assert len({id(weight.pruning) for weight in weights}) == 9
    for weight in weights:
        mask = np.asarray(weight.pruning.block_mask)
        assert int(weight.pruning.step) == 10
        assert (~mask).sum() == min(round(0.7 * mask.size), mask.size - 1), weight.path


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


SCHEDULE = bs.GradualSparsity(0.5, 0, 10)


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: bs.prune_blocks(keras.Sequential(), 4, SCHEDULE), ValueError, "nothing to prune.*empty model"),
        (
            lambda: bs.prune_blocks(layers.DepthwiseConv2D(3), 4, SCHEDULE),
            ValueError,
            "nothing to prune in DepthwiseConv2D.*depthwise_kernel .each channel has a filter of its own.*Dense",
        ),
        (lambda: bs.prune_blocks("lstm", 4, SCHEDULE), TypeError, r"Keras 3 layer.*'lstm'"),
        (lambda: bs.prune_blocks(layers.Dense(4), 0, SCHEDULE), ValueError, "block_shape=0"),
        (lambda: bs.prune_blocks(layers.Dense(4), (1, 2, 3), SCHEDULE), ValueError, r"block_shape=\(1, 2, 3\)"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4), ValueError, "`schedule` is missing"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, 0.5), TypeError, r"Received: 0\.5"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, {"lstm": SCHEDULE}), ValueError, "'lstm', which fits none of"),
        (lambda: bs.prune_blocks(layers.Dense(4), {"rnn": 4}, SCHEDULE), ValueError, "`block_shape` dict.*'rnn'"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, ranking="all"), ValueError, "Received: ranking='all'"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, ranking="global"), ValueError, "Not built yet: dense"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, weights="w"), ValueError, "is named 'w'.*not built"),
        (
            lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, gradient_accumulation_steps=0),
            ValueError,
            "gradient_accumulation_steps=0",
        ),
        (
            lambda: bs.prune_blocks(layers.MultiHeadAttention(2, 4), 4, SCHEDULE),
            ValueError,
            "makes its projections when it is built",
        ),
        (lambda: bs.link_ranking(sequence_case(layers.Dense(4))), ValueError, "Nothing in .* is ranked over all"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, score="median"), ValueError, "median"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, include=3), TypeError, "Received: 3"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, exclude="*"), ValueError, "nothing to prune"),
        (lambda: bs.prune_blocks(layers.Dense(4), 4, SCHEDULE, regularizer="l3"), ValueError, "l3"),
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
        bs.prune_blocks(model, (4, 2), bs.GradualSparsity(0.7, 0, 20), regularizer=bs.BlockGroupLasso(1e-4))
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
