"""Translator of LSTM layers with attention, dense and block-sparse: the shape of Google's (GNMT), pruned as in [AGP].

    python -m models.translator --data DIR                      # DIR holds train.en, train.de, val.en, val.de
    python -m models.translator --data DIR --preset paper       # 4 + 4 layers of 1024 and 36,548 subwords
    python -m models.translator --data DIR --languages de en    # the other way round

Needs `pip install tf-blocksparse[translation]`. Trains the dense model and its twin whose LSTM, embedding and softmax
weights are pruned gradually, not those of the attention; translates the validation part (and the test part, if it is
there) with beam search, and prints a row for each: units, sparsity, parameters that are not zero, BLEU (sacrebleu's).
The pruned model is converted and exported; what the exported model takes are a sentence and the translation so far, and
what it returns are logits of the next word. A run that was stopped goes on after its last whole epoch with the same
command and --out. Sentence pairs longer than the preset's `max_length` are not trained on, but all are translated.

[AGP] counts 211 M parameters where this model has 207 M: the first layer of its decoder also reads the last answer of
the attention, which makes 4.2 M weights.

References: Zhu, Gupta: To prune, or not to prune (2017), arXiv:1710.01878. Wu et al. (2016), arXiv:1609.08144.
"""

import dataclasses

import keras

import tf_blocksparse as bs
from models import arguments, runs
from models.epochs import fit as fit_epochs
from models.translation_data import Batches, Pairs, Subwords, load
from models.translation_model import PRESETS, Decoder, compile_model, translator

KINDS = ("dense", "sparse")
NOT_PRUNED = "attention*"
LANGUAGES = ["en", "de"]
EVERY_LENGTH = 10**9
COLUMNS = ("model", "units", "sparsity", "parameters", "not zero", "ppl val", "BLEU val", "BLEU test")


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        _sacrebleu()
        self.options, self.preset = options, chosen_preset(options)
        preset = self.preset
        pairs = load(options.data, options.languages)
        if options.max_pairs is not None:
            train = pairs["train"]
            pairs["train"] = Pairs(train.sources[: options.max_pairs], train.targets[: options.max_pairs])
        self.pairs = pairs
        settings = {**dataclasses.asdict(preset), "languages": options.languages, "seed": options.seed}
        settings.update(target=options.target, block_shape=options.block_shape, group_lasso=options.group_lasso)
        settings.update(train=len(pairs["train"]))
        learned = options.out / "subwords.model"
        goes_on = (options.out / "settings.json").exists() and learned.exists()
        if goes_on:
            self.subwords = Subwords(learned.read_bytes())
        else:
            self.subwords = Subwords.learn(pairs["train"].sources + pairs["train"].targets, preset.vocabulary)
        self.batches = Batches(pairs["train"], self.subwords, preset.batch_size, preset.max_length, options.seed)
        self.validation = Batches(pairs["val"], self.subwords, preset.batch_size, EVERY_LENGTH)
        self.schedule = runs.gradual_schedule(options.target, len(self.batches), preset.epochs)
        runs.keep_settings(options.out, settings)
        learned.write_bytes(self.subwords.model)

    def new_model(self):
        """A fresh model; the dense and the pruned one start from the same weights."""
        keras.utils.set_random_seed(self.options.seed)
        return translator(len(self.subwords), self.preset)

    def train(self, kind):
        """Trains a model, or goes on training it."""
        options, model = self.options, self.new_model()
        if kind == "sparse":
            prune(model, options, self.schedule)
        callbacks = runs.callbacks(options.out, kind, options.tensorboard, kind == "sparse")
        fit(model, self.batches, self.validation, self.preset, callbacks)
        return bs.strip_pruning(model) if kind == "sparse" else model

    def execute(self):
        """Trains the models, saves them, prints the table."""
        options, rows = self.options, []
        if self.batches.left_out:
            print(f"{self.batches.left_out} pairs of more than {self.preset.max_length} subwords are left out.")
        for kind in options.models:
            print(f"\n{kind}: {self.preset.epochs} epochs of {len(self.batches)} steps", flush=True)
            model = self.train(kind)
            runs.save(model, options.out / f"{kind}.keras")
            rows.append(self.row(kind, model))
            served = model
            if kind == "sparse":
                served = bs.convert(model, options.block_shape, min_sparsity=options.min_sparsity, batch_size=1)
                print(bs.report(served))
            runs.export(served, options.out / f"{kind}_served")
        for source, translation in zip(self.pairs["val"].sources[:3], self.translate(model, "val", 3), strict=True):
            print(f"  {source}\n  -> {translation}")
        runs.print_rows(self._title(), COLUMNS, rows)
        print(f"Models, subwords, logs and translations: {options.out}")

    def _title(self):
        pairs, (height, width) = len(self.pairs["train"]), self.options.block_shape
        source, target = self.options.languages
        return f"{self.options.preset}: {source} to {target}, {pairs:,} pairs, blocks of {height} x {width}"

    def translate(self, model, split, number=None):
        """Translations of a split's sentences, or of the first `number`: list of text."""
        rows = self.subwords.encode(self.pairs[split].sources[:number])
        decoder = Decoder(model, 2 * self.preset.max_length)
        return self.subwords.decode(decoder.translate(rows, self.options.beam))

    def bleu(self, kind, model, split):
        """BLEU of a split, with the translations written beside the model; `""` if there is no such split."""
        if split not in self.pairs:
            return ""
        translations = self.translate(model, split)
        (self.options.out / f"{kind}.{split}.txt").write_text("\n".join(translations) + "\n", encoding="utf-8")
        return f"{_sacrebleu().corpus_bleu(translations, [self.pairs[split].targets]).score:.2f}"

    def row(self, kind, model):
        """What the table says of a model."""
        scores = model.evaluate(self.validation.dataset(), verbose=0, return_dict=True)
        number, left = runs.parameters(model)
        return [
            kind,
            str(self.preset.units),
            "0%" if kind == "dense" else f"{self.options.target:.0%}",
            f"{number / 1e6:.2f} M",
            f"{left / 1e6:.2f} M",
            f"{scores['perplexity']:.2f}",
            *(self.bleu(kind, model, split) for split in ("val", "test")),
        ]


