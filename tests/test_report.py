import json

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.plots import plot_pruning
from tf_blocksparse.report import block_masks


def model_with_zeros():
    model = keras.Sequential([keras.Input((5, 8)), layers.LSTM(6, name="lstm"), layers.Dense(10, name="out")])
    kernel = np.ones((6, 10), "float32")
    kernel[:4, 4:] = 0  # blocks (0, 1) and (0, 2) of a 2 x 3 grid
    model.get_layer("out").kernel.assign(kernel)
    return model


def test_dense():
    report = bs.report(model_with_zeros())
    assert [w.path for w in report.weights] == ["lstm/kernel", "lstm/recurrent_kernel", "out/kernel"]
    assert {w.state for w in report.weights} == {"dense"}
    out = report.weights[2]
    assert (out.shape, out.multiply_adds, out.dense_bytes, out.stored_bytes) == ((6, 10), 60, 240, 240)
    assert out.sparsity == pytest.approx(24 / 60)
    assert "below" in out.note


def test_converted():
    converted = bs.convert(model_with_zeros(), block_shape=4, min_sparsity=0.3)
    out = bs.report(converted).weights[2]
    assert (out.state, out.block_shape, out.grid) == ("block-sparse", (4, 4), (2, 3))
    assert out.sparsity == pytest.approx(2 / 6)
    assert out.multiply_adds == 60 - 24
    assert out.stored_bytes == 4 * (4 * 16 + 4 + 3)
    assert out.note == ""


def test_pruned_counts_blocks_of_the_mask():
    model = bs.prune_blocks(model_with_zeros(), 4, bs.GradualSparsity(0.5, 0, 2), include="out")
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5, 8)), np.ones((4, 10)), batch_size=2, verbose=0)
    out = bs.report(model).weights[2]
    assert (out.state, out.sparsity, out.note) == ("pruned", 0.5, "not converted yet")
    assert bs.report(model).weights[0].state == "dense"


def test_totals_and_text_and_json():
    converted = bs.convert(model_with_zeros(), block_shape=4, min_sparsity=0.3)
    report = bs.report(converted)
    assert report.multiply_adds == sum(w.multiply_adds for w in report.weights)
    assert json.loads(json.dumps(report.to_dict()))["weights"][2]["path"] == "out/kernel"
    text = str(report)
    for part in ("out/kernel", "block-sparse", "lstm/recurrent_kernel", "0.333", "below"):
        assert part in text


def test_errors():
    with pytest.raises(TypeError, match="Received: 3"):
        bs.report(3)
    with pytest.raises(ValueError, match="not built"):
        bs.report(layers.Dense(3))


def test_block_masks_and_picture(tmp_path):
    model = bs.prune_blocks(model_with_zeros(), 4, bs.GradualSparsity(0.5, 0, 4, frequency=2))
    model.compile("sgd", "mse")
    history = bs.SparsityHistory(every=2)
    model.fit(np.ones((10, 5, 8)), np.ones((10, 10)), batch_size=2, verbose=0, callbacks=[history])
    assert history.steps == [2, 4, 5]
    assert history.sparsity["out/kernel"][1:] == [0.5, 0.5]
    masks = block_masks(model)
    assert {path: mask.shape for path, mask in masks.items()} == {
        "lstm/kernel": (2, 8),
        "lstm/recurrent_kernel": (2, 8),
        "out/kernel": (2, 3),
    }
    plot_pruning(model, history).savefig(tmp_path / "p.png")
    plot_pruning(bs.convert(model, min_sparsity=0.4), None).savefig(tmp_path / "c.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no mask to draw"):
        plot_pruning(model_with_zeros())
