import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close, random_block_sparse
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.choice import Chooser
from tf_blocksparse.pruning import pruned_weights

TIME, FEATURES, WORDS = 6, 10, 40


def sequence(*inner):
    return keras.Sequential([keras.Input((TIME, FEATURES)), *inner])


def functional():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(WORDS, 12, mask_zero=True)(ids)
    x = layers.Bidirectional(layers.LSTM(9, return_sequences=True), merge_mode="sum")(x)
    x = layers.Dropout(0.3)(layers.LayerNormalization()(x))
    last, state = layers.GRU(8, return_state=True)(x)
    return keras.Model(ids, [layers.Dense(8, activation="relu")(last), layers.Dense(5)(state)])


def shared():
    x = keras.Input((8,))
    dense = layers.Dense(8)
    return keras.Model(x, dense(dense(x)))


MODELS = {
    "dense": lambda: sequence(layers.Dense(10, "relu"), layers.Flatten(), layers.Dense(4)),
    "stacked": lambda: sequence(layers.LSTM(9, return_sequences=True), layers.LSTM(8, go_backwards=True)),
    "mixed": lambda: sequence(layers.SimpleRNN(9, return_sequences=True), layers.GRU(7, reset_after=False)),
    "time_distributed": lambda: sequence(layers.TimeDistributed(layers.Dense(9)), layers.GRU(4)),
    "nested": lambda: sequence(sequence(layers.Dense(12), layers.BatchNormalization()), layers.LSTM(4)),
    "functional": functional,
    "shared": shared,
}


def inputs_of(model, n=16):
    rng = np.random.default_rng(0)
    if model.inputs[0].dtype == "int32":
        ids = rng.integers(1, WORDS, (n, TIME))
        return np.where(np.arange(TIME) < rng.integers(1, TIME + 1, (n, 1)), ids, 0)
    return rng.standard_normal((n, *model.input_shape[1:])).astype("float32")


def trained(case, target=0.6, block_shape=(4, 2), **settings):
    model = MODELS[case]()
    bs.prune_blocks(model, block_shape, bs.GradualSparsity(target, 0, 8), **settings)
    model.compile("adam", "mse")
    x = inputs_of(model)
    y = [np.zeros(tuple(len(x) if n is None else n for n in o.shape)) for o in model.outputs]
    model.fit(x, y if len(y) > 1 else y[0], batch_size=2, epochs=2, verbose=0)
    return model, x


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_same_outputs(a, b, x):
    for expected, actual in zip(outputs(a, x), outputs(b, x), strict=True):
        assert_close(actual, expected, length=200)


@pytest.mark.parametrize("case", MODELS)
def test_pruned_stripped_and_converted_models_agree(case, tmp_path):
    model, x = trained(case, regularizer=bs.BlockGroupLasso(1e-5))
    before = model.get_weights()
    expected = outputs(model, x)
    from_pruned = bs.convert(model, measure=False)
    assert_same_outputs(model, from_pruned, x)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    bs.strip_pruning(model)
    for a, b in zip(expected, outputs(model, x), strict=True):
        np.testing.assert_array_equal(b, a)
    assert_same_outputs(model, bs.convert(model, block_shape=(4, 2), measure=False), x)
    assert_same_outputs(model, bs.convert(model, min_sparsity=0.0), x)
    from_pruned.save(tmp_path / "m.keras")
    assert_same_outputs(from_pruned, keras.models.load_model(tmp_path / "m.keras"), x)


def test_it_stores_the_live_blocks_only():
    model, _ = trained("stacked")
    converted = bs.convert(model, measure=False)
    for pruned, sparse in zip(bs.report(model).weights, bs.report(converted).weights, strict=True):
        assert sparse.state == "block-sparse"
        assert sparse.path == pruned.path
        assert sparse.block_shape == (4, 2)
        assert sparse.sparsity == pruned.sparsity
        live = round((1 - sparse.sparsity) * np.prod(sparse.grid))
        lines = sparse.grid[0 if "embeddings" in sparse.path else 1]  # the order of the blocks
        assert sparse.stored_bytes == 4 * (live * (4 * 2 + 1) + lines + 1)


def test_converted_models_share_nothing_with_the_original():
    model, x = trained("dense")
    converted = bs.convert(model, measure=False)
    expected = outputs(converted, x)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(outputs(converted, x)[0], expected[0])


def test_layers_that_would_not_gain_stay_dense_and_the_report_says_so():
    model = sequence(layers.Dense(16, name="pruned"), layers.Dense(16, name="dense"), layers.Conv1D(4, 2, name="conv"))
    grid = BlockGrid((FEATURES, 16), 4)
    w, _ = random_block_sparse(np.random.default_rng(0), grid, 0.2)
    model.get_layer("pruned").kernel.assign(w)
    converted = bs.convert(model, measure=False)
    found = {w.path: (w.state, w.note) for w in bs.report(converted).weights}
    assert found["pruned/kernel"] == ("block-sparse", "")
    assert found["dense/kernel"][0] == "dense"
    assert "sparsity 0.00" in found["dense/kernel"][1]
    assert "Conv1D has no block-sparse twin" in found["conv/kernel"][1]
    x = inputs_of(model)
    assert_same_outputs(model, converted, x)


def test_a_constraint_that_needs_the_whole_matrix_keeps_a_layer_dense():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, kernel_constraint="max_norm", name="a"), layers.Dense(8, name="b")]
    )
    for layer in model.layers:
        layer.kernel.assign(np.where(np.arange(8) < 2, 1.0, 0.0) * np.ones((8, 1)))
    converted = bs.convert(model, block_shape=4, min_sparsity=0.1)
    assert [type(layer).__name__ for layer in converted.layers] == ["Dense", "BlockSparseDense"]
    assert "MaxNorm on kernel needs the whole matrix" in bs.report(converted).weights[0].note


