import numpy as np
import pytest

from models import ctc, speech_data
from models.speech_batches import Batches, mean_and_variance
from models.speech_features import Spectrograms, mask_function
from speech_cases import RATE, spoken, write_tree, write_wav


def write_arrays(file, **changes):
    rng = np.random.default_rng(0)
    arrays = dict(
        features=rng.standard_normal((30, 5)).astype("float32"),
        offsets=np.array([0, 12, 20, 30]),
        text=np.array(["ab", "c d", "A"]),
        speaker=np.array(["x", "y", "z"]),
    )
    arrays.update(changes)
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})


def test_a_tree_of_transcripts(tmp_path):
    corpus = speech_data.read(write_tree(tmp_path), mels=20)
    assert (len(corpus.utterances), corpus.bins, corpus.left_out) == (30, 20, 0)
    training, validation = corpus.split()
    assert {u.speaker for u in training} == {"101", "102"} and {u.speaker for u in validation} == {"103"}
    assert {u.speaker for u in corpus.split(["101"])[1]} == {"101"}
    for utterance in training[:5]:
        features = corpus.features(utterance)
        assert features.shape == (utterance.frames, 20) and features.dtype == np.float32
        assert features.max() == pytest.approx(0.0, abs=1e-4) and features.min() >= -80.001


def test_digits_by_their_names(tmp_path):
    for name in ("7_jo_0", "3_jo_12", "0_al_1", "noise"):
        write_wav(tmp_path / "recordings" / f"{name}.wav", spoken("AB", np.random.default_rng(0)))
    corpus = speech_data.read(tmp_path)
    assert {(u.speaker, u.text) for u in corpus.utterances} == {("jo", "SEVEN"), ("jo", "THREE"), ("al", "ZERO")}
    assert corpus.bins == 81  # 20 ms at 8 kHz


def test_ready_features(tmp_path):
    write_arrays(tmp_path / "mfcc.npz")
    corpus = speech_data.read(tmp_path)
    assert [(u.text, u.frames, u.speaker) for u in corpus.utterances] == [
        ("AB", 12, "x"),
        ("C D", 8, "y"),
        ("A", 10, "z"),
    ]
    with np.load(tmp_path / "mfcc.npz") as arrays:
        np.testing.assert_array_equal(corpus.features(corpus.utterances[1]), arrays["features"][12:20])


def test_an_utterance_too_short_for_its_transcript_is_left_out(tmp_path):
    write_arrays(tmp_path / "mfcc.npz", text=np.array(["ABCDEF", "AAB", "A"]))
    corpus = speech_data.read(tmp_path, stride=2)  # 6, 4 and 5 time steps for 6, 4 and 1
    assert (len(corpus.utterances), corpus.left_out) == (3, 0)
    corpus = speech_data.read(tmp_path, stride=3)
    assert ([u.text for u in corpus.utterances], corpus.left_out) == (["A"], 2)


def truncate(file, share):
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


FIRST = "101/7/101-7-0000"
DAMAGE = {
    "empty": (lambda d: (d / f"{FIRST}.wav").write_bytes(b""), ValueError, "0000.wav' of 0 bytes is no PCM wav"),
    "interrupted": (lambda d: truncate(d / f"{FIRST}.wav", 0.5), ValueError, "download was interrupted"),
    "no samples": (lambda d: write_wav(d / f"{FIRST}.wav", []), ValueError, "should have 0 samples"),
    "no wav": (lambda d: (d / f"{FIRST}.wav").write_text("<html>"), ValueError, "is no PCM wav file"),
    "another rate": (
        lambda d: write_wav(d / "103/7/103-7-0002.wav", np.zeros(4000), 16000), ValueError,
        "103-7-0002.wav' has 16000 samples a second, others 8000.*resample",
    ),
    "missing": (lambda d: (d / f"{FIRST}.wav").unlink(), FileNotFoundError, "1 of 30 transcripts have no audio"),
    "flac": (
        lambda d: (d / f"{FIRST}.wav").rename(d / f"{FIRST}.flac"), FileNotFoundError, "convert it to .wav",
    ),
    "low rate": (
        lambda d: write_wav(d / f"{FIRST}.wav", [0.0] * 99, 40), ValueError, "0000.wav' has 40 samples a second",
    ),
    "no UTF-8": (
        lambda d: (d / "101/7/101-7.trans.txt").write_bytes(b"101-7-0000 CAF\xc9\n"), ValueError,
        "101-7.trans.txt' is no UTF-8 text.*iconv",
    ),
    "unknown": (
        lambda d: (d / "101/7/101-7.trans.txt").write_text("101-7-0000 CAFÉ 9\n"), ValueError,
        r"'9' 'É' in 'CAFÉ 9'.*--unknown-characters drop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_trees(damage, tmp_path):
    harm, error, message = DAMAGE[damage]
    harm(write_tree(tmp_path))
    with pytest.raises(error, match=f"(?s){message}"):
        speech_data.read(tmp_path)


def test_unknown_characters_can_be_dropped_and_the_rate_be_named(tmp_path):
    write_tree(tmp_path, speakers=["101"])
    (tmp_path / "101/7/101-7.trans.txt").write_text("101-7-0008 c - b?\n")
    assert [u.text for u in speech_data.read(tmp_path, unknown="drop").utterances] == ["C B"]
    with pytest.raises(ValueError, match="has 8000 samples a second, others 16000"):
        speech_data.read(tmp_path, unknown="drop", sample_rate=16000)


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(text=None), "has no text; found"),
        (dict(text=np.array(["A"])), r"\(4,\) offsets of int64, 1 texts"),
        (dict(offsets=np.array([0, 20, 12, 30])), "rise from 0"),
        (dict(offsets=np.array([0, 12, 20, 31])), "rise from 0"),
        (dict(text=np.array(["", "", ""])), "long enough"),
        (dict(speaker=np.array(["x"])), "3 texts, 1 speakers"),
        (dict(offsets=np.array([0.0, 12.0, 20.0, 30.0])), "offsets of float64"),
        (dict(offsets=np.array([-1, 12, 20, 30])), "rise from 0"),
        (dict(features=np.full((30, 5), np.nan)), "no numbers, or infinite"),
    ],
)
def test_bad_arrays(changes, message, tmp_path):
    write_arrays(tmp_path / "mfcc.npz", **changes)
    with pytest.raises(ValueError, match=message):
        speech_data.read(tmp_path)


