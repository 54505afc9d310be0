"""Signatures that the user chooses: models, functions, states that go in and out, tables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import converted
from tf_blocksparse.custom_ops import implementation
from tf_blocksparse.signatures import signature_of


@pytest.fixture(scope="module")
def model():
    x = keras.Input((None, 8), name="x")
    y = layers.LSTM(12, return_sequences=True, name="lstm")(x)
    return converted(keras.Model(x, layers.Dense(6, name="head")(y), name="tagger"))


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("portable", [False, True])
def test_models_functions_and_methods(portable, model, tmp_path):
    x = normal(2, 5, 8)

    class Head(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 12], name="h"), tf.TensorSpec([], name="scale")])
        def __call__(self, h, scale):
            return {"scaled": scale * model.get_layer("head")(h)}

    def last(x):
        if tf.shape(x)[1] == 0:  # of a tensor: autograph turns it into graph
            return tf.zeros([tf.shape(x)[0], 6])
        return model(x)[:, -1]

    head = Head()
    head(normal(2, 12), 1.0)  # traced before, with the custom op
    signatures = {
        "last": (last, [tf.TensorSpec([None, None, 8], name="sequence")]),
        "serving_default": head.__call__,
        "all": model,
    }
    bs.export(model, tmp_path / "saved", portable=portable, signatures=signatures)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.signatures
    assert set(served) == {"last", "serving_default", "all"}
    np.testing.assert_allclose(served["all"](x=x)["output_0"], model(x), atol=1e-6)
    np.testing.assert_allclose(served["last"](sequence=x)["output_0"], model(x)[:, -1], atol=1e-6)
    assert served["last"](sequence=tf.zeros([2, 0, 8]))["output_0"].shape == (2, 6)
    h = normal(3, 12)
    scaled = served["serving_default"](h=h, scale=2.0)["scaled"]
    np.testing.assert_allclose(scaled, 2 * model.get_layer("head")(h), atol=1e-5)


def test_the_first_signature_is_the_default(model, tmp_path):
    bs.export(model, tmp_path / "saved", signatures={"tag": model, "again": model})
    served = tf.saved_model.load(str(tmp_path / "saved"))
    assert set(served.signatures) == {"tag", "again", "serving_default"}
    assert len(served.variables) == len(model.variables)


def test_a_table_of_the_users(model, tmp_path):
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [0.0, 1.0]), -1.0)
    spec = [tf.TensorSpec([None, None], tf.string, name="words")]
    signatures = {"serve": (lambda words: model(tf.repeat(table.lookup(words)[..., None], 8, axis=2)), spec)}
    bs.export(model, tmp_path / "saved", portable=True, signatures=signatures, resources=[table])
    served = tf.saved_model.load(str(tmp_path / "saved"))
    y = served.serve(tf.constant([["a", "b", "c"]]))
    np.testing.assert_allclose(y, model(np.float32([[[0] * 8, [1] * 8, [-1] * 8]])), atol=1e-6)


@pytest.mark.parametrize("portable", [False, True])
def test_a_subclassed_model_with_its_inputs_said(portable, tmp_path):
    class Tagger(keras.Model):
        def __init__(self):
            super().__init__()
            self.lookup = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
            self.dense = bs.BlockSparseDense(5, block_shape=(2, 2), num_blocks=3)

        def call(self, words, scale):
            return {"y": self.dense(keras.ops.cast(self.lookup(words), "float32")) * scale}

    tagger = Tagger()
    words, scale = tf.constant([["a"], ["c"]]), tf.constant(3.0)
    expected = tagger(words, scale)["y"]
    with pytest.raises(ValueError, match=r"subclass of keras.Model, are not recorded.*signatures="):
        bs.export(tagger, tmp_path / "saved")
    specs = [tf.TensorSpec([None, 1], tf.string, name="words"), tf.TensorSpec([], name="scale")]
    bs.export(tagger, tmp_path / "saved", portable=portable, signatures={"serve": (tagger, specs)})
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.signatures["serve"]
    np.testing.assert_allclose(served(words=words, scale=scale)["y"], expected, atol=1e-6)


@pytest.mark.parametrize("portable", [False, True])
def test_streaming_state_goes_through_a_signature(portable, model, tmp_path):
    signatures = {"serve": model, "step": bs.streaming_model(model)}
    bs.export(model, tmp_path / "saved", portable=portable, signatures=signatures)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    step = loaded.signatures["step"]
    states = {f"lstm_state_{i}": tf.zeros([2, 12]) for i in range(2)}
    assert set(step.structured_input_signature[1]) == {"x", *states}
    assert set(step.structured_outputs) == {"output_0", *states}
    x, found = normal(2, 7, 8), []
    for first, last in ((0, 1), (1, 4), (4, 7)):
        answer = step(x=tf.constant(x[:, first:last]), **states)
        states = {name: answer[name] for name in states}
        found.append(answer["output_0"])
    np.testing.assert_allclose(tf.concat(found, axis=1), model(x), atol=1e-6)


def test_a_function_traced_before_cannot_be_portable(model, tmp_path):
    inner = tf.function(lambda x: model(x))
    inner(normal(1, 2, 8))
    signatures = {"serve": (lambda x: inner(x), [tf.TensorSpec([1, 2, 8], name="x")])}
    with pytest.raises(ValueError, match=r"'serve' cannot be portable: it calls BlockSparse>Lstm, BlockSparse>MatMul"):
        bs.export(model, tmp_path / "saved", portable=True, signatures=signatures)
    assert implementation.active() is implementation.CUSTOM_OPS
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "signatures, error, message",
    [
        ({}, TypeError, "dict from names"),
        ([("serve", 1)], TypeError, "dict from names"),
        ({"serve": 3}, TypeError, r"'serve' must be a keras.Model.*Received: 3"),
        ({"serve": (len, tf.TensorSpec([1]))}, TypeError, "list of tf.TensorSpec"),
        ({"serve": tf.function(lambda x: x)}, ValueError, "tf.function of unknown inputs"),
    ],
)
def test_errors(signatures, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        bs.export(model, tmp_path / "saved", signatures=signatures)
    assert not (tmp_path / "saved").exists()


def test_inputs_of_a_dict_are_called_by_their_keys():
    inputs = {"b": keras.Input((3,), name="first"), "a": keras.Input((2,), dtype="float16", name="second")}
    outputs = layers.Concatenate()([inputs["b"], layers.Dense(2, dtype="float32")(inputs["a"])])
    (specs,) = signature_of("serve", keras.Model(inputs, outputs)).specs
    assert specs == {"b": tf.TensorSpec([None, 3], name="b"), "a": tf.TensorSpec([None, 2], name="a")}
