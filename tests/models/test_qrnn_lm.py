import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from killed_runs import killed_in_epoch
from models import dynamic_lm, qrnn_lm

TINY = dict(
    units=16, depth=2, embedding=8, block_shape=(4, 4), epochs=2, ramp=(0.5, 1.5), batch_size=4, num_steps=5,
    max_vocabulary=None, learning_rate=0.01,
)  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A text in which each word says what follows; the presets made so small that they learn it in seconds."""
    for name in ("small", "lstm_small"):
        monkeypatch.setitem(dynamic_lm.PRESETS, name, dataclasses.replace(dynamic_lm.PRESETS[name], **TINY))
    rng = np.random.default_rng(0)
    directory = tmp_path / "text"
    directory.mkdir()
    for split, lines in (("train", 100), ("valid", 30), ("test", 20)):
        starts = rng.integers(0, 20, lines)
        rows = [" ".join(f"w{(s + i) % 20}" for i in range(8)) for s in starts]
        (directory / f"tiny.{split}.txt").write_text("\n".join(rows) + "\n")
    return directory


def cells_of(printed, kind):
    """The cells of one row of the table that was printed."""
    row = next(line for line in printed.splitlines() if re.match(rf"\| *{kind} ", line))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("preset", ["small", "lstm_small"])
def test_the_whole_path(preset, data, tmp_path, capsys):
    out = tmp_path / "out"
    qrnn_lm.main(["--data", str(data), "--preset", preset, "--out", str(out), "--tensorboard"])
    printed = capsys.readouterr().out
    dense, dynamic, agp = (cells_of(printed, kind) for kind in ("dense", "dynamic", "agp"))
    for cells in (dense, dynamic, agp):
        assert cells[1] == "16"
        assert all(1.0 < float(ppl) < 25.0 for ppl in cells[3:5])
    assert [cells[2] for cells in (dense, dynamic, agp)] == ["0%", "50%", "50%"]
    assert [cells[5] for cells in (dense, dynamic, agp)] == ["1.000", "0.500", "0.500"]
    assert [float(cells[6]) > 0 for cells in (dense, dynamic, agp)] == [False, True, False]
    difference = float(re.search(r"converted model: (\S+)", printed)[1])
    assert difference < 1e-4
    assert re.search(r"input dependent", printed) and (out / "gates.png").stat().st_size > 5000
    ids = np.zeros((1, 3), "int32")
    for kind in ("dense", "dynamic", "agp"):
        logits = keras.saving.load_model(out / f"{kind}.keras")(ids)
        served = tf.saved_model.load(out / f"{kind}_served")
        np.testing.assert_allclose(served.serve(ids), logits, rtol=1e-4, atol=1e-5)
        assert list((out / "tensorboard" / kind).rglob("events*"))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, tmp_path):
    arguments = ["--data", str(data), "--models", "dynamic", "--out"]
    qrnn_lm.main([*arguments, str(tmp_path / "whole")])
    run = qrnn_lm.Run(qrnn_lm.parse([*arguments, str(tmp_path / "halves")]))
    with killed_in_epoch(1):
        run.train("dynamic")
    qrnn_lm.main([*arguments, str(tmp_path / "halves")])
    whole, halves = (keras.saving.load_model(tmp_path / name / "dynamic.keras") for name in ("whole", "halves"))
    for a, b in zip(whole.get_weights(), halves.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    log = (tmp_path / "halves" / "dynamic.csv").read_text().splitlines()
    assert [line[:2] for line in log[1:]] == ["0,", "1,"]


def test_another_run_is_not_mixed_in(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out")]
    qrnn_lm.Run(qrnn_lm.parse(arguments))
    qrnn_lm.Run(qrnn_lm.parse([*arguments, "--models", "dense"]))
    with pytest.raises(SystemExit, match="other settings"):
        qrnn_lm.main([*arguments, "--sparsity", "0.75"])


# The paper's Table 1, in millions. What is left of a difference is the same for all widths.
@pytest.mark.parametrize("units,counted", [(1536, 47.4), (810, 20.3), (660, 16.3), (500, 12.6), (350, 9.7)])
def test_dense_models_have_the_sizes_of_table_1(units, counted):
    preset = dataclasses.replace(dynamic_lm.PRESETS["paper"], units=units)
    model = dynamic_lm.language_model(10_000, preset)
    assert dynamic_lm.table_count(model) / 1e6 == pytest.approx(counted, abs=0.3)
    assert dynamic_lm.parameter_count(model) == model.count_params()
    assert dynamic_lm.table_count(model) - model.count_params() == sum(w.size for w in dynamic_lm.filters(model))


def test_the_gates_are_as_large_as_those_of_table_1():
    dense, dynamic = (
        dynamic_lm.language_model(10_000, dynamic_lm.PRESETS["paper"], kind, 0.5) for kind in ("dense", "dynamic")
    )
    gates = dynamic_lm.parameter_count(dynamic) - dynamic_lm.parameter_count(dense)
    assert gates / 1e6 == pytest.approx(47.9 - 47.4, abs=0.1)  # of two rounded numbers
    stateful = dynamic_lm.language_model(10_000, dynamic_lm.PRESETS["paper"], "dynamic", 0.5, 4, stateful=True)
    assert dynamic_lm.parameter_count(stateful) == dynamic_lm.parameter_count(dynamic)
    parts = bs.computation(dynamic)
    assert [part.fraction for part in parts] == [0.5] * 4
    # "An order of magnitude lower than the total computational gain" (section 4.2.1).
    assert sum(part.gate for part in parts) < 0.1 * sum(part.dense - part.chosen for part in parts)


def test_lstm_of_table_2():
    model = dynamic_lm.language_model(10_000, dynamic_lm.PRESETS["lstm_paper"], "dynamic", 0.5)
    shapes = [matrix.shape for matrix in dynamic_lm.filters(model)]
    assert shapes == [(1536, 4 * 1536)] * 4
    assert [layer.name for layer in model.layers if "lstm" in layer.name] == ["lstm_1", "lstm_2"]


def test_presets_are_the_papers():
    qrnn, lstm = dynamic_lm.PRESETS["paper"], dynamic_lm.PRESETS["lstm_paper"]
    assert (qrnn.units, qrnn.depth, qrnn.embedding, qrnn.learning_rate, qrnn.ramp) == (1536, 4, 512, 1e-3, (350, 450))
    assert (lstm.units, lstm.depth, lstm.embedding, lstm.epochs, lstm.ramp) == (1536, 2, 1536, 55, (25, 40))
    assert lstm.hidden_dropout == 0.65


def test_dropout_of_a_qrnn_drops_the_same_features_at_every_word():
    preset = dataclasses.replace(dynamic_lm.PRESETS["paper"], units=8, embedding=8)
    model = dynamic_lm.language_model(20, preset)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in layers] == [0.4, 0.3, 0.3, 0.3, 0.4]
    kept = np.asarray(layers[0](np.ones((2, 5, 8), "float32"), training=True)) > 0
    assert (kept == kept[:, :1]).all() and not kept.all()


def test_sparsity_rises_between_the_epochs_of_the_ramp(data, tmp_path):
    run = qrnn_lm.Run(qrnn_lm.parse(["--data", str(data), "--out", str(tmp_path / "out"), "--epochs", "4"]))
    steps, schedule = run.steps_per_epoch, run.ramps["dynamic"]
    assert run.preset.ramp == (1.0, 3.0)
    assert [float(schedule.sparsity(epoch * steps)) for epoch in (0, 1, 2, 3, 4)] == [0.0, 0.0, 0.25, 0.5, 0.5]
    assert float(run.ramps["agp"].sparsity(2 * steps)) == pytest.approx(0.5 * (1 - 0.5**3))


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--sparsity", "50"], r"Did you mean 0\.5"),
        (["--ramp", "1", "3"], "between epochs 1 and 3 of 2"),
        (["--ramp", "1", "1"], "between epochs 1 and 1"),
        (["--block-shape", "0"], "--block-shape"),
        (["--units", "0"], "--units"),
        (["--epochs", "0"], "--epochs"),
        (["--max-vocabulary", "2"], "max_vocabulary=2"),
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        qrnn_lm.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")
