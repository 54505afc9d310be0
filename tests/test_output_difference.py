import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.output_difference import output_differences


def two_outputs(seed):
    keras.utils.set_random_seed(seed)
    inputs = [keras.Input((4,), name="a"), keras.Input((3,), name="b")]
    joined = layers.Concatenate()(inputs)
    return keras.Model(inputs, [layers.Dense(5, name="left")(joined), layers.Dense(2, name="right")(joined)])


def data(n=70):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, width)).astype("float32") for width in (4, 3)]


def recomputed(model, other, x):
    """`(largest, relative)` of each output, from the whole data at once."""
    found = []
    for a, b in zip(model.predict(x, verbose=0), other.predict(x, verbose=0), strict=True):
        a, b = a.astype("float64"), b.astype("float64")
        found.append((np.abs(a - b).max(), np.linalg.norm(a - b) / np.linalg.norm(a)))
    return found


@pytest.mark.parametrize("form", ["list", "tuple", "dict", "dataset", "dataset_with_targets"])
def test_numbers_are_those_that_numpy_finds(form):
    model, other, x = two_outputs(1), two_outputs(2), data()
    given = {
        "list": x,
        "tuple": tuple(x),
        "dict": dict(a=x[0], b=x[1]),
        "dataset": tf.data.Dataset.from_tensor_slices((tuple(x),)).batch(30),
        "dataset_with_targets": tf.data.Dataset.from_tensor_slices((tuple(x), np.zeros(len(x[0])))).batch(30),
    }[form]
    found = output_differences(model, other, given)
    assert len(found) == 2
    np.testing.assert_allclose([(d.largest, d.relative) for d in found], recomputed(model, other, x), rtol=1e-5)
    assert "at most" in str(found[0]) and "relative L2" in str(found[0])


def test_equal_and_zero_outputs():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    x = data()[0]
    (same,) = output_differences(model, model, x)
    assert (same.largest, same.relative) == (0.0, 0.0)
    zero = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer="zeros")])
    assert output_differences(zero, model, x)[0].relative == math.inf
    assert output_differences(model, zero, x)[0].relative == pytest.approx(1.0)


def test_nan_is_not_hidden():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    broken = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    broken.layers[0].kernel.assign(np.full((4, 3), np.nan))
    (found,) = output_differences(model, broken, data()[0])
    assert math.isnan(found.largest) and math.isnan(found.relative)


def stateful():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((3, 4), batch_size=5), layers.LSTM(8, stateful=True), layers.Dense(2, name="out")]
    )


def test_states_start_from_zero_and_come_back():
    model = stateful()
    x = np.random.default_rng(0).standard_normal((10, 3, 4)).astype("float32")
    model(x[:5])
    states = [np.asarray(s) for s in model.layers[0].states]
    assert np.abs(states[0]).max() > 0
    (found,) = output_differences(model, stateful(), x)
    assert found.largest == 0.0
    for before, after in zip(states, model.layers[0].states, strict=True):
        np.testing.assert_array_equal(after, before)


def test_convert_tells_what_it_finds(caplog):
    model = two_outputs(1)
    for name in ("left", "right"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(np.arange(7)[:, None] < 4, kernel, 0.0))
    x = data()
    with caplog.at_level("INFO", "tf_blocksparse"):
        converted = bs.convert(model, block_shape=(4, 1), min_sparsity=0.1, calibration_data=x)
    report = bs.report(converted)
    names = [d.name for d in report.differences]
    assert names == list(model.output_names)
    expected = recomputed(model, converted, x)
    np.testing.assert_allclose([d.largest for d in report.differences], [e[0] for e in expected], atol=1e-6)
    assert all(0 <= d.relative < 1e-5 for d in report.differences)
    assert f"Converting changed {report.differences[0]} on the calibration data." in " ".join(str(report).split())
    assert report.to_dict()["differences"][1]["name"] == names[1]
    assert f"converting changes {report.differences[1]}" in caplog.text
    assert bs.report(model).differences == ()


def test_a_single_layer():
    layer = layers.Dense(8)
    layer.build((None, 8))
    layer.kernel.assign(np.eye(8))
    converted = bs.convert(layer, block_shape=4, min_sparsity=0.0, calibration_data=np.ones((3, 8), "float32"))
    (found,) = bs.report(converted).differences
    assert (found.name, found.largest) == ("output", 0.0)


def test_data_without_examples():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="no examples"):
        output_differences(model, model, np.zeros((0, 4), "float32"))
