"""`bench()`: every layer that can be block-sparse is timed, on inputs that it takes; no times are asserted."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs

FAST = dict(batch_size=2, time_steps=3, seconds=1e-3)


@pytest.fixture(scope="module")
def model():
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(40, 16, name="words")(ids)
    x = layers.Bidirectional(layers.SimpleRNN(8, return_sequences=True, name="simple_rnn"), name="both")(x)
    x = layers.Conv1D(4, 1, name="convolution")(x)
    inner = keras.Sequential([keras.Input((None, 4)), layers.Dense(8, name="inner")], name="nested")
    model = keras.Model(ids, layers.Dense(5, name="out")(inner(x)), name="tagger")
    bs.prune_once(model, 0.6, 4, exclude="out")
    return model


def test_rows_bytes_and_differences(model):
    fast = bs.convert(model, min_sparsity=0.5)
    result = bs.bench(model, fast, **FAST)
    layers_timed = ["words", "both/forward_simple_rnn", "both/backward_simple_rnn", "nested/inner"]
    assert [row.what for row in result.rows][0] == "model"
    assert sorted(row.what for row in result.rows[1:]) == sorted(layers_timed)  # `out` has no zeros
    assert all(row.batch_size == 2 and row.chosen for row in result.rows)
    for row in result.rows:
        assert row.ratio == row.dense.median / row.sparse.median
        assert 0 < row.sparse.minimum <= row.sparse.median and row.sparse.samples >= 5
    assert result.bytes_dense == sum(np.asarray(w).nbytes for w in model.weights)
    assert result.bytes_sparse == sum(np.asarray(w).nbytes for w in fast.weights) < result.bytes_dense
    (difference,) = result.differences
    assert difference.largest < 1e-5
    assert "both/forward_simple_rnn" in str(result)
    as_dict = result.to_dict()
    assert as_dict["rows"][0]["ratio"] == result.rows[0].ratio
    assert as_dict["rows"][0]["dense"].keys() == {"median", "minimum", "samples"}


def test_layers_that_stay_dense_are_timed_in_blocks_and_say_why():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")])
    bs.prune_once(model, 0.75, 4, include="a")
    bs.prune_once(model, 0.25, 4, include="b")
    result = bs.bench(model, bs.convert(model, measure=False), inputs=np.ones((4, 8)), **FAST)
    chosen = {row.what: (row.chosen, row.note) for row in result.rows}
    assert chosen["a"] == (True, "")
    assert chosen["b"][0] is False and "sparsity 0.25 in 4 x 4 blocks is below" in chosen["b"][1]
    assert "sparsity 0.25" in str(result)


def test_fixed_batch_sizes_and_several_inputs():
    inputs = [keras.Input(batch_shape=(3, 8), name="x"), keras.Input(batch_shape=(3, 2), dtype="int32", name="ids")]
    joined = layers.Concatenate()([inputs[0], layers.Flatten()(layers.Embedding(5, 4)(inputs[1]))])
    model = keras.Model(inputs, layers.Dense(8, name="out")(joined))
    bs.prune_once(model, 0.7, 4, include="out")
    result = bs.bench(model, bs.convert(model, min_sparsity=0.5), **FAST)
    assert {row.batch_size for row in result.rows} == {3}


def test_errors(model):
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="Nothing in .* can be converted"):
        bs.bench(plain, **FAST)
    with pytest.raises(ValueError, match="is block-sparse already"):
        bs.bench(bs.convert(model, min_sparsity=0.5), **FAST)
    with pytest.raises(TypeError, match="takes a keras.Model"):
        bs.bench(model.get_layer("both"), **FAST)
    with pytest.raises(ValueError, match="`seconds` must be above 0"):
        bs.bench(model, seconds=0)
    with pytest.raises(ValueError, match="at least 16 examples"):
        bs.bench(model, bs.convert(model, min_sparsity=0.5), inputs=np.ones((4, 3)))
