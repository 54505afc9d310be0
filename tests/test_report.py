import json

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
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
    assert out.note == "not converted yet"
    assert {w.note for w in report.weights[:2]} == {"it has no zeros to skip"}


def test_biases_are_not_listed():
    model = keras.Sequential([keras.Input((5, 8)), layers.GRU(6, name="gru")])
    assert [w.path for w in bs.report(model).weights] == ["gru/kernel", "gru/recurrent_kernel"]


def test_converted():
    converted = bs.convert(model_with_zeros(), block_shape=4, min_sparsity=0.3)
    out = bs.report(converted).weights[2]
    assert (out.state, out.block_shape, out.grid) == ("block-sparse", (4, 4), (2, 3))
    assert out.sparsity == pytest.approx(2 / 6)
    assert out.multiply_adds == 60 - 24
    assert out.stored_bytes == 4 * (4 * 16 + 4 + 4)
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
    for part in ("out/kernel", "block-sparse", "lstm/recurrent_kernel", "0.333", "below min_sparsity=0.3"):
        assert part in text


def test_errors():
    with pytest.raises(TypeError, match="Received: 3"):
        bs.report(3)
    with pytest.raises(ValueError, match="not built"):
        bs.report(layers.Dense(3))


def test_block_masks():
    model = bs.prune_blocks(model_with_zeros(), 4, bs.GradualSparsity(0.5, 0, 4, frequency=2))
    assert {path: mask.shape for path, mask in block_masks(model).items()} == {
        "lstm/kernel": (2, 8),
        "lstm/recurrent_kernel": (2, 8),
        "out/kernel": (2, 3),
    }


def image_model(**settings):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, name="conv"),
            layers.DepthwiseConv2D(2, name="depthwise"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10, name="out"),
        ]
    )
    bs.prune_blocks(model, (4, 3), bs.ConstantSparsity(0.75), **settings)
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 6, 6, 3)), np.ones((2, 10)), batch_size=2, verbose=0)
    return model


def test_every_weight_says_whether_it_is_pruned_and_why_not():
    found = {w.path: w for w in bs.report(image_model(exclude="out")).weights}
    assert {path: w.state for path, w in found.items()} == {
        "conv/kernel": "pruned",
        "depthwise/kernel": "dense",
        "out/kernel": "dense",
    }
    assert "each channel has a filter of its own" in found["depthwise/kernel"].note
    assert found["out/kernel"].note == "left alone: not selected by prune_blocks()"
    assert found["conv/kernel"].note == "Conv2D has no block-sparse twin"


def test_numbers_of_a_weight_of_higher_rank():
    model = image_model()
    conv = bs.report(model).weights[0]
    kernel = np.asarray(model.get_layer("conv").kernel).reshape(27, 8)
    kept = model.get_layer("conv").kernel.constraint.block_mask.numpy()
    assert (conv.shape, conv.matrix_shape, conv.block_shape, conv.grid) == ((3, 3, 3, 8), (27, 8), (4, 3), (7, 3))
    assert conv.num_blocks == kept.sum() == 21 - round(0.75 * 21)
    assert conv.sparsity == pytest.approx(1 - kept.mean())
    assert conv.weight_sparsity == pytest.approx((kernel == 0).mean())
    assert conv.multiply_adds == np.count_nonzero(kernel)
    assert conv.dense_bytes == 27 * 8 * 4 == 2 * conv.dense_bytes_16
    assert conv.csr_bytes == np.count_nonzero(kernel) * 8 + 28 * 4
    assert conv.bsr_bytes == kept.sum() * (12 * 4 + 4) + 8 * 4
    assert conv.bsr_bytes_16 == kept.sum() * (12 * 2 + 2) + 8 * 2


def test_dropped_blocks_that_are_not_zero_are_told():
    model = image_model()
    kernel = model.get_layer("conv").kernel
    dropped = int((~kernel.constraint.block_mask.numpy()).sum())
    kernel.assign(np.ones(kernel.shape))
    note = bs.report(model).weights[0].note
    assert f"{dropped} dropped blocks are not zero" in note and "KeepBlocksZero" in note


def test_a_weight_without_blocks_is_told():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8)])
    bs.prune_blocks(model, 4, bs.HardThreshold(100.0))
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 8)), np.ones((2, 8)), verbose=0)
    assert "no block is left" in bs.report(model).weights[0].note


def test_columns_and_totals():
    report = bs.report(image_model())
    columns = report.to_columns()
    assert columns["path"] == [w.path for w in report.weights]
    assert {len(column) for column in columns.values()} == {3}
    assert set(columns) == set(report.to_dict()["weights"][0])
    totals = report.to_dict()["totals"]
    assert totals["dense_bytes"] == sum(columns["dense_bytes"])
    assert totals["bsr_bytes"] == columns["bsr_bytes"][0] + columns["dense_bytes"][1] + columns["bsr_bytes"][2]
    elements = [w.matrix_shape[0] * w.matrix_shape[1] for w in report.weights]
    assert totals["weight_sparsity"] == pytest.approx(np.average(columns["weight_sparsity"], weights=elements))
    assert f"{totals['multiply_adds']:,}" in str(report)


def test_layers_that_choose_their_blocks():
    layer = bs.DynamicBlockDense(10, block_shape=4, sparsity=0.5, name="dynamic")
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.kernel.assign(np.arange(1.0, 81.0).reshape(8, 10))
    for form, stored in (
        (model, 8 * 10 * 4),
        (bs.convert(model), 6 * 16 * 4),
        (bs.convert(model, dtype="int8"), 6 * 20),
    ):
        kernel, gate = bs.report(form).weights
        assert (kernel.path, kernel.state, kernel.matrix_shape) == ("dynamic/kernel", "dynamic", (8, 10))
        assert (kernel.block_shape, kernel.grid, kernel.num_blocks, kernel.sparsity) == ((4, 4), (2, 3), 3, 0.5)
        assert (kernel.multiply_adds, kernel.weight_sparsity, kernel.dense_bytes) == (40, 0.0, 320)
        assert kernel.stored_bytes == stored
        assert kernel.note == "each input chooses 3 of 6 blocks"
        assert (gate.path, gate.note) == ("dynamic/block_gate/kernel", "cannot be pruned: it computes block gates")


def test_recurrent_layers_that_choose_their_blocks():
    layer = bs.DynamicBlockLSTM(8, block_shape=4, sparsity=0.5, name="lstm")
    rows = bs.report(keras.Sequential([keras.Input((5, 12)), layer])).weights
    found = {w.path: (w.matrix_shape, w.grid, w.num_blocks) for w in rows if w.state == "dynamic"}
    # of four matrices of 3 x 2 and of 2 x 2 blocks each
    assert found == {"lstm/kernel": ((12, 32), (3, 8), 4 * 3), "lstm/recurrent_kernel": ((8, 32), (2, 8), 4 * 2)}
