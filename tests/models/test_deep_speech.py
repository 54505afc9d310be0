import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from killed_runs import killed_in_epoch
from models import deep_speech
from speech_cases import tiny_preset, write_tree


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three speakers who spell in tones; the small preset made so small that it learns that in seconds."""
    monkeypatch.setitem(deep_speech.PRESETS, "small", tiny_preset())
    return write_tree(tmp_path / "speech")


def cells_of(printed, kind):
    """The cells of one row of the table that was printed."""
    row = next(line for line in printed.splitlines() if re.match(rf"\| *{kind} ", line))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_whole_path(data, tmp_path, capsys):
    out = tmp_path / "out"
    deep_speech.main(
        ["--data", str(data), "--out", str(out), "--tensorboard", "--target", "0.5", "--min-sparsity", "0.3"]
    )
    printed = capsys.readouterr().out
    assert "training: 20 utterances of 2 speakers" in printed and "validation: 10 utterances of 1 speakers" in printed
    rows = {kind: cells_of(printed, kind) for kind in deep_speech.KINDS}
    assert [rows[kind][1] for kind in ("dense", "bp", "glp")] == ["16"] * 3 and 4 <= int(rows["dense_small"][1]) < 16
    assert [rows[kind][4] for kind in deep_speech.KINDS] == ["0.0%", "50.0%", "50.0%", "0.0%"]
    params = {kind: float(row[2].removesuffix(" M")) for kind, row in rows.items()}
    assert params["bp"] == pytest.approx(params["dense"] / 2, abs=0.001)
    for row in rows.values():
        assert 0 <= float(row[5].split()[0]) <= 150 and 0 <= float(row[6]) <= 150
    assert "(+0.0%)" in rows["dense"][5]
    differences = [float(x) for x in re.findall(r"served \w+ model: (\S+)", printed)]
    assert len(differences) == 4 and max(differences) < 1e-3
    inputs = [np.zeros((1, 30, 20), "float32"), np.array([30], "int32")]
    for kind in deep_speech.KINDS:
        logits = keras.saving.load_model(out / f"{kind}.keras", compile=False)(inputs)
        served = tf.saved_model.load(out / f"{kind}_served")
        np.testing.assert_allclose(served.serve(inputs), logits, rtol=1e-3, atol=1e-3)
        assert list((out / "tensorboard" / kind).rglob("events*"))
        assert len((out / f"{kind}.csv").read_text().splitlines()) == 6
    assert list((out / "tensorboard" / "bp_pruning").rglob("events*"))


def test_it_learns_to_spell(data, tmp_path, capsys):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--models", "dense", "--epochs", "20"]
    deep_speech.main(arguments)
    row = cells_of(capsys.readouterr().out, "dense")
    assert float(row[5].split()[0]) < 15 and float(row[6]) < 15, "a speaker whom it was not trained on"


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, tmp_path):
    """With pruning, whose masks and steps go on, and SpecAugment, whose masks are those of the epoch."""
    arguments = ["--data", str(data), "--models", "dense", "bp", "--time-mask", "4", "--frequency-mask", "3", "--out"]
    directories = [tmp_path / name for name in ("whole", "halves")]
    whole, halves = ([*arguments, str(directory)] for directory in directories)
    run = deep_speech.Run(deep_speech.parse(whole))
    run.train("dense")
    run.train("bp")

    halved = deep_speech.Run(deep_speech.parse(halves))
    shutil.copy(directories[0] / "dense.keras", directories[1])
    with killed_in_epoch(2):
        halved.train("bp")
    assert not (directories[1] / "bp.keras").exists()
    deep_speech.Run(deep_speech.parse(halves)).train("bp")
    models = [keras.saving.load_model(directory / "bp.keras", compile=False) for directory in directories]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
    log = (directories[1] / "bp.csv").read_text().splitlines()
    assert [line[:2] for line in log[1:]] == ["0,", "1,", "2,", "3,", "4,"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--target", "80"], r"Did you mean 0\.8"),
        (["--begin-step", "9", "--end-step", "4"], "Steps must follow in this order"),
        (["--group-lasso", "-1"], "factor"),
        (["--min-sparsity", "80"], "a fraction, from 0 to 1"),
        (["--time-mask", "-1"], "--time-mask"),
        (["--seed", "-1"], "--seed"),
        (["--epochs", "0"], "--epochs"),
        (["--end-step", "99999"], "to 99999, of 15"),
        (["--block-shape", "4", "0"], "--block-shape"),
        (["--units", "0"], "--units"),
        (["--valid-speakers", "nobody"], "among the 3 of the data: 101, 102, 103"),
        (["--models", "bp"], "Put dense before"),
        (["--models", "bp", "dense"], "Put dense before"),
        (["--sample-rate", "16000"], "8000 samples a second, others 16000"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        deep_speech.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")


def test_another_run_is_not_mixed_in(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out")]
    deep_speech.Run(deep_speech.parse(arguments))
    deep_speech.Run(deep_speech.parse([*arguments, "--models", "dense"]))
    with pytest.raises(SystemExit, match="other settings"):
        deep_speech.main([*arguments, "--target", "0.7"])


def test_presets_are_the_papers():
    rnn, gru = deep_speech.PRESETS["paper"], deep_speech.PRESETS["paper_gru"]
    assert (rnn.cell, rnn.depth, rnn.units, rnn.epochs, rnn.activation) == ("rnn", 7, 1760, 25, "clipped_relu")
    assert (gru.cell, gru.depth, gru.units, gru.epochs) == ("gru", 3, 2560, 25)
    assert (rnn.optimizer, rnn.momentum, rnn.clip_norm) == ("sgd", 0.99, 400.0)
