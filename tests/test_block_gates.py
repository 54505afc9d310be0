"""What is said and drawn of block gates."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse import gate_plots
from tf_blocksparse.block_gates import block_gates, computation, gate_usage


@pytest.fixture(scope="module")
def model():
    """The first layer's gates: the first always on, the second says whether x[0] > 0, the third whether x[0] < 0."""
    settings = dict(block_shape=(4, 2), sparsity=0.5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            bs.DynamicBlockDense(8, name="first", **settings),
            bs.DynamicBlockDense(4, gate_inputs=3, name="second", **settings),
        ]
    )
    kernel = np.zeros((4, 4))
    kernel[0, 1:3] = 1.0, -1.0
    model.layers[0].block_gate.set_weights([kernel, np.array([9.0, 0.0, 0.0, 0.0])])
    return model


def inputs(positive, negative):
    x = np.ones((positive + negative, 4), "float32")
    x[positive:, 0] = -1.0
    return x


@pytest.mark.parametrize("batch_size", [3, 100])
@pytest.mark.parametrize("converted", [False, True])
def test_gates_of_every_example(model, converted, batch_size):
    gates = block_gates(bs.convert(model) if converted else model, inputs(5, 2), batch_size)
    assert {path: g.shape for path, g in gates.items()} == {"first/kernel": (7, 1, 4), "second/kernel": (7, 2, 2)}
    expected = [[3.6, 0.4, 0, 0]] * 5 + [[3.6, 0, 0.4, 0]] * 2
    np.testing.assert_allclose(gates["first/kernel"][:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("positive,on,off", [(10, 1, 1), (96, 2, 2), (95, 1, 1), (4, 2, 2)])
def test_usage_counts_by_the_95_percent_rule(model, positive, on, off):
    usage = gate_usage(model, inputs(positive, 100 - positive))[0]
    np.testing.assert_allclose(usage.open_share, [[1.0, positive / 100, 1 - positive / 100, 0.0]], atol=1e-12)
    assert (usage.on, usage.off, usage.input_dependent) == (on, off, 4 - on - off)
    assert f"{usage.input_dependent / 4:.0%} input dependent" in str(usage)


def test_gates_of_all_time_steps():
    layer = bs.DynamicBlockLSTM(4, block_shape=4, sparsity=0.0, gate_bias_initializer="ones", name="lstm")
    model = keras.Sequential([keras.Input((5, 8)), layers.Dropout(0.5), layer])
    gates = block_gates(model, np.zeros((3, 5, 8), "float32"))
    assert gates["lstm/kernel"].shape == (15, 2, 4)
    assert gates["lstm/recurrent_kernel"].shape == (15, 1, 4)
    np.testing.assert_array_equal(gates["lstm/kernel"], 1.0)


def test_computation_counts_the_gate_apart(model):
    first, second = computation(model)
    assert (first.dense, first.chosen, first.gate) == (32, 16.0, 16)
    assert (second.dense, second.chosen, second.gate) == (32, 16.0, 12)
    assert str(second) == "second/kernel: comput. 0.500, and 0.375 for the gate"


def test_recording_ends_when_the_model_fails(model):
    with pytest.raises(ValueError):
        block_gates(model, np.ones((2, 3), "float32"))
    model(inputs(1, 1))  # hands no gates to anyone


def test_figure_1_has_a_row_for_each_example_of_a_class(model, tmp_path):
    x, labels = inputs(30, 10), np.repeat([7, 3], [30, 10])
    figure = gate_plots.plot_gates_by_class(model, x, labels, classes=(3, 7), path="first/kernel", examples=12)
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    np.testing.assert_allclose(images[0], [[3.6, 0, 0.4, 0]] * 10, rtol=1e-6)
    np.testing.assert_allclose(images[1], [[3.6, 0.4, 0, 0]] * 12, rtol=1e-6)
    assert [axis.get_ylabel().split("\n")[0] for axis in figure.axes[:2]] == ["class 3", "class 7"]
    figure.savefig(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"classes \[4\].*\[3, 7\]"):
        gate_plots.plot_gates_by_class(model, x, labels, classes=(3, 4))
    with pytest.raises(ValueError, match="'third'.*first/kernel"):
        gate_plots.plot_gates_by_class(model, x, labels, path="third")


def test_figure_2_has_the_numbers_as_bars(model, tmp_path):
    x = inputs(10, 10)
    (axis,) = gate_plots.plot_gate_usage(model, x).axes
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    usages = gate_usage(model, x)
    assert heights == [[u.off for u in usages], [u.input_dependent for u in usages], [u.on for u in usages]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["first/kernel", "second/kernel"]
    gate_plots.plot_gate_usage(usages, None).savefig(tmp_path / "2.png")


def test_models_without_block_gates():
    with pytest.raises(ValueError, match="no block gates"):
        block_gates(keras.Sequential([keras.Input((4,)), layers.Dense(4)]), np.ones((1, 4)))
    with pytest.raises(ValueError, match="built"):
        computation(bs.DynamicBlockDense(4))
    with pytest.raises(TypeError, match="Received: 3"):
        computation(3)
