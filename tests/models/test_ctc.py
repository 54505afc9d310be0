import itertools

import numpy as np
import pytest
import tensorflow as tf

from models import ctc


def logits_of(steps, seed, scale=2.0):
    return (scale * np.random.default_rng(seed).standard_normal((1, steps, ctc.CHARACTERS))).astype("float32")


def probabilities_of_texts(logits):
    """Of every text that can be said in so few steps, summed over all of its paths: dict from tuple of characters."""
    p = np.exp(logits - logits.max(-1, keepdims=True)).astype("float64")
    p /= p.sum(-1, keepdims=True)
    found = {}
    for path in itertools.product(range(ctc.CHARACTERS), repeat=len(p)):
        text = tuple(c for i, c in enumerate(path) if c != ctc.BLANK and (i == 0 or path[i - 1] != c))
        found[text] = found.get(text, 0.0) + np.prod(p[np.arange(len(p)), path])
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_beam_against_all_paths(seed):
    logits = logits_of(3, seed)
    every = probabilities_of_texts(logits[0])
    for text in [(5,), (3, 4), (3, 3), (1, 2, 3)]:
        loss = ctc.ctc_loss(ctc.padded_labels([text]), logits)
        np.testing.assert_allclose(loss, [-np.log(every[text])], rtol=1e-4)
    best = max(every, key=every.get)
    assert ctc.texts(ctc.beam_decode(logits, 200)) == [ctc.decode_numbers(best)]


def test_what_is_certain_of_the_blank_changes_neither_loss_nor_texts():
    logits, labels = logits_of(6, 2), ctc.padded_labels([[4, 4]])
    end = np.zeros((1, 5, ctc.CHARACTERS), "float32")
    end[..., ctc.BLANK] = 1e4
    longer = np.concatenate([logits, end], axis=1)
    np.testing.assert_allclose(ctc.ctc_loss(labels, longer), ctc.ctc_loss(labels, logits), rtol=1e-6)
    for decode in (ctc.greedy_decode, ctc.beam_decode):
        assert ctc.texts(decode(longer)) == ctc.texts(decode(logits))


def test_greedy_decoding_by_hand():
    path = [0, 3, 3, 0, 3, 4, 4, 1, 2, 0, 28]
    logits = 10.0 * tf.one_hot([path], ctc.CHARACTERS)
    assert ctc.texts(ctc.greedy_decode(logits)) == ["AAB 'Z"]


def test_error_rate_by_hand():
    said = ["KITTEN", "", "ABC", "A B"]
    meant = ["SITTING", "AB", "ABC", "AB"]
    paths = np.zeros((4, 12), int)
    for row, text in zip(paths, said, strict=True):  # a blank after every character keeps equal ones apart
        row[: 2 * len(text) : 2] = ctc.encode(text)
    logits, labels = 10.0 * tf.one_hot(paths, ctc.CHARACTERS), ctc.padded_labels([ctc.encode(text) for text in meant])
    decoded = ctc.greedy_decode(logits)
    assert ctc.texts(decoded) == said
    assert ctc.edit_distances(decoded, labels).numpy().tolist() == [3.0, 2.0, 0.0, 1.0]
    metric = ctc.CharacterErrorRate()
    metric.update_state(labels[:2], logits[:2])
    metric.update_state(labels[2:], logits[2:])
    assert float(metric.result()) == pytest.approx(6 / (7 + 2 + 3 + 2))


def test_texts_and_numbers():
    assert ctc.CHARACTERS == 29
    assert ctc.decode_numbers(ctc.encode("it's a Z")) == "IT'S A Z"
    assert ctc.unknown_characters("3 öre!") == ["!", "3", "Ö"]
    assert [ctc.steps_needed(text) for text in ("", "AB", "AAB", "AAA")] == [0, 2, 4, 5]
    assert ctc.padded_labels([[], []]).shape == (2, 1)
