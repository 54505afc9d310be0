import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from helpers import ROOT, run_python
from killed_runs import epochs_begun, killed_in_epoch
from models import comparison, language_modelling, text, word_lm

TINY = dataclasses.replace(word_lm.PRESETS["demo"], units=16, batch_size=4, num_steps=5, epochs=2, steps_per_epoch=None)


@pytest.fixture
def data(tmp_path):
    """A text in which each word says what follows, so that a model can learn it."""
    rng = np.random.default_rng(0)
    directory = tmp_path / "text"
    directory.mkdir()
    for split, lines in (("train", 120), ("valid", 80), ("test", 40)):
        starts = rng.integers(0, 20, lines)
        rows = [" ".join(f"w{(s + i) % 20}" for i in range(8)) for s in starts]
        (directory / f"tiny.{split}.txt").write_text("\n".join(rows) + "\n")
    return directory


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(word_lm.PRESETS, "demo", TINY)


@pytest.mark.parametrize("schedule", ["gradual", "ramp"])
def test_the_whole_path(schedule, data, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    word_lm.main(
        ["--data", str(data), "--out", str(out), "--schedule", schedule, "--target", "0.8", "--begin-step", "5"]
        + ["--frequency", "5", "--group-lasso", "1e-5", "--min-sparsity", "0"]
    )
    printed = capsys.readouterr().out
    for part in ("perplexity, validation", "perplexity, test", "sparsity, lstm_1/recurrent_kernel", "multiply-adds"):
        assert part in printed
    for part in ("bytes in memory", "bytes on disk", "ms a word, batch 1 ", "ms a word, batch 16", str(out)):
        assert part in printed
    assert (out / "pruning.png").stat().st_size > 5000
    assert (out / "block_sparse" / "saved_model.pb").exists()
    if schedule == "gradual":
        row = next(line for line in printed.splitlines() if "lstm_1/recurrent_kernel" in line)
        assert "0.797" in row  # 51 of the 64 blocks, the nearest to 0.8


def test_the_dense_and_the_pruned_twin_start_alike(data, tiny, tmp_path):
    run = word_lm.Run(word_lm.parse(["--data", str(data), "--out", str(tmp_path / "out")]))
    for a, b in zip(run.new_model().get_weights(), run.new_model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("preset,millions", [("small", 4.65), ("medium", 19.8), ("large", 66.0)])
def test_sizes_are_those_of_the_papers(preset, millions):
    preset = word_lm.PRESETS[preset]
    layers = [word_lm.language_model(10_000, dataclasses.replace(preset)).count_params()]
    assert layers[0] / 1e6 == pytest.approx(millions, rel=0.01)


def test_learning_rate_falls_as_zarembas():
    small = word_lm.PRESETS["small"]
    assert [small.rate(epoch) for epoch in range(6)] == [1.0, 1.0, 1.0, 1.0, 0.5, 0.25]


def test_loss_is_the_sum_over_time_and_perplexity_per_word():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 7, (3, 5))
    logits = rng.standard_normal((3, 5, 7)).astype("float32")
    probabilities = np.exp(logits.astype("float64"))
    probabilities /= probabilities.sum(-1, keepdims=True)
    entropy = -np.log(np.take_along_axis(probabilities, words[..., None], -1)[..., 0])
    loss = language_modelling.sequence_loss(words, logits)
    np.testing.assert_allclose(loss, entropy.sum(1), rtol=1e-5)
    metric = language_modelling.Perplexity()
    metric.update_state(words, logits)
    np.testing.assert_allclose(float(metric.result()), np.exp(entropy.mean()), rtol=1e-5)


def test_validation_starts_from_zero_state(data, tiny, tmp_path):
    run = word_lm.Run(word_lm.parse(["--data", str(data), "--out", str(tmp_path / "out")]))
    model = run.new_model()
    word_lm.compile_model(model, TINY)
    first = word_lm.perplexity(model, run.corpus.valid, TINY)
    assert word_lm.perplexity(model, run.corpus.valid, TINY) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--target", "1.0"], "target_sparsity.*1.0"),
        (["--target", "90"], r"Did you mean 0\.9"),
        (["--target", "0.3"], "--min-sparsity 0"),
        (["--block-shape", "0"], "--block-shape"),
        (["--block-shape", "4", "4", "4"], "--block-shape"),
        (["--block-shape", "4", "x"], "--block-shape"),
        (["--begin-step", "20", "--end-step", "10"], "Steps must follow in this order"),
        (["--end-step", "100000"], "to 100000, of"),
        (
            ["--schedule", "ramp", "--begin-step", "20", "--end-step", "30", "--ramp-step", "40"],
            "faster from 40, to 30",
        ),
        (["--min-sparsity", "80"], "a fraction, from 0 to 1"),
        (["--seed", "-1"], "--seed"),
        (["--workers", "3"], r"3 workers cannot share the 4 streams.*\[2, 4\]"),
        (["--workers", "0"], "--workers 0"),
        (["--workers", "2", "--cluster", "slurm"], "give one of them"),
        (["--cluster", "tf_config"], "no TF_CONFIG"),
        (["--cluster", "slurm"], "Start the command with srun"),
        (["--group-lasso", "-1"], "factor"),
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        word_lm.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    text = f"{stop.value} {capsys.readouterr().err}"
    assert stop.value.code != 0
    assert re.search(message, text), text


def test_an_earlier_run_is_not_overwritten(data, tiny, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out")]
    (tmp_path / "out" / "dense").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no settings.json that says of what"):
        word_lm.main(arguments)
    (tmp_path / "out" / "dense").rmdir()
    word_lm.Run(word_lm.parse(arguments))
    with pytest.raises(SystemExit, match="other settings"):
        word_lm.main([*arguments, "--target", "0.9"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, tmp_path, monkeypatch):
    """Also where an epoch is no whole pass over the text."""
    preset = dataclasses.replace(TINY, epochs=3, steps_per_epoch=20, dropout=0.2)
    monkeypatch.setitem(word_lm.PRESETS, "demo", preset)
    monkeypatch.setattr(word_lm.Run, "compare", lambda *a: None)
    arguments = ["--data", str(data), "--min-sparsity", "0", "--out"]
    word_lm.main([*arguments, str(tmp_path / "whole")])
    with killed_in_epoch(2, training=2):
        word_lm.main([*arguments, str(tmp_path / "halves")])
    with epochs_begun() as epochs:
        word_lm.main([*arguments, str(tmp_path / "halves")])
    assert epochs == [2]
    for name in ("dense", "pruned"):
        whole, halves = (keras.saving.load_model(tmp_path / out / f"{name}.keras") for out in ("whole", "halves"))
        for a, b in zip(whole.get_weights(), halves.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_epochs_go_on_in_the_text_and_streams_can_be_shared():
    ids = np.arange(200)
    whole = [x for x, _ in language_modelling.TextBatches(ids, 4, 5).dataset()]
    assert len(whole) == 9
    parts = language_modelling.TextBatches(ids, 4, 5, steps=6, rows=slice(2, 4))
    found = []
    for parts.epoch in range(3):
        found += [x.numpy() for x, _ in parts.dataset()]
    expected, _ = text.stateful_batches(ids, 4, 5)
    np.testing.assert_array_equal(found, np.tile(expected.reshape(9, 4, 5)[:, 2:], (2, 1, 1)))


def test_interleaved_medians_takes_turns():
    calls = []
    functions = [lambda x, name=name: tf.py_function(lambda: calls.append(name), [], []) and x for name in "ab"]
    times = comparison.interleaved_medians(functions, np.zeros(1, "float32"), rounds=3)
    assert len(times) == 2 and all(ms > 0 for ms in times)
    assert calls == ["a", "b"] * 5


def test_help_needs_no_data():
    out = run_python(
        "import runpy, sys; sys.argv = ['word_lm', '--help']; runpy.run_module('models.word_lm', run_name='__main__')",
        PYTHONPATH=str(ROOT),
    )
    assert "--block-shape" in out


def test_memory_counts_indices():
    layer = bs.BlockSparseDense(8, block_shape=4, num_blocks=2)
    layer.build((None, 8))
    assert comparison.memory_bytes(layer) == 4 * (2 * 16 + 2 + 3 + 8)