def fit(model, batches, validation, preset, callbacks):
    """Compiles a model and trains all epochs, or those that are left."""
    compile_model(model, preset)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: preset.rate(epoch))
    fit_epochs(model, batches, validation, preset.epochs, [rate, *callbacks])


class Task:
    """The translator as `models.sweep` trains it, to be compared by its perplexity on the validation part.

    Args:
        data: path of the directory.
        preset: a `Preset`.
    """

    metric = "perplexity_val"
    include = ["*_embedding", "encoder_*", "decoder_*", "softmax"]

    def __init__(self, data, preset):
        self.preset, self.epochs, self.units = preset, preset.epochs, preset.units
        self._pairs = load(data, LANGUAGES)
        train = self._pairs["train"]
        self._subwords = Subwords.learn(train.sources + train.targets, preset.vocabulary)
        self._batches = Batches(train, self._subwords, preset.batch_size, preset.max_length)
        self.steps_per_epoch = len(self._batches)

    def build(self, seed, units=None, dynamic=None):
        """A new model."""
        if dynamic is not None:
            raise ValueError("models.translator has no layers that choose their blocks: use --model qrnn_lm.")
        keras.utils.set_random_seed(seed)
        return translator(len(self._subwords), dataclasses.replace(self.preset, units=units or self.units))

    def _batches_of(self, split):
        return Batches(self._pairs[split], self._subwords, self.preset.batch_size, EVERY_LENGTH)

    def fit(self, model, callbacks):
        """Compiles the model and trains all epochs."""
        fit(model, self._batches, self._batches_of("val"), self.preset, callbacks)

    def scores(self, model):
        """Perplexities per subword by split; the test part may be missing."""
        splits = [split for split in ("val", "test") if split in self._pairs]
        evaluated = {s: model.evaluate(self._batches_of(s).dataset(), verbose=0, return_dict=True) for s in splits}
        return {f"perplexity_{split}": scores["perplexity"] for split, scores in evaluated.items()}


def sweep_task(data, preset, settings):
    """What `models.sweep` trains; see there."""
    if data is None:
        raise ValueError("models.translator needs --data: a directory with train.en, train.de, val.en, val.de.")
    return Task(data, runs.preset_with(PRESETS, preset or "small", settings))


def prune(model, options, schedule):
    """Makes a fresh translator prune its LSTM, embedding and softmax weights while it trains ([AGP])."""
    regularizer = arguments.group_lasso(options)
    bs.prune_blocks(model, options.block_shape, schedule, exclude=NOT_PRUNED, regularizer=regularizer)


def chosen_preset(options):
    """The preset with what the command line puts in its place."""
    names = ("units", "depth", "vocabulary", "epochs", "max_length", "batch_size", "learning_rate")
    return dataclasses.replace(PRESETS[options.preset], **arguments.given(options, *names))


def _sacrebleu():
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError("The translator needs sacrebleu: pip install tf-blocksparse[translation]") from error
    return sacrebleu


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "translator",
        "Translator of LSTM layers with attention.",
        "directory with train.en, train.de, val.en, val.de",
        PRESETS,
    )
    parser.add_argument("--languages", nargs=2, default=LANGUAGES, metavar=("FROM", "TO"), help="(default: en de)")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    count = arguments.at_least(1)
    parser.add_argument(
        "--beam", type=count, default=4, help="sentences kept while translating; 1: greedy (default: 4)"
    )
    parser.add_argument("--max-pairs", type=count, help="train on the first so many pairs only")
    arguments.add_pruning_arguments(parser, target=0.8, block_shape=(16, 16))
    arguments.add_preset_arguments(parser, "units", "depth", "vocabulary", "epochs", "max-length", "batch-size")
    return parser.parse_args(words)


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
