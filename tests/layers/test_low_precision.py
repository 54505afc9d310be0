"""Block-sparse layers that store their blocks as bfloat16 or int8."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs

BATCH, TIME, FEATURES = 5, 6, 12
DTYPES = ("bfloat16", "int8")
NEW = {
    "dense": lambda **dtypes: bs.BlockSparseDense(8, "relu", block_shape=(5, 2), num_blocks=5, **dtypes),
    "simple_rnn": lambda **dtypes: bs.BlockSparseSimpleRNN(9, num_blocks={"kernel": 2}, **dtypes),
    "gru": lambda **dtypes: bs.BlockSparseGRU(9, block_shape=3, dropout=0.1, seed=3, **dtypes),
    "gru_reset_before": lambda **dtypes: bs.BlockSparseGRU(9, reset_after=False, **dtypes),
    "lstm": lambda **dtypes: bs.BlockSparseLSTM(9, go_backwards=True, return_sequences=True, **dtypes),
}


def inputs():
    return np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)).astype("float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NEW)
class TestConformance:
    def test_config_round_trip(self, case, dtype):
        for product_dtype in (None, "float32", dtype):
            layer = NEW[case](storage_dtype=dtype, product_dtype=product_dtype)
            config = layer.get_config()
            assert (config["storage_dtype"], config["product_dtype"]) == (dtype, product_dtype)
            copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
            assert copy.get_config() == config

    def test_no_weight_is_trainable(self, case, dtype):
        layer = NEW[case](storage_dtype=dtype)
        layer(inputs())
        assert layer.trainable_variables == []
        layer.trainable = True
        assert layer.trainable_variables == []
        kinds = {v.dtype for v in layer.variables if v.name.endswith("kernel")}
        assert kinds == {dtype}

    def test_compute_output_shape(self, case, dtype):
        layer = NEW[case](storage_dtype=dtype)
        assert tuple(layer.compute_output_shape((BATCH, TIME, FEATURES))) == tuple(layer(inputs()).shape)

    def test_initial_values_are_those_of_the_initializer(self, case, dtype):
        pairs = []
        for settings in ({}, {"storage_dtype": dtype}):
            keras.utils.set_random_seed(3)
            layer = NEW[case](kernel_initializer=keras.initializers.GlorotUniform(seed=1), **settings)
            layer.build((BATCH, TIME, FEATURES))
            pairs.append(getattr(layer, "cell", layer).kernel.bsr())
        np.testing.assert_array_equal(pairs[1].indices, pairs[0].indices)
        assert 0 < np.abs(pairs[1].blocks - pairs[0].blocks).max() < 5e-3

    def test_mixed_precision(self, case, dtype):
        keras.config.set_dtype_policy("mixed_bfloat16")
        layer = NEW[case](storage_dtype=dtype)
        assert layer(inputs()).dtype == tf.bfloat16
        assert {v.dtype for v in layer.variables if v.name.endswith(("scales", "bias"))} == {"float32"}

    def test_calling_it_in_training_is_an_error(self, case, dtype):
        layer = NEW[case](storage_dtype=dtype)
        layer(inputs(), training=False)
        with pytest.raises(ValueError, match=f"stores its blocks as {dtype}.*inference only.*float32"):
            layer(inputs(), training=True)
        layer.trainable = False
        if case != "gru":  # which has dropout
            np.testing.assert_array_equal(layer(inputs(), training=True), layer(inputs()))


WITHIN = {**NEW, "bidirectional": lambda **dtypes: layers.Bidirectional(bs.BlockSparseLSTM(9, **dtypes))}


def compiled(first, second):
    model = keras.Sequential([keras.Input((TIME, FEATURES)), first, second])
    model.compile("sgd", "mse")
    return model


def fit(model):
    model.fit(inputs(), np.zeros((BATCH, *model.output_shape[1:])), verbose=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["dense", "lstm", "bidirectional"])
def test_fit_is_refused(case, dtype):
    model = compiled(WITHIN[case](storage_dtype=dtype), layers.Dense(3))
    with pytest.raises(ValueError, match=f"{dtype}, which is for inference only.*layer.trainable = False"):
        fit(model)


@pytest.mark.parametrize("case", ["dense", "lstm", "bidirectional"])
def test_what_comes_after_a_frozen_layer_trains(case):
    frozen = WITHIN[case](storage_dtype="int8")
    frozen.trainable = False
    model = compiled(frozen, layers.Dense(3))
    before, kernel = frozen.get_weights(), np.array(model.layers[1].kernel)
    fit(model)
    assert (np.asarray(model.layers[1].kernel) != kernel).any()
    for old, new in zip(before, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("case", ["dense", "lstm"])
def test_what_comes_before_has_no_gradient(case):
    frozen = WITHIN[case](storage_dtype="int8")
    frozen.trainable = False
    with pytest.raises(NotImplementedError, match="inference only.*float32"):
        fit(compiled(layers.Dense(FEATURES), frozen))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: bs.BlockSparseDense(4, storage_dtype="float16"), "storage_dtype='float16'"),
        (lambda: bs.BlockSparseLSTM(4, storage_dtype="int4"), "one of.*storage_dtype='int4'"),
        (lambda: bs.BlockSparseGRU(4, storage_dtype="int8", product_dtype="bfloat16"), "product_dtype='bfloat16'"),
        (lambda: bs.BlockSparseSimpleRNN(4, product_dtype="int8"), "'int8' with storage_dtype='float32'"),
        (lambda: bs.BlockSparseDense(4, storage_dtype="int8", num_blocks=9)(np.ones((1, 4))), "from 0 to 1"),
        (lambda: bs.BlockSparseDense(4, storage_dtype="int8", kernel_constraint="max_norm")(np.ones((1, 4))), "MaxN"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
