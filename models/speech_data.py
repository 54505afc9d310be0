"""Speech with transcripts from a directory: LibriSpeech's tree, the names of the Free Spoken Digit Dataset, or MFCCs.

- `SPEAKER-CHAPTER.trans.txt` with lines `ID TRANSCRIPT` anywhere below the directory, and `ID.wav` beside it. The
  speaker is what stands before the first `-` of an ID.
- `{digit}_{speaker}_{index}.wav` anywhere below it; the transcript is the digit in words.
- An `.npz` file with `features` float `[frames, bins]`, `offsets` int (utterance i is
  `features[offsets[i]:offsets[i + 1]]`), `text` and, if speakers are to be held out, `speaker`.

Speakers that validate are not trained on. Everything is checked before the training begins: sample rates, the lengths
that headers promise, characters. Utterances that are too short for their transcripts are left out and counted.
"""

import collections
import dataclasses
import pathlib
import re
import wave
from collections.abc import Callable

import numpy as np

from models import ctc
from models.archives import read_arrays
from models.speech_features import Spectrograms

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_DIGIT_NAME = re.compile(r"(\d)_([^_]+)_\d+")
LOWEST_RATE = 1000  # samples a second
_VALID_SHARE = 0.1  # of the utterances, at least, if no speakers are named


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One utterance: its transcript, and where its features are.

    Attributes:
        name: str, for messages.
        speaker: str.
        text: str, in characters of `ctc.ALPHABET`.
        frames: int, length of its features.
        source: what the corpus's `features_of` takes.
    """

    name: str
    speaker: str
    text: str
    frames: int
    source: object


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances and how to get their features.

    Attributes:
        utterances: tuple of `Utterance`.
        bins: int, features of a frame.
        features_of: function from an utterance's `source` to float32 `[frames, bins]`.
        left_out: int, utterances that CTC cannot say in the time steps they have.
    """

    utterances: tuple
    bins: int
    features_of: Callable
    left_out: int = 0

    def features(self, utterance):
        """Features of an utterance: float32 array `[frames, bins]`."""
        return np.asarray(self.features_of(utterance.source), "float32")

    def split(self, valid_speakers=None):
        """Utterances to train on, and those of some speakers to validate on: two lists.

        Args:
            valid_speakers: names, or None: the last speakers in alphabetic order that make a tenth of the
                utterances.
        """
        speakers = sorted({utterance.speaker for utterance in self.utterances})
        valid_speakers = self._last_speakers(speakers) if valid_speakers is None else valid_speakers
        unknown = sorted(set(valid_speakers) - set(speakers))
        if unknown or not set(speakers) - set(valid_speakers):
            raise ValueError(
                f"Speakers to validate on: {sorted(valid_speakers)}. Some must be left to train on, and all must be "
                f"among the {len(speakers)} of the data: {', '.join(speakers[:20])}."
            )
        parts = [], []
        for utterance in self.utterances:
            parts[utterance.speaker in valid_speakers].append(utterance)
        return parts

    def _last_speakers(self, speakers):
        count, chosen = collections.Counter(utterance.speaker for utterance in self.utterances), []
        for speaker in reversed(speakers):
            if sum(count[name] for name in chosen) >= _VALID_SHARE * len(self.utterances):
                break
            chosen.append(speaker)
        return chosen


