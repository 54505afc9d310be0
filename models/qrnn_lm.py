"""Word language models whose recurrent layers choose their blocks at every step, against dense and pruned twins.

    python -m models.qrnn_lm --data DIR                        # DIR holds ptb.train.txt, ptb.valid.txt
    python -m models.qrnn_lm --data DIR --preset paper         # 4 QRNN layers of 1536, as in [BDS] Table 1
    python -m models.qrnn_lm --data DIR --preset lstm_paper    # 2 LSTM layers of 1536, as in [BDS] Table 2

Trains up to three models of one preset alike, and prints a row for each in the shape of the paper's tables: `dense`;
`dynamic`, the twin whose products use `1 - sparsity` of their blocks, chosen at every word; `agp`, the twin of which
the same share of the weights is left, chosen once for all by gradual pruning (Zhu and Gupta). Both reach the sparsity
between the same two epochs. `--units 810 --models dense` is the small dense model of Table 1. Embeddings stay dense.
A run that was stopped goes on after its last whole epoch with the same command and --out.

Table 1 counts 47.4 M parameters where this model has 26.4 M: its numbers, those of the small dense models too, come
out within 0.3 M if the filters of the convolutions are counted twice, as would be if weight drop kept two copies of
each, and if only the first layer looks at two words. The row shows both counts. The gates, of 128x128 blocks chosen
from a quarter of the input, add 0.4 M; the paper's, 0.5 M. Weight drop and embedding dropout are not part of it.

Reference: Hadifar, Deleu, Develder, Demeester: Block-wise Dynamic Sparseness (2020), arXiv:2001.04686, section 4.2.
"""

import dataclasses

import keras
import numpy as np

import tf_blocksparse as bs
from models import arguments, runs, text
from models.dynamic_lm import PRESETS, filters, language_model, parameter_count, table_count
from models.language_modelling import LanguageModelTask, compile_model, copy_weights, perplexity, steps_per_epoch, train

