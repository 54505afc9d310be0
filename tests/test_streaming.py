"""Models fed piece by piece against the same models on whole sequences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import converted

RNNS = {
    "simple": lambda **o: layers.SimpleRNN(8, **o),
    "gru": lambda **o: layers.GRU(8, **o),
    "gru_before": lambda **o: layers.GRU(8, reset_after=False, **o),
    "lstm": lambda **o: layers.LSTM(8, **o),
    "stack": lambda **o: layers.RNN([layers.LSTMCell(8), layers.GRUCell(8)], **o),
}


def stream(model, x, pieces, **states):
    """Outputs of each piece."""
    streaming = bs.streaming_model(model)
    names = [name for name in streaming.input if "_state_" in name]
    states = {name: tf.zeros([len(x), streaming.input[name].shape[1]]) for name in names}
    outputs, first = [], 0
    for length in pieces:
        answer = streaming({model.inputs[0].name: tf.constant(x[:, first : first + length]), **states})
        states = {name: answer[name] for name in names}
        outputs.append(answer["output_0"])
        first += length
    return outputs


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", RNNS)
def test_pieces_give_what_the_whole_gives(kind, sparse):
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = RNNS[kind](return_sequences=True, name="below")(layers.Embedding(20, 8, mask_zero=True)(ids))
    model = keras.Model(ids, layers.Dense(4)(RNNS[kind](return_sequences=True, name="above")(x)))
    model = converted(model) if sparse else model
    before = [w.numpy() for w in model.weights]
    x = np.random.default_rng(0).integers(0, 20, (3, 9)).astype("int32")
    outputs = stream(model, x, (1, 5, 3))
    np.testing.assert_allclose(tf.concat(outputs, axis=1), model(x), atol=1e-6)
    for w, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(w, b)
    assert {id(w) for w in bs.streaming_model(model).trainable_weights} == {id(w) for w in model.trainable_weights}


def test_a_sequential_model_and_its_last_output_only():
    model = keras.Sequential([keras.Input((None, 4), name="x"), layers.LSTM(8), layers.Dense(3)])
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")
    np.testing.assert_allclose(stream(model, x, (2, 4))[-1], model(x), atol=1e-6)
    assert model(x).shape == (2, 3)  # not changed: still no states


def test_a_layer_called_twice_has_two_states():
    x = keras.Input((None, 8), name="x")
    shared = layers.GRU(8, return_sequences=True, name="gru")
    model = keras.Model(x, {"y": shared(shared(x))})
    assert set(bs.streaming_model(model).input) == {"x", "gru_state_0", "gru_state_0_1"}
    assert set(bs.streaming_model(model).output) == {"y", "gru_state_0", "gru_state_0_1"}


def _model(*stack):
    return keras.Sequential([keras.Input((6, 8), name="x"), *stack])


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: _model(layers.Dense(3)), "no recurrent layer"),
        (lambda: _model(layers.Bidirectional(layers.LSTM(4))), "Bidirectional.*several time steps"),
        (lambda: _model(layers.GRU(4, go_backwards=True, name="back")), "GRU 'back' goes backwards"),
        (lambda: _model(layers.Conv1D(4, 3), layers.GRU(4)), "Conv1D.*several time steps"),
        (lambda: _model(_model(layers.GRU(4)), layers.Dense(2)), "has recurrent layers within"),
    ],
)
def test_what_cannot_be_streamed_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        bs.streaming_model(model())


def test_no_model():
    with pytest.raises(TypeError, match="takes a Sequential or Functional keras.Model. Received: LSTM 'l'"):
        bs.streaming_model(layers.LSTM(3, name="l"))