def read(directory, mels=None, sample_rate=None, stride=2, unknown="error"):
    """Reads what a directory has: a `Corpus`.

    Args:
        directory: path.
        mels: int, mel bands of wav files, or None.
        sample_rate: int, that all wav files must have; None: that of the first.
        stride: int, frames that the model makes a time step of.
        unknown: `"error"`, or `"drop"`: leaves characters out of transcripts that the alphabet does not have.

    Raises:
        FileNotFoundError: if the directory has none of the three kinds of data, or audio of a transcript is missing.
        ValueError: if a file, a sample rate or a transcript is not what it should be.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {str(directory)!r}.")
    if arrays := sorted(directory.glob("*.npz")):
        corpus = _read_arrays(arrays[0], unknown)
    else:
        corpus = _read_wavs(_transcribed(directory), mels, sample_rate, unknown)
    possible = [u for u in corpus.utterances if -(-u.frames // stride) >= ctc.steps_needed(u.text) and u.text]
    if not possible:
        raise ValueError(f"No utterance of {str(directory)!r} is long enough for its transcript, or none has one.")
    left_out = len(corpus.utterances) - len(possible)
    return dataclasses.replace(corpus, utterances=tuple(possible), left_out=left_out)


def _read_arrays(file, unknown):
    """The corpus of an `.npz` file."""
    found = read_arrays(file, ("features", "offsets", "text"), optional=("speaker",))
    features, offsets, texts = (found[name] for name in ("features", "offsets", "text"))
    lengths = np.diff(offsets)
    speakers = found.get("speaker", texts)
    fit = features.ndim == 2 and texts.ndim == 1 and len(texts) == len(lengths) == len(speakers)
    rising = offsets.dtype.kind in "iu" and offsets.ndim == 1 and offsets[0] >= 0 and (lengths >= 0).all()
    if not fit or not rising or offsets[-1] > len(features):
        raise ValueError(
            f"{str(file)!r}: expected features [frames, bins], texts, as many speakers if any, and one more offset, "
            f"ints that rise from 0 up to the number of frames. Received: features {features.shape}, {offsets.shape} "
            f"offsets of {offsets.dtype}, {len(texts)} texts, {len(speakers)} speakers."
        )
    if features.dtype.kind not in "fiu" or not np.isfinite(features).all():
        raise ValueError(f"{str(file)!r} has features that are no numbers, or infinite ({features.dtype}).")
    speakers = found.get("speaker", [f"utterance-{i:06}" for i in range(len(texts))])
    utterances = [
        Utterance(f"{file.name}[{i}]", str(speakers[i]), _known(text, f"{file.name}[{i}]", unknown), int(n), i)
        for i, (text, n) in enumerate(zip(map(str, texts), lengths, strict=True))
    ]
    return Corpus(tuple(utterances), features.shape[1], lambda i: features[offsets[i] : offsets[i + 1]])


def _text(file):
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is no UTF-8 text: {error}. Convert it, e.g. with iconv.") from error


def _transcribed(directory):
    """`(wav file, speaker, transcript)` of every utterance below a directory, in the order of their names."""
    found = []
    for file in sorted(directory.rglob("*.trans.txt")):
        for line in filter(str.strip, _text(file).split("\n")):
            name, _, text = line.strip().partition(" ")
            found.append((file.parent / f"{name}.wav", name.split("-")[0], text))
    if not found:
        for file in sorted(directory.rglob("*.wav")):
            if match := _DIGIT_NAME.fullmatch(file.stem):
                found.append((file, match[2], DIGITS[int(match[1])]))
    if not found:
        raise FileNotFoundError(
            f"No speech below {str(directory)!r}: expected *.trans.txt with lines 'ID TRANSCRIPT' beside ID.wav, or "
            "files named {digit}_{speaker}_{index}.wav, or an .npz file with features, offsets and text."
        )
    missing = [file for file, _, _ in found if not file.exists()]
    if missing:
        hint = " There is a .flac file: convert it to .wav." if missing[0].with_suffix(".flac").exists() else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(found)} transcripts have no audio, the first of them {str(missing[0])!r}.{hint}"
        )
    return found


def _read_wavs(transcribed, mels, sample_rate, unknown):
    """The corpus of wav files."""
    utterances, spectrograms = [], None
    for file, speaker, text in transcribed:
        rate, samples = _checked_header(file)
        spectrograms = spectrograms or Spectrograms(sample_rate or rate, mels)
        if rate != spectrograms.sample_rate:
            raise ValueError(
                f"{str(file)!r} has {rate} samples a second, others {spectrograms.sample_rate}. All files must have "
                "one rate: resample them (sox IN -r RATE OUT), or name the right one with --sample-rate."
            )
        text = _known(text, str(file), unknown)
        utterances.append(Utterance(file.name, speaker, text, spectrograms.frames(samples), str(file)))
    return Corpus(tuple(utterances), spectrograms.bins, spectrograms.of_file)


def _checked_header(file):
    """Sample rate and number of samples of a wav file that is whole."""
    try:
        with wave.open(str(file)) as header:
            rate, samples, channels, width = (
                header.getframerate(), header.getnframes(), header.getnchannels(), header.getsampwidth()
            )  # fmt: skip
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{str(file)!r} of {file.stat().st_size} bytes is no PCM wav file, as if its download was interrupted: "
            f"{str(error) or 'it ends too early'}."
        ) from error
    if (channels, width) != (1, 2):
        raise ValueError(f"{str(file)!r} has {channels} channels of {8 * width} bits; expected one of 16 bits.")
    if rate < LOWEST_RATE:
        raise ValueError(f"{str(file)!r} has {rate} samples a second; expected {LOWEST_RATE} or more for speech.")
    if not samples or file.stat().st_size < 2 * samples:
        raise ValueError(
            f"{str(file)!r} should have {samples} samples and is {file.stat().st_size} bytes long: it is empty, or its "
            "download was interrupted."
        )
    return rate, samples


def _known(text, name, unknown):
    """A transcript in capital letters and single spaces, of known characters only."""
    strange = ctc.unknown_characters(text)
    if strange and unknown == "error":
        raise ValueError(
            f"The transcript of {name} has characters that the model cannot say: {' '.join(map(repr, strange))} in "
            f"{text!r}. It knows letters, space and apostrophe. Spell them out, or leave them out: "
            "--unknown-characters drop."
        )
    return " ".join("".join(c for c in text.upper() if c not in strange).split())
