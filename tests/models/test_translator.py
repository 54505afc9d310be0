import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from killed_runs import killed_in_epoch
from models import translation_data, translation_model, translator
from models.translation_model import Decoder

TINY = dataclasses.replace(
    translation_model.PRESETS["small"], units=32, vocabulary=80, epochs=150, full_rate_epochs=150, batch_size=5,
    learning_rate=0.01, dropout=0.0, max_length=40,
)  # fmt: skip
WORDS = {"a": "eine", "dog": "hund", "cat": "katze", "runs": "rennt", "sees": "sieht", "red": "rot", "big": "gross"}


@pytest.fixture
def data(tmp_path):
    """Twenty pairs, translated word by word in the other order."""
    rng = np.random.default_rng(0)
    directory = tmp_path / "pairs"
    directory.mkdir()
    rows = [rng.choice(list(WORDS), rng.integers(2, 6)).tolist() for _ in range(20)]
    english = "\n".join(" ".join(row) for row in rows) + "\n"
    german = "\n".join(" ".join(WORDS[word] for word in reversed(row)) for row in rows) + "\n"
    for split in ("train", "val"):
        (directory / f"{split}.en").write_text(english, encoding="utf-8")
        (directory / f"{split}.de").write_text(german, encoding="utf-8")
    return directory


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(translation_model.PRESETS, "small", TINY)


def cells_of(printed, kind):
    row = next(line for line in printed.splitlines() if re.match(rf"\| *{kind} ", line))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.exhaustive
def test_it_learns_twenty_sentences_by_heart(data, tiny, tmp_path, capsys):
    translator.main(["--data", str(data), "--out", str(tmp_path / "out"), "--models", "dense"])
    cells = cells_of(capsys.readouterr().out, "dense")
    assert cells[1:3] == ["32", "0%"]
    assert float(cells[5]) < 1.3 and float(cells[6]) > 90  # perplexity, BLEU
    references = (data / "val.de").read_text().splitlines()
    written = (tmp_path / "out" / "dense.val.txt").read_text().splitlines()
    assert sum(a == b for a, b in zip(references, written, strict=True)) >= 18


def test_all_but_the_attention_is_pruned_converted_and_served(data, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--target", "0.5", "--block-shape", "4", "--min-sparsity", "0", "--group-lasso", "1e-6"]
    arguments += ["--models", "sparse", "--epochs", "5", "--beam", "2", "--tensorboard"]
    translator.main(["--data", str(data), "--out", str(out), *arguments])
    cells = cells_of(capsys.readouterr().out, "sparse")
    assert cells[2] == "50%"
    assert 0.45 < float(cells[4].split()[0]) / float(cells[3].split()[0]) < 0.6
    assert list((out / "tensorboard" / "sparse_pruning").rglob("events*"))
    model = keras.saving.load_model(out / "sparse.keras", compile=False)
    sparsities = {w.path: w.weight_sparsity for w in bs.report(model).weights}
    assert sparsities["attention_query/kernel"] == sparsities["attention_memory/kernel"] == 0
    for path in ("source_embedding/embeddings", "decoder_2/recurrent_kernel", "softmax/kernel", "encoder_2/kernel"):
        assert sparsities[path] == pytest.approx(0.5, abs=0.03)
    check_converted_and_served(model, out)


def check_converted_and_served(model, out):
    """The converted model and the served one answer as the pruned one, sentence by sentence and word by word."""
    source, target = np.array([[5, 6, 7, 0], [8, 9, 10, 11]], "int32"), np.array([[2, 5, 6], [2, 7, 0]], "int32")
    converted = bs.convert(model, 4, min_sparsity=0)
    logits = model([source, target]).numpy()
    np.testing.assert_allclose(converted([source, target]), logits, rtol=1e-3, atol=1e-4)
    served = tf.saved_model.load(out / "sparse_served")
    np.testing.assert_allclose(served.serve([source, target]), logits, rtol=1e-3, atol=1e-4)
    rows = [[5, 6, 7], [8, 9, 10, 11]]
    assert Decoder(converted, 12).translate(rows, beam=3) == Decoder(model, 12).translate(rows, beam=3)


@pytest.fixture
def small_model():
    keras.utils.set_random_seed(3)
    preset = dataclasses.replace(TINY, units=8, depth=3)
    model = translation_model.translator(30, preset)
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.3))
    return model


def test_greedy_decoding_is_the_best_word_after_word(small_model):
    rows, length = [[4, 5, 6], [7, 8, 9, 10, 11]], 7
    found = Decoder(small_model, length).translate(rows)
    for row, translation in zip(rows, found, strict=True):
        words = [translation_data.BEGIN]
        for _ in range(length):
            logits = small_model([np.array([row]), np.array([words])]).numpy()[0, -1]
            logits[[translation_data.PAD, translation_data.BEGIN]] = -np.inf
            words.append(int(logits.argmax()))
            if words[-1] == translation_data.END:
                break
        assert translation == [word for word in words[1:] if word != translation_data.END]


def log_probability(model, row, words):
    """Of a translation, with its end."""
    logits = model([np.array([row]), np.array([[translation_data.BEGIN, *words]])]).numpy()[0].astype("float64")
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logs[i, word] for i, word in enumerate([*words, translation_data.END]))


