"""Pruning at once: the masks of an independent ranking, and what training and saving make of them."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from helpers import loop_blocks
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.pruning import pruned_weights


def model_of(*inner):
    return keras.Sequential([keras.Input((5, 7)), *inner])


def largest_by_block(w, grid):
    """The largest |w| of each block, by plain loops."""
    scores = np.zeros(grid.mask_shape)
    for i, j, rows, cols in loop_blocks(grid):
        scores[i, j] = np.abs(w[rows, cols]).max()
    return scores


def expected_mask(w, grid, target):
    """Keeps the blocks with the highest scores."""
    scores = largest_by_block(w, grid)
    dropped = round(target * grid.num_blocks)
    return (scores.ravel().argsort().argsort() >= dropped).reshape(grid.mask_shape)


@pytest.mark.parametrize("block_shape", [(4, 4), (3, 5), (1, 1)])
def test_each_weight_loses_its_lowest_blocks(block_shape):
    model = model_of(layers.LSTM(9), layers.Dense(11))
    before = {w.path: w.numpy() for w in model.weights}
    assert bs.prune_once(model, 0.7, block_shape) is model
    for weight, gates in ((model.layers[0].cell.kernel, 4), (model.layers[0].cell.recurrent_kernel, 4)):
        grid = BlockGrid(weight.shape, block_shape, gates)
        kept = np.asarray(grid.expand(expected_mask(before[weight.path], grid, 0.7)))
        np.testing.assert_array_equal(weight.numpy(), np.where(kept, before[weight.path], 0.0))
    for bias in (model.layers[0].cell.bias, model.layers[1].bias):
        np.testing.assert_array_equal(bias.numpy(), before[bias.path])


def test_over_all_weights():
    model = model_of(layers.Flatten(), layers.Dense(12), layers.Dense(8))
    model.layers[2].kernel.assign(10.0 * model.layers[2].kernel)
    kernels = [layer.kernel for layer in model.layers[1:]]
    grids = [BlockGrid(kernel.shape, 4) for kernel in kernels]
    scores = [largest_by_block(kernel.numpy(), grid).ravel() for kernel, grid in zip(kernels, grids, strict=True)]
    limit = np.sort(np.concatenate(scores))[round(0.5 * sum(map(len, scores)))]
    bs.prune_once(model, 0.5, ranking="global")
    for weight, score in zip(pruned_weights(model), scores, strict=True):
        np.testing.assert_array_equal(np.asarray(weight.pruning.block_mask).ravel(), score >= limit)
    assert scores[1].min() >= limit > scores[0].min()  # so that ranking each by itself would differ


def test_it_holds_in_training_and_in_files_and_is_over(tmp_path, caplog):
    model = model_of(layers.Flatten(), layers.Dense(12), layers.Dense(8))
    bs.prune_once(model, 0.75)
    zeros = [np.asarray(layer.kernel) == 0 for layer in model.layers[1:]]
    assert all(0.6 < zero.mean() < 0.8 for zero in zeros)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.compile("adam", "mse")
    loaded.fit(np.random.normal(size=(32, 5, 7)), np.ones((32, 8)), batch_size=4, verbose=0)
    for layer, first, zero in zip(loaded.layers[1:], model.layers[1:], zeros, strict=True):
        assert not np.asarray(layer.kernel)[zero].any()
        assert (np.asarray(layer.kernel) != np.asarray(first.kernel))[~zero].any()
    bs.strip_pruning(loaded)
    assert "schedule ends" not in caplog.text


def test_layers_in_turns_with_blocks_of_their_own():
    model = model_of(layers.Flatten(), layers.Dense(12, name="a"), layers.Dense(8, name="b"))
    bs.prune_once(model, 0.5, 4, include="a")
    first = np.asarray(model.get_layer("a").kernel)
    bs.prune_once(model, 0.9, 2, include="b")
    np.testing.assert_array_equal(np.asarray(model.get_layer("a").kernel), first)
    assert [w.block_shape for w in bs.report(model).weights] == [(4, 4), (2, 2)]


def test_errors_leave_the_model_as_it_was():
    model = model_of(layers.Flatten(), layers.Dense(12, name="a"))
    w = model.get_layer("a").kernel.numpy()
    w[0, 0] = np.nan
    model.get_layer("a").kernel.assign(w)
    with pytest.raises(ValueError, match="a/kernel has values that are not finite"):
        bs.prune_once(model, 0.5)
    assert not pruned_weights(model)
    np.testing.assert_array_equal(model.get_layer("a").kernel.numpy(), w)
    with pytest.raises(ValueError, match="target_sparsity"):
        bs.prune_once(model, 1.0)
    with pytest.raises(ValueError, match="is not built"):
        bs.prune_once(keras.Sequential([layers.Dense(3)]), 0.5)
    with pytest.raises(TypeError, match="Keras 3 layer or model"):
        bs.prune_once(w, 0.5)
