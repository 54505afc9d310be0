import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.pruning import pruned_weights


def pruned_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6, 9)), layers.Conv1D(8, 2, name="conv"), layers.GRU(7, name="gru"), layers.Dense(5, name="out")]
    )
    bs.prune_blocks(model, (4, 3), bs.ConstantSparsity(0.75))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 6, 9)), np.ones((4, 5)), batch_size=2, verbose=0)
    return model


def counted_by_loops(w):
    """Non-zero weights after each row of all axes but the last."""
    return np.array([sum(value != 0 for value in row) for row in w.reshape(-1, w.shape[-1])])


def test_counts_the_weights_that_are_left_in_each_row():
    model = pruned_model()
    found = bs.output_connections(model)
    cell = model.get_layer("gru").cell
    expected = {
        "conv/kernel": model.get_layer("conv").kernel,
        "gru/kernel": cell.kernel,
        "gru/recurrent_kernel": cell.recurrent_kernel,
        "out/kernel": model.get_layer("out").kernel,
    }
    assert list(found) == list(expected)
    for path, w in expected.items():
        np.testing.assert_array_equal(found[path], counted_by_loops(np.asarray(w)))
    without = bs.neurons_without_output(model)
    assert without == {path: int((counts == 0).sum()) for path, counts in found.items()}
    assert sum(without.values()) > 0


def test_dropped_blocks_count_as_zero_whatever_the_variable_holds():
    model = pruned_model()
    expected = bs.output_connections(model)
    weight = pruned_weights(model)[0]
    weight.variable.assign(np.ones(weight.variable.shape))
    found = bs.output_connections(model)[weight.path]
    np.testing.assert_array_equal(found > 0, expected[weight.path] > 0)


@pytest.mark.parametrize("reset_after", [True, False])
def test_stripped_and_converted_models_count_alike(reset_after):
    model = keras.Sequential([keras.Input((6, 9)), layers.GRU(8, reset_after=reset_after, name="gru")])
    bs.prune_blocks(model, 4, bs.ConstantSparsity(0.75))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 6, 9)), np.ones((4, 8)), batch_size=2, verbose=0)
    expected = bs.output_connections(model)
    for other in (bs.convert(model, measure=False), bs.strip_pruning(model)):
        found = bs.output_connections(other)
        assert set(found) == set(expected)
        for path, counts in expected.items():
            np.testing.assert_array_equal(found[path], counts)


def test_dense_weights_only_when_asked():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="out")])
    assert bs.output_connections(model) == {}
    np.testing.assert_array_equal(bs.output_connections(model, dense=True)["out/kernel"], [4, 4, 4])


def test_errors():
    with pytest.raises(TypeError, match="Received: 3"):
        bs.output_connections(3)
    with pytest.raises(ValueError, match="not built"):
        bs.output_connections(layers.Dense(3))
