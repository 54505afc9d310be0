"""Synthetic speech: each letter is a tone, so that a small network learns to spell in seconds."""

import dataclasses
import wave

import numpy as np

from models import speech_network

RATE = 8000
TONES = {"A": 500.0, "B": 1200.0, "C": 2400.0}
TEXTS = ("A", "B", "C", "AB", "BA", "CAB", "ABC", "BAC", "CB", "AC")
TINY = dict(
    depth=1, units=16, convolutions=((4, (5, 7), (2, 4)), (8, (3, 3), (1, 2))), epochs=5, batch_size=8, mels=20,
    learning_rate=0.02, decay=1.0,
)  # fmt: skip


def tiny_preset(name="small", **settings):
    """A preset so small that it trains in seconds."""
    return dataclasses.replace(speech_network.PRESETS[name], **{**TINY, **settings})


def write_wav(file, samples, rate=RATE):
    """Writes samples between -1 and 1 as 16-bit PCM."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as wav:
        wav.setparams((1, 2, rate, len(samples), "NONE", ""))
        wav.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


def spoken(text, rng):
    """Samples of tones, 60 to 90 ms each, with pauses and a little noise."""
    parts = [np.zeros(400)]
    for letter in text:
        t = np.arange(rng.integers(480, 720)) / RATE
        parts += [0.5 * np.sin(2 * np.pi * TONES[letter] * t), np.zeros(rng.integers(200, 400))]
    samples = np.concatenate(parts)
    return samples + 1e-3 * rng.standard_normal(len(samples))


def write_tree(directory, speakers=("101", "102", "103"), texts=TEXTS, seed=0):
    """A LibriSpeech-like tree: every speaker says all texts."""
    rng = np.random.default_rng(seed)
    for speaker in speakers:
        chapter, lines = directory / speaker / "7", []
        for number, text in enumerate(texts):
            name = f"{speaker}-7-{number:04}"
            write_wav(chapter / f"{name}.wav", spoken(text, rng))
            lines.append(f"{name} {text}")
        (chapter / f"{speaker}-7.trans.txt").write_text("\n".join(lines) + "\n")
    return directory
