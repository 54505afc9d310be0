import logging

import keras
import numpy as np
import pytest
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close, random_block_sparse
from tf_blocksparse import choice
from tf_blocksparse.blocks import BlockGrid


class Clock:
    """Stands in for `product_times()`: gives the times that it is told, and keeps what it was asked."""

    def __init__(self, *times, by_shape=None):
        self.times, self.by_shape, self.calls = times, by_shape or {}, []

    def __call__(self, w, sparse_product, row_counts, dtype, trained=None):
        x = np.random.default_rng(0).standard_normal((3, w.shape[0])).astype("float32")
        assert_close(sparse_product(keras.ops.convert_to_tensor(x)), x @ w.astype("float32"), length=w.shape[0])
        self.calls.append((w.shape, tuple(row_counts), dtype))
        return self.by_shape.get(w.shape, self.times)[: len(row_counts)]


@pytest.fixture
def clock(monkeypatch):
    def install(*times, **settings):
        fake = Clock(*times, **settings)
        monkeypatch.setattr(choice, "product_times", fake)
        return fake

    return install


def zero_blocks(model, density=0.5, block_shape=4):
    """Zeroes blocks of all matrices; each one has others."""
    for seed, variable in enumerate(v for v in model.trainable_variables if len(v.shape) == 2 and v.name != "bias"):
        gates = {"lstm": 4, "gru": 3}.get(variable.path.split("/")[-2].split("_")[0], 1)
        grid = BlockGrid(variable.shape, block_shape, gates)
        variable.assign(random_block_sparse(np.random.default_rng(seed), grid, density)[0])
    return model


def one_dense():
    return zero_blocks(keras.Sequential([keras.Input((16,)), layers.Dense(24, name="out")]))


FASTER, SLOWER = (2e-3, 1e-3), (1e-3, 1.5e-3)


@pytest.mark.parametrize(
    "times,converted",
    [
        ((FASTER, FASTER), True),
        ((SLOWER, SLOWER), False),
        (((3e-3, 1e-3), (1.0e-3, 1.3e-3)), False),  # a loss at one batch size
        (((1.0e-3, 1.3e-3), (3e-3, 1e-3)), False),
        (((2e-3, 1e-3), (1.00e-3, 1.03e-3)), True),  # within the noise
        (((1.00e-3, 1.03e-3), (1.00e-3, 1.03e-3)), False),  # but no gain at all
        (((1e-3, 1e-3), (1e-3, 1e-3)), True),  # as fast, and smaller
    ],
)
def test_the_times_decide(times, converted, clock):
    clock(*times)
    model = one_dense()
    result = bs.convert(model, block_shape=4)
    assert type(result.layers[0]) is (bs.BlockSparseDense if converted else layers.Dense)
    x = np.random.default_rng(0).standard_normal((5, 16)).astype("float32")
    assert_close(result(x), model(x), length=16)


def test_the_report_has_the_times_of_a_converted_layer(clock):
    clock((0.31e-3, 0.05e-3), (1.2e-3, 0.6e-3))
    (row,) = bs.report(bs.convert(one_dense(), block_shape=4)).weights
    assert row.state == "block-sparse"
    assert row.note == "measured 6.2x faster at batch 1 (0.31 -> 0.05 ms), 2.0x faster at batch 16 (1.2 -> 0.6 ms)"


def test_the_report_says_why_a_layer_stays_dense(clock, caplog):
    clock((3e-3, 1e-3), (1e-3, 1.3e-3))
    result = bs.convert(one_dense(), block_shape=4)
    (row,) = bs.report(result).weights
    assert row.state == "dense"
    assert row.note == (
        "stays dense: in 4 x 4 blocks measured 3.0x faster at batch 1 (3 -> 1 ms), "
        "1.30x slower at batch 16 (1 -> 1.3 ms)"
    )
    assert "every layer is faster dense" in caplog.text
    assert type(bs.convert(one_dense(), block_shape=4, batch_size=1).layers[0]) is bs.BlockSparseDense


def test_the_matrices_of_a_layer_count_together_and_are_reported_apart(clock):
    clock(by_shape={(12, 32): [(1e-3, 2e-3)], (8, 32): [(5e-3, 1e-3)]})
    model = zero_blocks(keras.Sequential([keras.Input((3, 12)), layers.LSTM(8, name="lstm")]))
    kernel, recurrent = bs.report(bs.convert(model, block_shape=4, batch_size=2)).weights
    assert kernel.note == "measured 2.0x slower at batch 2 (1 -> 2 ms)"
    assert recurrent.note == "measured 5.0x faster at batch 2 (5 -> 1 ms)"
    clock(by_shape={(12, 32): [(1e-3, 9e-3)], (8, 32): [(5e-3, 1e-3)]})
    kernel, recurrent = bs.report(bs.convert(model, block_shape=4, batch_size=2)).weights
    assert kernel.note == recurrent.note
    assert "1.67x slower at batch 2 (6 -> 10 ms)" in kernel.note


def test_the_layers_of_a_bidirectional_have_notes(clock):
    clock(FASTER)
    inner = layers.GRU(16, reset_after=False, name="gru")
    model = zero_blocks(keras.Sequential([keras.Input((3, 16)), layers.Bidirectional(inner)]))
    rows = bs.report(bs.convert(model, block_shape=4, batch_size=1)).weights
    assert len(rows) == 6
    assert all(row.state == "block-sparse" and "2.0x faster" in row.note for row in rows)