def test_a_wide_beam_finds_the_best_translation(small_model):
    row, length = [4, 5, 6], 2
    small_model.get_layer("softmax").bias.assign_add(np.eye(30)[translation_data.END] * 2.0)
    candidates = [[], *([word] for word in range(30) if word not in (0, 2, 3))]  # two words would have no end
    scores = [log_probability(small_model, row, words) / ((5 + len(words) + 1) / 6) for words in candidates]
    found = Decoder(small_model, length).translate([row], beam=27)[0]
    assert found == candidates[int(np.argmax(scores))]


def test_padding_changes_nothing(small_model):
    source, target = np.array([[4, 5, 6]]), np.array([[2, 7]])
    padded = np.array([[4, 5, 6, 0, 0]])
    np.testing.assert_allclose(small_model([padded, target]), small_model([source, target]), rtol=1e-4, atol=1e-5)
    words = np.array([[7, 3]])
    losses = [
        translation_model.mean_loss(np.array(w), small_model([source, np.array(t)]))
        for w, t in ((words, target), ([[7, 3, 0]], [[2, 7, 0]]))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_ends_as_one_that_was_not(data, tiny, tmp_path):
    arguments = ["--data", str(data), "--models", "sparse", "--epochs", "4", "--batch-size", "5", "--units", "8"]
    arguments += ["--depth", "1", "--block-shape", "4", "--out"]
    translator.main([*arguments, str(tmp_path / "whole")])
    with killed_in_epoch(2):
        translator.main([*arguments, str(tmp_path / "halves")])
    translator.main([*arguments, str(tmp_path / "halves")])
    whole, halves = (keras.saving.load_model(tmp_path / n / "sparse.keras", compile=False) for n in ("whole", "halves"))
    for a, b in zip(whole.get_weights(), halves.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(SystemExit, match="other settings"):
        translator.main([*arguments, str(tmp_path / "halves"), "--target", "0.9"])


def test_batches_are_of_one_length_and_all_there():
    subwords = translation_data.Subwords.learn(["ab ba aab", "bba ab"] * 20, 12)
    pairs = translation_data.Pairs(["ab"] * 5 + ["ab ba aab"] * 5 + ["ab " * 50], ["ba"] * 11)
    batches = translation_data.Batches(pairs, subwords, 5, 30)
    assert (len(batches), batches.left_out) == (2, 1)
    short, long = sorted(x[0].shape[1] for x, _ in batches.dataset())
    assert short < long
    (source, so_far), follows = next(iter(batches.dataset()))
    assert so_far.numpy()[0, 0] == translation_data.BEGIN
    np.testing.assert_array_equal(so_far[:, 1:], np.where(follows == translation_data.END, 0, follows)[:, :-1])
    assert subwords.decode(follows.numpy()) == ["ba"] * 5
    batches, orders = translation_data.Batches(pairs, subwords, 1, 30), []
    for epoch in (0, 1, 2, 3, 4, 0):
        batches.epoch = epoch
        orders.append([x[0].shape[1] for x, _ in batches.dataset()])
    assert orders[0] == orders[-1] and len({tuple(order) for order in orders}) > 1


def test_characters_that_were_never_seen_are_left_out():
    subwords = translation_data.Subwords.learn(["ab ba aab", "bba ab"] * 20, 12)
    ids = subwords.encode(["ab \u4e2d ba"])[0]
    assert translation_data.UNKNOWN in ids
    assert subwords.decode([ids])[0].split() == ["ab", "ba"]


def test_the_papers_size():
    """[AGP] has 211 M; without the 4.2 M weights from the attention to the first layer of the decoder."""
    preset = translation_model.PRESETS["paper"]
    model = translation_model.translator(preset.vocabulary, preset)
    fed_back = 1024 * 4096
    assert (model.count_params() + fed_back) / 1e6 == pytest.approx(211, abs=0.5)
    embeddings = [w for w in model.weights if w.name == "embeddings"]
    assert [tuple(w.shape) for w in embeddings] == [(36_548, 1024)] * 2


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda d: (d / "val.de").unlink(), "No val.de"),
        (lambda d: (d / "train.de").write_text("eine zeile\n"), "20 lines and train.de has 1"),
        (lambda d: (d / "train.de").write_text(""), "train.de is empty"),
        (lambda d: (d / "train.de").write_bytes(b"\xff\xfe\n" * 20), "no UTF-8"),
        (lambda d: [f.write_text("a\n\n") for f in (d / "val.en",)] + [(d / "val.de").write_text("\nb\n")], "in both"),
        (lambda d: [f.unlink() for f in d.iterdir()], "No train.en and no train.de"),
    ],
)
def test_bad_data_stops_before_any_training(spoil, message, data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    spoil(data)
    with pytest.raises(SystemExit) as stop:
        translator.main(["--data", str(data), "--out", str(tmp_path / "out")])
    assert re.search(message, str(stop.value)), stop.value


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--target", "90"], r"Did you mean 0\.9"),
        (["--block-shape", "0"], "1 or more"),
        (["--block-shape", "4", "4", "4"], "height and width"),
        (["--beam", "0"], "--beam: 0: expected a whole number, 1 or more"),
        (["--vocabulary", "5000"], "5000 subwords.*--vocabulary"),
        (["--max-length", "1"], "more than 1 subwords"),
        (["--data", "no/such/directory"], "No directory 'no/such/directory'"),
        (["--languages", "en", "fr"], "No train.fr"),
    ],
)
def test_bad_arguments_stop_before_any_training(arguments, message, data, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(SystemExit) as stop:
        translator.main(["--data", str(data), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code != 0
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}", re.S)