@pytest.mark.parametrize(
    "block_shape,sparsity,expected",
    [((4, 4), 0.6, True), ((4, 4), 0.4, False), ((2, 2), 0.6, True), ((1, 1), 0.9, False), ((1, 2), 0.98, True)],
)
def test_tiny_blocks_need_more_sparsity(block_shape, sparsity, expected):
    layer = built(layers.Dense(80))
    grid = BlockGrid((8, 80), block_shape)
    kept = np.arange(grid.num_blocks) >= round(sparsity * grid.num_blocks)
    layer.kernel.assign(np.asarray(grid.expand(kept.reshape(grid.mask_shape))).astype("float32"))
    assert (Chooser(block_shape).choose(layer).why_dense is None) == expected
    assert Chooser(block_shape, min_sparsity=0.1).choose(layer).why_dense is None


def test_training_goes_on_as_the_masked_dense_model_would():
    model, x = trained("dense", block_shape=(4, 4))
    converted = bs.convert(model, measure=False)
    y = np.random.default_rng(1).standard_normal((len(x), 4))
    for one in (model, converted):
        one.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        one.fit(x, y, batch_size=4, shuffle=False, epochs=3, verbose=0)
    assert_same_outputs(model, converted, x)
    np.testing.assert_allclose(
        converted.layers[0].kernel.bsr().to_dense(), np.asarray(model.layers[0].kernel), rtol=1e-4, atol=1e-6
    )


def test_wrapped_layers_are_unwrapped():
    schedule = bs.GradualSparsity(0.75, 0, 2)
    model = keras.Sequential([keras.Input((8,)), bs.PruneBlocks(layers.Dense(8, name="inside"), 2, schedule)])
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 8)), np.ones((8, 8)), batch_size=2, verbose=0)
    converted = bs.convert(model, measure=False)
    assert [layer.name for layer in converted.layers] == ["inside"]
    assert_same_outputs(model, converted, np.ones((2, 8), "float32"))


def test_a_model_without_declared_input_and_a_single_layer():
    model = keras.Sequential([layers.Dense(16), layers.Dense(4)])
    model.build((None, 8))
    model.layers[0].kernel.assign(np.where(np.arange(16) < 4, 1.0, 0.0) * np.ones((8, 1)))
    x = np.ones((2, 8), "float32")
    assert_same_outputs(model, bs.convert(model, measure=False), x)
    assert_same_outputs(model.layers[0], bs.convert(model.layers[0], measure=False), x)


def test_stopping_before_the_schedule_has_ended_is_told(caplog):
    model = MODELS["dense"]()
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.9, 0, 100, initial_sparsity=0.7))
    model.compile("sgd", "mse")
    x = inputs_of(model)
    model.fit(x, np.zeros((len(x), 4)), batch_size=8, verbose=0)
    bs.convert(model, measure=False)
    assert "ends at step 100, but only 2 steps" in caplog.text


def test_a_loss_that_keras_cannot_serialise_is_no_obstacle():
    model, x = trained("dense")
    model.compile("sgd", lambda y, p: keras.ops.sum(keras.ops.square(y - p), axis=-1))
    assert_same_outputs(model, bs.convert(model, measure=False), x)
    assert model.compiled


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, x):
        return self.dense(x)


def built(model):
    model.build((None, 8))
    return model


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: bs.convert(MODELS["stacked"]()), ValueError, "can be converted.*Prune first"),
        (lambda: bs.convert(layers.Dense(3)), ValueError, "not built"),
        (lambda: bs.convert("model"), TypeError, "Keras 3 layer or model"),
        (lambda: bs.convert(built(layers.Dense(3)), product_dtype="int8"), ValueError, "product_dtype='int8' with"),
        (lambda: bs.convert(built(layers.Dense(3)), dtype="float64"), ValueError, "one of.*dtype='float64'"),
        (lambda: bs.convert(built(layers.Dense(3)), batch_size=0), ValueError, "batch_size=0"),
        (lambda: bs.convert(built(layers.Dense(3)), batch_size=()), ValueError, r"batch_size=\(\)"),
        (lambda: bs.convert(built(layers.Dense(3)), batch_size=(1, 2.5)), ValueError, r"batch_size=\(1, 2.5\)"),
        (lambda: bs.convert(built(layers.Dense(3)), batch_size=True), ValueError, "batch_size=True"),
        (lambda: bs.convert(built(layers.Dense(3)), time_steps=0), ValueError, "time_steps=0"),
        (lambda: bs.convert(built(layers.Dense(3)), min_sparsity=50), ValueError, "fraction"),
        (lambda: bs.convert(built(layers.Dense(3)), block_shape=(0, 1)), ValueError, "block_shape"),
        (lambda: bs.convert(built(Subclassed())), ValueError, "functional API"),
        (lambda: bs.convert(keras.Sequential()), ValueError, "not built"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pruning_state_is_not_copied():
    model, _ = trained("dense", target=0.2)
    converted = bs.convert(model, min_sparsity=0.19)
    assert not pruned_weights(converted)
    assert "BlockPruning" not in converted.to_json()


def test_measuring_a_small_model():
    model, x = trained("functional", block_shape=(4, 4))
    converted = bs.convert(model, batch_size=(1, 4), time_steps=TIME)
    assert_same_outputs(model, converted, x)
    recurrent = [w for w in bs.report(converted).weights if "lstm" in w.path or "gru" in w.path]
    assert len(recurrent) == 6
    assert all("measured" in w.note and "at batch 4" in w.note for w in recurrent)