KINDS = ("dense", "dynamic", "agp")
WORDS = (16, 40)  # sequences and words of the validation text that gates are counted on


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        self.options = options
        self.preset = chosen_preset(options)
        preset = self.preset
        self.corpus = text.load_directory(options.data, preset.max_vocabulary)
        self.steps_per_epoch = steps_per_epoch(self.corpus, preset)
        self.ramps = planned_ramps(options, preset, self.steps_per_epoch)
        self._keep_settings()

    def _keep_settings(self):
        """Lets only a run of the same settings go on in the directory of an earlier one."""
        options = self.options
        settings = {**dataclasses.asdict(self.preset), "vocabulary": len(self.corpus.vocabulary)}
        settings.update(sparsity=options.sparsity, agp_block_shape=options.agp_block_shape, seed=options.seed)
        runs.keep_settings(options.out, settings)

    def new_model(self, kind, stateful=True):
        """A fresh model; all kinds start from the same distribution."""
        preset = self.preset
        keras.utils.set_random_seed(self.options.seed)
        sparsity = self.ramps["dynamic"]
        streams = preset.batch_size if stateful else None
        return language_model(len(self.corpus.vocabulary), preset, kind, sparsity, streams, stateful)

    def train(self, kind):
        """Trains a model, or goes on training it: the model that keeps state."""
        model, out = self.new_model(kind), self.options.out
        if kind == "agp":
            bs.prune_blocks(
                model, self.options.agp_block_shape, self.ramps["agp"], include=f"{self.preset.cell}_[0-9]*"
            )
        compile_model(model, self.preset)
        callbacks = runs.callbacks(out, kind, self.options.tensorboard, kind == "agp")
        train(model, self.corpus, self.preset, self.preset.epochs, callbacks)
        return bs.strip_pruning(model) if kind == "agp" else model

    def execute(self):
        """Trains the models, saves them, prints the table."""
        rows = []
        for kind in self.options.models:
            print(f"\n{kind}: {self.preset.epochs} epochs of {self.steps_per_epoch} steps", flush=True)
            model = self.train(kind)
            stateless = copy_weights(model, self.new_model(kind, stateful=False))
            runs.save(stateless, self.options.out / f"{kind}.keras")
            rows.append(self.row(kind, model))
            served = stateless
            if kind == "dynamic":
                self.print_gates(stateless)
                served = self.convert(stateless)
            runs.export(served, self.options.out / f"{kind}_served")
        self.print_table(rows)

    def words(self):
        """Ids of the validation text, as many as there are of `WORDS`."""
        sequences, steps = WORDS
        sequences = min(sequences, len(self.corpus.valid) // steps)
        return self.corpus.valid[: sequences * steps].reshape(sequences, steps)

    def print_gates(self, model):
        """Prints how many gates depend on the input, and draws it (Figure 2)."""
        usage = bs.gate_usage(model, self.words())
        bs.gate_plots.plot_gate_usage(usage, None).savefig(self.options.out / "gates.png", dpi=120)
        print(*usage, *bs.computation(model), sep="\n")

    def convert(self, model):
        """The model that reads the chosen blocks only; prints how much it differs."""
        converted, words = bs.convert(model), self.words()
        difference = abs(converted(words).numpy() - model(words).numpy()).max()
        print(f"Largest difference between the logits of the trained and the converted model: {difference:.1e}")
        return converted

    def row(self, kind, model):
        """What the table says of a model."""
        texts = (self.corpus.valid, self.corpus.test)
        scores = ["" if ids is None else f"{perplexity(model, ids, self.preset):.2f}" for ids in texts]
        matrices = filters(model)
        computed, gates = sum(np.count_nonzero(matrix) for matrix in matrices), 0
        if kind == "dynamic":
            parts = bs.computation(model)
            computed, gates = sum(part.chosen for part in parts), sum(part.gate for part in parts)
        whole = sum(matrix.size for matrix in filters(self._dense_of_the_preset()))
        sparsity = "0%" if kind == "dense" else f"{self.options.sparsity:.0%}"
        row = [kind, str(self.preset.units), sparsity, *scores, f"{computed / whole:.3f}", f"{gates / whole:.3f}"]
        counts = [parameter_count(model), *([table_count(model)] if self.preset.cell == "qrnn" else [])]
        return [*row, " / ".join(f"{count / 1e6:.2f} M" for count in counts)]

    def _dense_of_the_preset(self):
        """The model whose computation is 1: that of the preset's own width."""
        preset = dataclasses.replace(self.preset, units=PRESETS[self.options.preset].units)
        return language_model(len(self.corpus.vocabulary), preset)

    def print_table(self, rows):
        """Prints the rows as Markdown."""
        preset, known = self.preset, len(self.corpus.vocabulary)
        title = (
            f"{self.options.preset}: {known:,} words, blocks {preset.block_shape}, agp {self.options.agp_block_shape}"
        )
        counted = " / filters twice" if preset.cell == "qrnn" else ""
        columns = ("model", "|h|", "sparsity", "ppl valid", "ppl test", "comput.", "+ gates", f"params{counted}")
        runs.print_rows(title, columns, rows)
        print(f"Models, logs and pictures: {self.options.out}")


def sweep_task(data, preset, settings):
    """What `models.sweep` trains: the recurrent layers are dynamic or pruned, as in [BDS] 4.2."""
    preset = runs.preset_with(PRESETS, preset or "small", settings)
    if data is None:
        raise ValueError("models.qrnn_lm needs --data: a directory with *.train.txt and *.valid.txt.")

    def build(words, preset, dynamic):
        if dynamic is None:
            return language_model(words, preset, "dense", 0.0, preset.batch_size, stateful=True)
        block_shape, schedule = dynamic
        preset = dataclasses.replace(preset, block_shape=block_shape)
        return language_model(words, preset, "dynamic", schedule, preset.batch_size, stateful=True)

    corpus = text.load_directory(data, preset.max_vocabulary)
    return LanguageModelTask(corpus, preset, build, include=f"{preset.cell}_[0-9]*")


def chosen_preset(options):
    """The preset with what the command line puts in its place; a ramp goes with the number of epochs."""
    preset = PRESETS[options.preset]
    given = arguments.given(options, "units", "block_shape", "learning_rate", "max_vocabulary", "ramp", "epochs")
    ramp = tuple(epoch * given.get("epochs", preset.epochs) / preset.epochs for epoch in preset.ramp)
    return dataclasses.replace(preset, **{"ramp": ramp, **given})


def planned_ramps(options, preset, steps_per_epoch):
    """Schedules of the dynamic and of the pruned model, which rise between the same steps: dict by kind."""
    total = steps_per_epoch * preset.epochs
    begin, end = (round(epoch * steps_per_epoch) for epoch in preset.ramp)
    if not 0 <= begin < end <= total:
        raise ValueError(
            f"The sparsity is to rise between epochs {preset.ramp[0]:g} and {preset.ramp[1]:g} of {preset.epochs}. "
            "Give --ramp BEGIN END with 0 <= BEGIN < END, and no END after the last epoch."
        )
    frequency = min(100, max(1, (end - begin) // 20))
    # [BDS] raises linearly, [AGP] fast at first.
    powers = {"dynamic": 1, "agp": 3}
    return {kind: bs.GradualSparsity(options.sparsity, begin, end, frequency, power=p) for kind, p in powers.items()}


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "qrnn_lm",
        "Word language models whose layers choose their blocks.",
        "directory with *.train.txt and *.valid.txt",
        PRESETS,
    )
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--sparsity", type=float, default=0.5, help="a fraction (default: 0.5)")
    preset = arguments.add_preset_arguments(parser, "units", "epochs", "max-vocabulary")
    arguments.add_block_shape(preset, "--block-shape", None, "height and width, of the dynamic model")
    arguments.add_block_shape(preset, "--agp-block-shape", None, "of the pruned model (default: as the dynamic)")
    preset.add_argument("--ramp", type=float, nargs=2, metavar=("BEGIN", "END"), help="epochs in which sparsity rises")
    options = parser.parse_args(words)
    options.agp_block_shape = options.agp_block_shape or options.block_shape or PRESETS[options.preset].block_shape
    return options


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
