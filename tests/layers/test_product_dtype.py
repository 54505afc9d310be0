"""What layers multiply under a policy of mixed precision: 16 bits where TensorFlow sees a GPU, else float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import sparsify
from tf_blocksparse.layers.product_dtype import product_dtype

POLICIES = pytest.mark.parametrize("policy, dtype", [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")])


@pytest.fixture
def seen_gpu(monkeypatch):
    """A GPU that is seen and not there: the ops run on the CPU."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["a GPU"])


@pytest.fixture(autouse=True)
def the_policy_ends_with_the_test():
    yield
    keras.config.set_dtype_policy("float32")


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def products(model, x):
    """The dtypes of all block-sparse products of a model."""
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.TensorSpec(x.shape)).graph
    return {op.inputs[0].dtype.name for op in graph.get_operations() if op.type == "BlockSparse>MatMul"}


def dense_model():
    x = keras.Input((24,))
    return keras.Model(x, layers.Dense(12)(layers.Dense(32, activation="relu")(x)))


@POLICIES
def test_without_a_gpu_it_is_float32(policy, dtype):
    keras.config.set_dtype_policy(policy)
    model = bs.convert(sparsify(dense_model()), block_shape=4, min_sparsity=0)
    assert products(model, inputs(3, 24)) == {"float32"}
    assert product_dtype(dtype) == "float32"


def test_of_policies_that_are_not_mixed(seen_gpu):
    assert (product_dtype("float32"), product_dtype(tf.float64)) == ("float32", "float32")
    assert product_dtype(tf.float16) == "float16"


@POLICIES
def test_equals_keras_under_the_policy(policy, dtype, seen_gpu):
    keras.config.set_dtype_policy(policy)
    twin = sparsify(dense_model())
    model = bs.convert(twin, block_shape=4, min_sparsity=0)
    x = inputs(5, 24)
    assert products(model, x) == {dtype}
    found = {}
    for name, network in (("twin", twin), ("model", model)):
        with tf.GradientTape() as tape:
            y = network(x, training=True)
            loss = tf.reduce_mean(tf.cast(y, tf.float32) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        assert y.dtype == dtype and {g.dtype.name for g in gradients} == {"float32"}
        found[name] = tf.cast(y, tf.float32).numpy(), [g.numpy() for g in gradients if g.shape.rank == 1]
    step = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(found["model"][0], found["twin"][0], atol=8 * step)
    for a, e in zip(found["model"][1], found["twin"][1], strict=True):  # of the biases, stored alike by both
        np.testing.assert_allclose(a, e, atol=16 * step * np.abs(e).max())


@POLICIES
def test_training(policy, dtype, seen_gpu):
    """With the scaling of the loss that float16 has in Keras; weights are float32 all the time."""
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    model = bs.convert(sparsify(dense_model()), block_shape=4, min_sparsity=0)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = inputs(64, 24)
    history = model.fit(x, x[:, :12], epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@POLICIES
@pytest.mark.parametrize("layer", [bs.BlockSparseSimpleRNN, bs.BlockSparseGRU, bs.BlockSparseLSTM])
def test_recurrent_layers_step_by_step(layer, policy, dtype, seen_gpu):
    keras.config.set_dtype_policy(policy)
    x = inputs(3, 5, 12)
    narrow = layer(16, implementation="step", return_sequences=True)
    y = tf.cast(narrow(x), tf.float32)
    assert products(narrow, x) == {dtype}
    wide = layer.from_config({**narrow.get_config(), "dtype": "float32"})
    wide.build(x.shape)
    wide.set_weights(narrow.get_weights())
    np.testing.assert_allclose(y, wide(x), atol={"float16": 0.01, "bfloat16": 0.08}[dtype])


@POLICIES
def test_exports_with_and_without_the_ops(policy, dtype, seen_gpu, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = bs.convert(sparsify(dense_model()), block_shape=4, min_sparsity=0)
    x = inputs(3, 24)
    expected = tf.cast(model(x), tf.float32)
    for portable in (False, True):
        bs.export(model, tmp_path / str(portable), portable=portable)
        served = tf.saved_model.load(str(tmp_path / str(portable))).signatures["serving_default"]
        (y,) = served(tf.constant(x)).values()
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.02)
