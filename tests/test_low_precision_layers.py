"""`convert()` to layers whose blocks are stored as bfloat16 or int8."""

import logging

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close, random_block_sparse, run_python
from tf_blocksparse import choice
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.pruning.weights import prunable_weights

BATCH, TIME, FEATURES, UNITS, BLOCK = 5, 6, 21, 18, (6, 4)
DTYPES = ("bfloat16", "int8")
CASES = {
    "dense": lambda: layers.Dense(UNITS, activation="relu"),
    "simple_rnn": lambda: layers.SimpleRNN(UNITS, return_sequences=True),
    "gru": lambda: layers.GRU(UNITS),
    "gru_reset_before": lambda: layers.GRU(UNITS, reset_after=False),
    "lstm": lambda: layers.LSTM(UNITS, return_sequences=True),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(UNITS)),
    "time_distributed": lambda: layers.TimeDistributed(layers.Dense(UNITS)),
}


def inputs(features=FEATURES):
    return np.random.default_rng(1).standard_normal((BATCH, TIME, features)).astype("float32")


def block_sparse(layer, density=0.5, block_shape=BLOCK):
    """Zeroes blocks of all matrices of a built layer or model, and gives its biases values."""
    rng = np.random.default_rng(0)
    for weight in prunable_weights(layer):
        variable = weight.variable
        grid = BlockGrid(variable.shape, block_shape, weight.gates)
        variable.assign(random_block_sparse(rng, grid, density)[0] / np.sqrt(density * variable.shape[0]))
    for variable in layer.trainable_variables:
        if variable.name == "bias":
            variable.assign(rng.standard_normal(variable.shape) * 0.1)
    return layer


def built(case):
    layer = CASES[case]()
    layer.build((BATCH, TIME, FEATURES))
    return block_sparse(layer)


def convert(layer, dtype="float32", **settings):
    return bs.convert(layer, block_shape=BLOCK, dtype=dtype, min_sparsity=0.0, **settings)


def inner(layer):
    """The layers in wrappers."""
    if isinstance(layer, layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [getattr(layer, "layer", layer)]


def rounded(layer, converted):
    """A layer like the dense `layer` whose matrices hold what `converted` stores."""
    copy = type(layer).from_config(layer.get_config())
    copy.build((BATCH, TIME, FEATURES))
    copy.set_weights(layer.get_weights())
    for one, sparse in zip(inner(copy), inner(converted), strict=True):
        owner, sparse = getattr(one, "cell", one), getattr(sparse, "cell", sparse)
        parts = [name for name in ("recurrent_kernel", "candidate_kernel") if hasattr(sparse, name)]
        owner.kernel.assign(sparse.kernel.bsr().to_dense())
        if parts:
            owner.recurrent_kernel.assign(np.hstack([getattr(sparse, name).bsr().to_dense() for name in parts]))
    return copy


def relative(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("product_dtype", [None, "float32"])
@pytest.mark.parametrize("dtype,bound", [("bfloat16", 6e-3), ("int8", 2e-2)])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_near_those_of_float32(case, dtype, bound, product_dtype):
    layer, x = built(case), inputs()
    expected = convert(layer)(x)
    assert 0 < relative(convert(layer, dtype, product_dtype=product_dtype)(x), expected) < bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_with_float32_products_only_the_weights_are_rounded(case, dtype):
    layer, x = built(case), inputs()
    converted = convert(layer, dtype, product_dtype="float32")
    expected = rounded(layer, converted)(x)
    assert relative(expected, layer(x)) > 0
    assert_close(converted(x), expected, length=FEATURES * TIME)


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_default_inputs_are_rounded_to_the_dtype_of_the_blocks(dtype):
    layer, x = built("dense"), inputs()
    converted = convert(layer, dtype)
    if dtype == "bfloat16":
        taken = x.astype(ml_dtypes.bfloat16).astype("float64")
    else:
        scale = np.abs(x).max(axis=-1, keepdims=True).astype("float64") / 127
        taken = np.rint(x / scale) * scale
    y = np.maximum(taken @ converted.kernel.bsr().to_dense().astype("float64") + np.asarray(converted.bias), 0)
    assert_close(converted(x), y, length=FEATURES)
    assert relative(y, rounded(layer, converted)(x)) > 1e-4


def all_kinds():
    """A model of all convertible layers that multiply."""
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(40, FEATURES, mask_zero=True)(ids)
    x = layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True))(x)
    x = layers.GRU(UNITS, return_sequences=True)(x)
    x = layers.GRU(UNITS, reset_after=False, return_sequences=True)(x)
    x = layers.SimpleRNN(UNITS)(layers.Dense(UNITS, "relu")(x))
    return block_sparse(keras.Model(ids, layers.Dense(40)(x)), density=0.4)


@pytest.fixture(scope="module")
def model():
    return all_kinds()


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(2).integers(0, 40, (4, TIME)).astype("int32")


LOAD = """
import sys
import numpy as np
import tensorflow as tf
directory, library = sys.argv[1:]
ids = np.load(directory + "/ids.npy")
tf.load_op_library(library)
for dtype in ("bfloat16", "int8"):
    served = tf.saved_model.load(f"{directory}/{dtype}")
    np.save(f"{directory}/{dtype}_served.npy", served.serve(ids))
assert "tf_blocksparse" not in sys.modules
import keras
import tf_blocksparse
for dtype in ("bfloat16", "int8"):
    np.save(f"{directory}/{dtype}_loaded.npy", keras.models.load_model(f"{directory}/{dtype}.keras")(ids))
"""


