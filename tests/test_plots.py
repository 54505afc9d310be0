import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse import plots


@pytest.fixture(scope="module")
def trained():
    model = keras.Sequential([keras.Input((5, 8)), layers.LSTM(6, name="lstm"), layers.Dense(10, name="out")])
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.75, 0, 4, frequency=2))
    model.compile("sgd", "mse")
    history = bs.SparsityHistory(every=2)
    model.fit(np.ones((10, 5, 8)), np.ones((10, 10)), batch_size=2, verbose=0, callbacks=[history])
    return model, history


def axes_of(figure):
    return [axis for part in (figure, *figure.subfigs) for axis in part.axes if axis.axison]


def test_pruning_has_the_curves_and_every_mask(trained, tmp_path):
    model, history = trained
    figure = plots.plot_pruning(model, history)
    sparsity, threshold, *masks = {id(axis): axis for axis in axes_of(figure)}.values()
    np.testing.assert_allclose(sparsity.lines[2].get_ydata(), history.sparsity["out/kernel"])
    np.testing.assert_allclose(threshold.lines[2].get_ydata(), history.threshold["out/kernel"])
    assert [axis.get_title().split("\n")[0] for axis in masks] == ["lstm/kernel", "lstm/recurrent_kernel", "out/kernel"]
    kept = model.layers[1].kernel.constraint.block_mask
    np.testing.assert_array_equal(masks[2].images[0].get_array(), kept)
    figure.savefig(tmp_path / "p.png")
    plots.plot_history(history).savefig(tmp_path / "h.png")
    plots.plot_pruning(bs.convert(model, measure=False)).savefig(tmp_path / "c.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 5000


def test_sparsity_by_layer_has_a_bar_for_each(trained):
    model, _ = trained
    (axis,) = plots.plot_sparsity_by_layer({"pruned": model, "converted": bs.convert(model, measure=False)}).axes
    expected = [w.sparsity for w in bs.report(model).weights]
    for bars in axis.containers:
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected)
    assert [label.get_text() for label in axis.get_xticklabels()] == [w.path for w in bs.report(model).weights]


def test_output_connections_are_all_counted(trained):
    model, _ = trained
    figure = plots.plot_output_connections(model)
    (axis,) = figure.axes
    counts = np.concatenate(list(bs.output_connections(model).values()))
    text = axis.get_legend().get_texts()[0].get_text()
    assert f"{(counts == 0).sum()} of {counts.size} neurons have none" in text


def test_errors():
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="no mask to draw"):
        plots.plot_pruning(dense)
    with pytest.raises(ValueError, match="no sparsity by block to draw"):
        plots.plot_sparsity_by_layer(dense)
    with pytest.raises(ValueError, match="dense=True"):
        plots.plot_output_connections(dense)
    with pytest.raises(TypeError, match="Received: 3"):
        plots.plot_output_connections({"a": 3})