def test_rows_are_those_of_the_layers(clock):
    fake = clock(FASTER, FASTER)
    x = keras.Input((None, 8))
    y = layers.Dense(16)(x)
    y = layers.SimpleRNN(12, return_sequences=True)(y)
    y = layers.Dense(20)(layers.Reshape((6, 12))(y))
    y = layers.TimeDistributed(layers.Dense(28))(y)
    model = zero_blocks(keras.Model(x, layers.Dense(32)(layers.Flatten()(y))))
    bs.convert(model, block_shape=4, batch_size=(2, 5), time_steps=7)
    assert {shape: rows for shape, rows, _ in fake.calls} == {
        (8, 16): (14, 35),
        (16, 12): (2, 5),
        (12, 12): (2, 5),
        (12, 20): (12, 30),
        (20, 28): (2, 5),
        (168, 32): (2, 5),
    }


def test_the_type_is_that_the_layer_computes_in(clock):
    keras.config.set_dtype_policy("mixed_bfloat16")
    fake = clock(FASTER, FASTER)
    bs.convert(one_dense(), block_shape=4)
    assert fake.calls == [((16, 24), (1, 16), "bfloat16")]


def test_equal_matrices_are_measured_once(clock):
    fake = clock(FASTER, FASTER)
    model = keras.Sequential([keras.Input((8,)), *[layers.Dense(8) for _ in range(3)]])
    for layer in model.layers:
        layer.kernel.assign(np.where(np.arange(8) < 4, 1.0, 0.0) * np.ones((8, 1)))
    model.layers[2].kernel.assign(np.eye(8))
    bs.convert(model, block_shape=2)
    assert len(fake.calls) == 2
    bs.convert(model, block_shape=2)
    assert len(fake.calls) == 4


@pytest.mark.parametrize(
    "settings,converted",
    [(dict(measure=False), False), (dict(min_sparsity=0.2), True), (dict(min_sparsity=0.4), False)],
)
def test_limits_decide_without_measuring(settings, converted, clock):
    fake = clock()
    model = keras.Sequential([keras.Input((16,)), layers.Dense(24)])
    model.layers[0].kernel.assign(np.where(np.arange(24) < 16, 1.0, 0.0) * np.ones((16, 1)))
    for _ in range(2):
        if converted:
            assert type(bs.convert(model, block_shape=4, **settings).layers[0]) is bs.BlockSparseDense
        else:
            with pytest.raises(ValueError, match="enough zero blocks to gain"):
                bs.convert(model, block_shape=4, **settings)
    assert not fake.calls


def test_layers_without_zero_blocks_are_not_measured(clock):
    fake = clock(FASTER, FASTER)
    model = keras.Sequential([keras.Input((16,)), layers.Dense(24), layers.Dense(12)])
    model.layers[1].kernel.assign(np.where(np.arange(12) < 4, 1.0, 0.0) * np.ones((24, 1)))
    rows = bs.report(bs.convert(model, block_shape=4)).weights
    assert [shape for shape, *_ in fake.calls] == [(24, 12)]
    assert rows[0].note == "none of its 4 x 4 blocks is zero"
    with pytest.raises(ValueError, match="Prune first"):
        bs.convert(keras.Sequential([keras.Input((16,)), layers.Dense(24)]))


@pytest.mark.parametrize(
    "rows,width,density,reason",
    [
        (40, 8, 0.4, None),
        (40, 8, 0.6, "is below 0.50"),
        (5, 3, 0.5, "4 x 4 blocks would take 80 bytes, dense it takes 60"),
    ],
)
def test_an_embedding_is_converted_for_its_memory(rows, width, density, reason, clock):
    fake = clock()
    layer = layers.Embedding(rows, width)
    layer.build()
    grid = BlockGrid((rows, width), 4)
    kept = np.arange(grid.num_blocks) < round(density * grid.num_blocks)
    layer.embeddings.assign(np.asarray(grid.expand(kept.reshape(grid.mask_shape))).astype("float32"))
    found = choice.Chooser((4, 4), batch_sizes=(1,)).choose(layer)
    assert found.times == () and not fake.calls
    assert found.why_dense is None if reason is None else reason in found.why_dense


def test_the_block_shape_is_searched_once(monkeypatch, clock):
    clock(FASTER, FASTER)
    searches = []
    search = choice.best_block_shape
    monkeypatch.setattr(choice, "best_block_shape", lambda w: searches.append(1) or search(w))
    converted = bs.convert(one_dense())
    assert len(searches) == 1
    assert converted.layers[0].block_shape == (4, 4)


def test_each_layer_is_logged(clock, caplog):
    clock(FASTER, FASTER)
    with caplog.at_level(logging.INFO, "tf_blocksparse"):
        bs.convert(one_dense(), block_shape=4)
    assert "out: measured 2.0x faster at batch 1" in caplog.text


def test_many_layers_show_a_bar(clock, capsys):
    clock(FASTER, FASTER)
    model = keras.Sequential([keras.Input((8,)), *[layers.Dense(8) for _ in range(12)]])
    bs.convert(zero_blocks(model), block_shape=4)
    assert "12/12" in capsys.readouterr().out
    bs.convert(model, block_shape=4, measure=False, min_sparsity=0)
    assert capsys.readouterr().out == ""


def test_a_file_does_not_keep_what_was_measured(clock, tmp_path):
    clock(by_shape={(16, 24): (FASTER, FASTER), (24, 8): (SLOWER, SLOWER)})
    model = keras.Sequential([keras.Input((16,)), layers.Dense(24), layers.Dense(8)])
    converted = bs.convert(zero_blocks(model), block_shape=4)
    converted.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert ["measured" in w.note for w in bs.report(converted).weights] == [True, True]
    assert [(w.state, w.note) for w in bs.report(loaded).weights] == [("block-sparse", ""), ("dense", "not converted")]