def test_a_fresh_process_answers_alike(model, ids, tmp_path):
    converted = {dtype: convert(model, dtype) for dtype in DTYPES}
    np.save(tmp_path / "ids.npy", ids)
    for dtype, one in converted.items():
        one.save(tmp_path / f"{dtype}.keras")
        bs.export(one, tmp_path / dtype)
    run_python(LOAD, tmp_path, bs.ops.library_path())
    for dtype, one in converted.items():
        for how in ("served", "loaded"):
            np.testing.assert_array_equal(np.load(tmp_path / f"{dtype}_{how}.npy"), one(ids))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_files_hold_the_stored_values(dtype, model, ids, tmp_path):
    converted = convert(model, dtype)
    converted.save_weights(tmp_path / "m.weights.h5")
    copy = keras.models.Model.from_config(converted.get_config())
    assert (np.asarray(copy(ids)) != np.asarray(converted(ids))).any()
    copy.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(copy.weights, converted.weights, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(copy(ids), converted(ids))


@pytest.mark.parametrize("dtype,share", [("bfloat16", 0.52), ("int8", 0.3)])
def test_the_report_has_the_dtype_and_the_bytes(dtype, share, tmp_path):
    model = keras.Sequential([keras.Input((256,)), layers.Dense(240, name="out")])
    block_sparse(model, 0.25, (16, 16))
    rows = [bs.report(bs.convert(model, 16, d, measure=False)).weights[0] for d in ("float32", dtype)]
    assert [(row.state, row.stored_dtype) for row in rows] == [("block-sparse", "float32"), ("block-sparse", dtype)]
    value, scales = (2, 0) if dtype == "bfloat16" else (1, 240)
    assert rows[1].stored_bytes == rows[1].num_blocks * (256 * value + 4) + 4 * (15 + 1 + scales)
    assert rows[1].stored_bytes < share * rows[0].stored_bytes
    assert rows[1].num_blocks == rows[0].num_blocks and rows[1].bsr_bytes == rows[0].bsr_bytes
    converted = bs.convert(model, 16, dtype, measure=False)
    assert dtype in str(bs.report(converted))
    converted.save(tmp_path / "m.keras")
    assert bs.report(keras.models.load_model(tmp_path / "m.keras")).weights[0] == rows[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_stays_in_float32_and_the_report_says_so(dtype, model, ids):
    converted = convert(model, dtype)
    table, *rows = bs.report(converted).weights
    assert table.path.endswith("/embeddings")
    assert (table.state, table.stored_dtype) == ("block-sparse", "float32")
    assert "stored in float32" in table.note
    assert {(row.stored_dtype, row.note) for row in rows} == {(dtype, "")}
    assert bs.report(convert(model)).weights[0].note == ""


@pytest.mark.parametrize("dtype", DTYPES)
def test_calibration_data_tells_the_difference(dtype, caplog):
    layer, x = built("lstm"), inputs()
    with caplog.at_level(logging.INFO, "tf_blocksparse"):
        converted = convert(layer, dtype, calibration_data=x)
        (difference,) = bs.report(converted).differences
        assert difference.relative == pytest.approx(relative(converted(x), layer(x)), rel=1e-3)
        assert "calibration_data=" not in caplog.text
        convert(layer, dtype)
        assert f"calibration_data= tells how much {dtype} blocks change the outputs" in caplog.text
        caplog.clear()
        convert(layer)
        assert "calibration_data=" not in caplog.text


@pytest.mark.parametrize("product_dtype", [None, "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_in_the_stored_dtype_is_measured(dtype, product_dtype, monkeypatch):
    model = block_sparse(keras.Sequential([keras.Input((FEATURES,)), layers.Dense(UNITS, use_bias=False)]))
    x = inputs()[0]
    measured = []

    def product_times(w, sparse_product, row_counts, dtype, trained=None):
        np.testing.assert_array_equal(w, model.layers[0].kernel)
        measured.append(np.asarray(sparse_product(tf.constant(x))))
        return [(2e-3, 1e-3)] * len(row_counts)

    monkeypatch.setattr(choice, "product_times", product_times)
    converted = bs.convert(model, BLOCK, dtype, product_dtype=product_dtype)
    assert converted.layers[0].get_config()["storage_dtype"] == dtype
    np.testing.assert_array_equal(measured, [converted(x)])
    assert "2.0x faster" in bs.report(converted).weights[0].note


def test_weights_that_are_not_finite_are_an_error():
    layer = built("dense")
    layer.kernel.assign(np.where(np.arange(UNITS) == 0, np.inf, layer.kernel))
    with pytest.raises(ValueError, match="finite"):
        convert(layer, "int8")


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: convert(built("dense"), "bfloat16", product_dtype="int8"), "with dtype='bfloat16'"),
        (lambda: convert(built("dense"), product_dtype="bfloat16"), "with dtype='float32'"),
        (lambda: convert(built("dense"), "float64"), "one of.*dtype='float64'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
