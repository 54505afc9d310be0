"""Sentence pairs for the translator: files of a directory, subwords, batches.

A directory holds `train.en`, `train.de`, `val.en`, `val.de`, and optionally `test.en`, `test.de`: one sentence a line,
line n of one file the translation of line n of the other. Only "\\n" ends a line. Pairs of which one side is empty are
left out. Subwords are learned from both languages of the training part (SentencePiece, byte pair encoding); characters
that it does not have become `<unk>`, which is left out of translations.
"""

import dataclasses
import io
import pathlib

import numpy as np
import tensorflow as tf

PAD, UNKNOWN, BEGIN, END = range(4)
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences of one split: `sources` and `targets`, lists of text of one length."""

    sources: list
    targets: list

    def __len__(self):
        return len(self.sources)


def load(directory, languages):
    """Reads all splits: dict from `"train"`, `"val"` and, if it is there, `"test"` to `Pairs`.

    Args:
        directory: path.
        languages: endings of the files to translate from and to, as `("en", "de")`.

    Raises:
        FileNotFoundError: if the directory or a file is missing.
        ValueError: if a file is empty or no text, or the two of a split have not the same number of lines.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"No directory {str(directory)!r}. Expected one with train.{languages[0]} and others.")
    splits = {}
    for split in SPLITS:
        files = [directory / f"{split}.{language}" for language in languages]
        missing = [file.name for file in files if not file.is_file()]
        if split == "test" and len(missing) == 2:
            continue
        if missing:
            present = sorted(file.name for file in directory.iterdir())[:10]
            raise FileNotFoundError(f"No {' and no '.join(missing)} in {str(directory)!r}; found {present}.")
        splits[split] = _pairs(files)
    return splits


def _pairs(files):
    lines = [_lines(file) for file in files]
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"{files[0]} has {len(lines[0])} lines and {files[1].name} has {len(lines[1])}: expected line n of one to "
            'be the translation of line n of the other. Only "\\n" ends a line.'
        )
    both = [(source, target) for source, target in zip(*lines, strict=True) if source and target]
    if not both:
        raise ValueError(f"{files[0]} and {files[1].name} have no line with text in both.")
    return Pairs(*map(list, zip(*both, strict=True)))


def _lines(file):
    try:
        text = file.read_bytes().decode("utf-8")  # `read_text` would take "\r" for the end of a line, too
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error}. Convert it, e.g. with iconv.") from error
    if not text.strip():
        raise ValueError(f"{file} is empty. Expected plain text, one sentence a line.")
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


class Subwords:
    """Text to ids and back.

    Args:
        model: bytes of a SentencePiece model, from `learn()`.
    """

    def __init__(self, model):
        self.model = model
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, sentences, size):
        """Learns `size` subwords; raises `ValueError` if the text has not enough for so many."""
        written = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=written,
                vocab_size=size,
                model_type="bpe",
                character_coverage=1.0,
                pad_id=PAD,
                unk_id=UNKNOWN,
                bos_id=BEGIN,
                eos_id=END,
                minloglevel=2,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"Could not learn {size} subwords from {len(sentences)} sentences: {error}. Give --vocabulary another "
                "number."
            ) from error
        return cls(written.getvalue())

    def __len__(self):
        return self._processor.vocab_size()

    def encode(self, sentences):
        """Ids of each sentence: list of lists."""
        return self._processor.encode(list(sentences))

    def decode(self, ids):
        """Text of rows of ids, each up to its first end: list."""
        rows = []
        for row in ids:
            row = [int(number) for number in row]
            row = row[: row.index(END)] if END in row else row
            rows.append(self._processor.decode([number for number in row if number > END]))
        return rows


def _sentencepiece():
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("The translator needs sentencepiece: pip install tf-blocksparse[translation]") from error
    return sentencepiece


class Batches:
    """Pairs as ids in batches of about the same length, in another order in every epoch.

    Args:
        pairs: `Pairs`.
        subwords: `Subwords`.
        batch_size: int.
        max_length: pairs with more subwords in a sentence are left out.
        seed: int; an epoch has the same order whenever it comes, also after a restart.

    Attributes:
        left_out: int, pairs that were too long.
    """

    def __init__(self, pairs, subwords, batch_size, max_length, seed=0):
        ids = list(zip(subwords.encode(pairs.sources), subwords.encode(pairs.targets), strict=True))
        kept = [pair for pair in ids if max(map(len, pair)) <= max_length]
        self.left_out = len(ids) - len(kept)
        if not kept:
            raise ValueError(
                f"All {len(ids)} pairs have more than {max_length} subwords. Give a larger --max-length, or more "
                "subwords with --vocabulary."
            )
        kept.sort(key=lambda pair: (len(pair[0]), len(pair[1])))
        rows = [kept[start : start + batch_size] for start in range(0, len(kept), batch_size)]
        self._batches = [_arrays(pairs) for pairs in rows]
        self._seed = seed
        self.epoch = 0

    def __len__(self):
        return len(self._batches)

    def _in_order(self):
        for number in np.random.default_rng([self._seed, self.epoch]).permutation(len(self)):
            yield self._batches[number]

    def dataset(self):
        """A `tf.data.Dataset` of `((source, target so far), target)`; the order is that of `epoch`."""
        ids = tf.TensorSpec((None, None), "int32")
        batches = tf.data.Dataset.from_generator(self._in_order, output_signature=((ids, ids), ids))
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread sleeps longer and longer, and the end of an epoch waits for it
        batches = batches.apply(tf.data.experimental.assert_cardinality(len(self)))
        return batches.prefetch(2).with_options(options)


def _arrays(pairs):
    """`((source, <s> target), target </s>)` of some pairs of ids, padded: int32 `[pairs, time]` each."""
    source = pad([source for source, _ in pairs])
    return (source, pad([[BEGIN, *target] for _, target in pairs])), pad([[*target, END] for _, target in pairs])


def pad(rows):
    """Rows of ids as one array with zeros at the end: int32 `[rows, longest]`."""
    padded = np.zeros((len(rows), max(1, max(map(len, rows)))), "int32")
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
