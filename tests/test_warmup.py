"""The record of requests that TensorFlow Serving computes when it loads a model."""

import builtins

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import WORDS, converted


@pytest.fixture(scope="module")
def model():
    inputs = {"text": keras.Input((), dtype="string", name="text"), "x": keras.Input((None, 4), name="x")}
    ids = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=3)(inputs["text"])
    words = layers.GlobalAveragePooling1D()(layers.Embedding(8, 4)(ids))
    joined = layers.Add()([words, layers.GlobalMaxPooling1D()(inputs["x"])])
    return converted(keras.Model(inputs, layers.Dense(4)(joined)))


def requests(path):
    """`(signature name, inputs)` of each record, as a server reads them."""
    api = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [api.PredictionLog.FromString(record.numpy()) for record in records]
    return [
        (log.predict_log.request.model_spec.signature_name,
         {key: tf.make_ndarray(value) for key, value in log.predict_log.request.inputs.items()})
        for log in logs
    ]  # fmt: skip


@pytest.mark.parametrize("portable", [False, True])
def test_every_signature_is_asked_with_blanks(portable, model, tmp_path):
    bs.export(model, tmp_path / "1", portable=portable, warmup=True)
    found = dict(requests(tmp_path / "1"))
    assert set(found) == {"serve", "serving_default"}
    for inputs in found.values():
        assert inputs["text"].tolist() == [b""]
        assert inputs["x"].dtype == np.float32 and inputs["x"].shape == (1, 1, 4)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    answer = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in found["serving_default"].items()})
    assert answer["output_0"].shape == (1, 4)


def test_inputs_of_the_users(model, tmp_path):
    given = {"text": np.array(["the word", "was"]), "x": np.ones((2, 5, 4))}
    bs.export(model, tmp_path / "1", warmup=given)
    ((name, inputs),) = requests(tmp_path / "1")
    assert name == "serving_default"
    assert inputs["text"].tolist() == [b"the word", b"was"]
    assert inputs["x"].dtype == np.float32  # as the signature takes them
    np.testing.assert_array_equal(inputs["x"], given["x"])


def test_off_by_default(model, tmp_path):
    bs.export(model, tmp_path / "1")
    assert not (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").exists()


def test_without_the_package_the_log_says_so(model, tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("tensorflow_serving"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    bs.export(model, tmp_path / "1", warmup=True)
    assert "no warmup record, as tensorflow-serving-api is not installed" in caplog.text
    assert not (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").exists()
    assert (tmp_path / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    "warmup, error, message",
    [
        (1, TypeError, "`warmup` must be a bool, or a dict"),
        ({"x": np.ones((1, 1, 4))}, ValueError, r"must have the inputs \['text', 'x'\]. Received: \['x'\]"),
        (
            {"text": ["a", "b"], "x": np.ones((3, 1, 4))},
            ValueError,
            r"'serving_default' cannot be computed.*\(3, 1, 4\)",
        ),
    ],
)
def test_errors(warmup, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        bs.export(model, tmp_path / "1", warmup=warmup)
    assert not (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").exists()
