"""Layers that are first called, and so built, while a tf.function is traced."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs

ONE_ROW = np.random.default_rng(0).standard_normal((2, 8)).astype("float32")
SEQUENCE = np.random.default_rng(1).standard_normal((2, 3, 8)).astype("float32")
IDS = np.array([[0, 19, 7]], "int32")


def dynamic(cls):
    return lambda **kwargs: cls(8, block_shape=4, sparsity=0.5, **kwargs)


LAYERS = {
    "dense": (lambda **kwargs: bs.BlockSparseDense(8, num_blocks=3, **kwargs), ONE_ROW),
    "dense_bfloat16": (lambda **kwargs: bs.BlockSparseDense(8, storage_dtype="bfloat16", **kwargs), ONE_ROW),
    "dense_int8": (lambda **kwargs: bs.BlockSparseDense(8, storage_dtype="int8", **kwargs), ONE_ROW),
    "embedding": (lambda **kwargs: bs.BlockSparseEmbedding(20, 8, **kwargs), IDS),
    "simple_rnn": (lambda **kwargs: bs.BlockSparseSimpleRNN(8, **kwargs), SEQUENCE),
    "gru": (lambda **kwargs: bs.BlockSparseGRU(8, **kwargs), SEQUENCE),
    "lstm": (lambda **kwargs: bs.BlockSparseLSTM(8, **kwargs), SEQUENCE),
    "lstm_int8": (lambda **kwargs: bs.BlockSparseLSTM(8, storage_dtype="int8", **kwargs), SEQUENCE),
    "bidirectional": (lambda **kwargs: keras.layers.Bidirectional(bs.BlockSparseGRU(8), **kwargs), SEQUENCE),
    "dynamic_dense": (dynamic(bs.DynamicBlockDense), ONE_ROW),
    "dynamic_lstm": (dynamic(bs.DynamicBlockLSTM), SEQUENCE),
    "dynamic_qrnn": (dynamic(bs.DynamicBlockQRNN), SEQUENCE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_built_in_a_function_it_is_as_built_outside(name):
    make, x = LAYERS[name]
    keras.utils.set_random_seed(3)
    outside = make(name="layer")
    expected = outside(x)
    keras.utils.set_random_seed(3)
    inside = make(name="layer")
    y = tf.function(lambda x: inside(x))(x)
    assert inside.built
    for weight, other in zip(inside.weights, outside.weights, strict=True):
        assert weight.name == other.name
        np.testing.assert_array_equal(weight, other)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert np.abs(y).max() > 1e-3


def test_it_trains_in_a_step_of_ones_own_that_builds_it():
    layer = bs.BlockSparseDense(4, block_shape=2, num_blocks=5)

    @tf.function
    def loss_and_gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        return loss, tape.gradient(loss, [v.value for v in layer.trainable_variables])

    losses = []
    for _ in range(20):
        loss, gradients = loss_and_gradients(ONE_ROW)
        losses.append(float(loss))
        for v, g in zip(layer.trainable_variables, gradients, strict=True):
            v.assign_sub(0.01 * g)
    assert losses[-1] < 0.7 * losses[0]