def test_bad_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match="No directory"):
        speech_data.read(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="No speech below"):
        speech_data.read(tmp_path)
    write_arrays(tmp_path / "mfcc.npz")
    corpus = speech_data.read(tmp_path)
    for names in (["nobody"], ["x", "y", "z"]):
        with pytest.raises(ValueError, match="Speakers to validate on"):
            corpus.split(names)
    truncate(tmp_path / "mfcc.npz", 0.7)
    with pytest.raises(ValueError, match="download was interrupted"):
        speech_data.read(tmp_path)


def test_a_tone_is_where_its_frequency_is():
    tone = np.sin(2 * np.pi * 1200.0 * np.arange(RATE // 2) / RATE).astype("float32")
    spectrum = Spectrograms(RATE).of_samples(tone).numpy()
    assert spectrum.shape == (50, 81) == (Spectrograms(RATE).frames(len(tone)), Spectrograms(RATE).bins)
    assert (spectrum[:-2].argmax(1) == 24).all()  # of bins of 50 Hz
    assert Spectrograms(16000).bins == 161  # Deep Speech 2's, with which Table 2 counts


def test_masks_are_those_of_their_seed():
    features = np.ones((40, 12), "float32")

    def epoch(seed):
        mask = mask_function(10, 5, seed)
        return [mask(features).numpy() for _ in range(20)]

    first, again, other = epoch(3), epoch(3), epoch(4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    masked = [((x == 0).all(1).sum(), (x == 0).all(0).sum()) for x in first]
    assert max(t for t, _ in masked) in range(1, 10) and max(f for _, f in masked) in range(1, 5)
    assert mask_function(0, 0, 1)(features) is features


def test_the_epoch_decides_the_batches(tmp_path):
    corpus = speech_data.read(write_tree(tmp_path), mels=20)
    batches = Batches(corpus, corpus.utterances, 8, seed=5, time_mask=3)
    orders, contents = {}, {}
    for epoch in (0, 1, 2, 1):
        batches.epoch = epoch
        names = [[u.name for u in batch] for batch in batches.order()]
        arrays = [(x.numpy(), n.numpy(), y.numpy()) for (x, n), y in batches.dataset()]
        assert sorted(sum(names, [])) == sorted(u.name for u in corpus.utterances)
        assert len(arrays) == len(batches) == 4
        if epoch in orders:
            assert names == orders[epoch]
            for a, b in zip(arrays, contents[epoch], strict=True):
                for one, other in zip(a, b, strict=True):
                    np.testing.assert_array_equal(one, other)
        orders[epoch], contents[epoch] = names, arrays
    assert orders[1] != orders[2]
    frames = [n for _, lengths, _ in contents[0] for n in lengths]
    assert frames == sorted(frames), "the first epoch goes from short to long"
    (x, n), y = Batches(corpus, corpus.utterances[:2], 2).batch(corpus.utterances[:2])
    assert x.shape == (2, n.max(), 20) and not x[0, n[0] :].any() and not x[1, n[1] :].any()
    assert [ctc.decode_numbers(row) for row in y] == ["A", "B"]


def test_statistics(tmp_path):
    write_arrays(tmp_path / "mfcc.npz")
    corpus = speech_data.read(tmp_path)
    mean, variance = mean_and_variance(corpus, corpus.utterances)
    with np.load(tmp_path / "mfcc.npz") as arrays:
        np.testing.assert_allclose(mean, arrays["features"].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance, arrays["features"].var(0), rtol=1e-4)
