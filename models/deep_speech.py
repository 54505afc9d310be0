"""Speech recognition by recurrent layers and CTC: dense, pruned in blocks (BP), and that with group lasso (GLP).

    python -m models.deep_speech --data DIR                       # 3 bidirectional layers of 128, on DIR's speech
    python -m models.deep_speech --data DIR --preset small_gru    # 2 GRU layers of 128
    python -m models.deep_speech --data DIR --preset paper        # 7 bidirectional layers of 1760: 67 M
    python -m models.deep_speech --data DIR --preset paper_gru    # 3 GRU layers of 2560: 115 M

DIR holds a LibriSpeech-like tree of wav files and transcripts, recordings with the names of the Free Spoken Digit
Dataset, or MFCCs in an .npz file: see `speech_data`. Trains up to four models alike and prints a row for each, in the
shape of [BSR] Tables 2 and 3: `dense`; `bp`, pruned by the threshold ramp of Table 1 with the slopes of Equations 1
and 2 from the dense model, which meets `--target` to one block; `glp`, the same with group lasso while it prunes;
`dense_small`, a dense model as narrow as has the weights that are left of `bp`. Each is saved, folded, converted,
exported, and evaluated in the form that is served. A run that was stopped goes on after its last whole epoch with the
same command and --out. "params" are the weights of the recurrent and fully connected layers that are not zero, which is
what the paper counts; "all params" those of every layer.

Reference: Narang, Undersander, Diamos: Block-Sparse Recurrent Neural Networks (2017), arXiv:1711.02782, section 4.1.
"""

import dataclasses

import keras
import numpy as np

import tf_blocksparse as bs
from models import arguments, ctc, runs, speech_data
from models.epochs import fit
from models.speech_batches import Batches, mean_and_variance
from models.speech_network import (
    PRESETS,
    PRUNED,
    check_blocks,
    folded,
    pruned_matrices,
    speech_network,
    units_for,
    weight_count,
)
from models.threshold_ramps import planned_ramp, planned_steps, ramps

KINDS = ("dense", "bp", "glp", "dense_small")
COLUMNS = ("model", "layer size", "params", "all params", "sparsity", "CER (% loss)", "beam CER", "epochs")
_SETTINGS = ("target", "block_shape", "seed", "valid_speakers", "time_mask", "frequency_mask", "sample_rate")


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        self.options = options
        self.preset = chosen_preset(options)
        check_blocks(self.preset, options.block_shape)
        self.corpus = speech_data.read(
            options.data, self.preset.mels, options.sample_rate, self.preset.stride, options.unknown_characters
        )
        training, validation = self.corpus.split(options.valid_speakers)
        batch_size, masks = self.preset.batch_size, (options.time_mask, options.frequency_mask)
        self.training = Batches(self.corpus, training, batch_size, options.seed, *masks)
        self.validation = Batches(self.corpus, validation, batch_size)
        self.steps = planned_steps(options, self.preset.epochs, len(self.training))
        planned_ramp(options, self.steps)  # raises if the target is none
        bs.BlockGroupLasso(self.preset.group_lasso)
        self._check_order()
        self.statistics = mean_and_variance(self.corpus, training)
        settings = dataclasses.asdict(self.preset) | {name: getattr(options, name) for name in _SETTINGS}
        settings |= dataclasses.asdict(self.steps)
        runs.keep_settings(options.out, settings | {"utterances": [len(training), len(validation)]})

    def _check_order(self):
        """Raises `ValueError` if a pruned model would come before the dense one."""
        kinds = self.options.models
        pruned = [kinds.index(kind) for kind in ("bp", "glp") if kind in kinds]
        if pruned and "dense" not in kinds[: min(pruned)] and not self._file("dense").exists():
            raise ValueError(
                f"The slopes of the ramp come from the dense model, and {self._file('dense')} is not there. Received: "
                f"--models {' '.join(kinds)}. Put dense before them."
            )

    def _file(self, kind):
        return self.options.out / f"{kind}.keras"

    def execute(self):
        """Trains the models, evaluates them in the form that is served, prints the table."""
        self.print_data()
        rows, dense_rate = [], None
        for kind in self.options.models:
            preset = self.preset_of(kind)
            print(f"\n{kind}: {preset.units} units, {preset.epochs} epochs of {len(self.training)} steps", flush=True)
            model = self.train(kind)
            served = self.serve(kind, model)
            rates = self.error_rates(served)
            dense_rate = rates[0] if kind == "dense" else dense_rate
            rows.append(self.row(kind, model, rates, dense_rate))
        title = f"{self.options.preset}: {self.preset.depth} layers, blocks {self.options.block_shape}"
        runs.print_rows(title, COLUMNS, rows)
        print(f"Models and logs: {self.options.out}")

    def print_data(self):
        """Prints what there is to train on."""
        for name, part in (("training", self.training), ("validation", self.validation)):
            speakers = len({u.speaker for u in part.utterances})
            print(f"{name}: {len(part.utterances)} utterances of {speakers} speakers, {self.corpus.bins} features")
        if self.corpus.left_out:
            print(f"left out: {self.corpus.left_out} utterances that are too short for their transcripts")

    def preset_of(self, kind):
        """The preset of a kind of model: that of `dense_small` has as many weights as are left of the pruned ones."""
        if kind != "dense_small":
            return self.preset
        left = (1 - self.options.target) * weight_count(self.preset, self.corpus.bins)
        return dataclasses.replace(self.preset, units=units_for(self.preset, self.corpus.bins, left))

    def new_model(self, kind):
        """A fresh model, compiled; all kinds of one width start from the same weights."""
        preset = self.preset_of(kind)
        keras.utils.set_random_seed(self.options.seed)
        model = speech_network(preset, self.corpus.bins, *self.statistics)
        if kind in ("bp", "glp"):
            regularizer = bs.BlockGroupLasso(preset.group_lasso) if kind == "glp" else None
            dense = keras.saving.load_model(self._file("dense"), compile=False)
            schedules = ramps(dense, self.options, self.steps, ("recurrent", "linear"), hit_target=True)
            bs.prune_blocks(model, self.options.block_shape, schedules, include=list(PRUNED), regularizer=regularizer)
        compile_model(model, preset, len(self.training))
        return model

    def train(self, kind):
        """Trains a model with plain `fit`, or goes on training it: the model without pruning's machinery, saved."""
        model, out = self.new_model(kind), self.options.out
        callbacks = runs.callbacks(out, kind, self.options.tensorboard, kind in ("bp", "glp"))
        fit(model, self.training, self.validation, self.preset.epochs, callbacks)
        model = bs.strip_pruning(model) if kind in ("bp", "glp") else model
        runs.save(model, self._file(kind))
        return model

    def serve(self, kind, model):
        """The form of a model that is served: folded, and if it was pruned converted; exports it."""
        served = folded(model, self.preset_of(kind))
        if kind in ("bp", "glp"):
            served = bs.convert(
                served, self.options.block_shape, min_sparsity=self.options.min_sparsity, time_steps=100
            )
        inputs, _ = next(iter(self.validation))
        difference = abs(np.asarray(served(inputs)) - np.asarray(model(inputs))).max()
        print(f"Largest difference between the logits of the trained and the served {kind} model: {difference:.1e}")
        runs.export(served, self.options.out / f"{kind}_served")
        return served

    def error_rates(self, model):
        """Character error rates on the validation utterances, decoded greedily and by beam search."""

        def beam(logits):
            return ctc.beam_decode(logits, self.options.beam_width)

        metrics = [ctc.CharacterErrorRate(), ctc.CharacterErrorRate(beam, name="beam_cer")]
        model.compile(loss=ctc.ctc_loss, metrics=metrics, jit_compile=False)
        found = model.evaluate(self.validation.dataset(), verbose=0, return_dict=True)
        return found["cer"], found["beam_cer"]

    def row(self, kind, model, rates, dense_rate):
        """What the table says of a model."""
        matrices = pruned_matrices(model)
        left, size = (sum(count(w) for w in matrices) for count in (np.count_nonzero, np.size))
        loss = "" if not dense_rate else f" ({100 * (dense_rate - rates[0]) / dense_rate:+.1f}%)"
        preset = self.preset_of(kind)
        counts = [f"{count / 1e6:.3f} M" for count in (left, model.count_params() - size + left)]
        sparsity, beam = f"{1 - left / size:.1%}", f"{100 * rates[1]:.2f}"
        return [kind, str(preset.units), *counts, sparsity, f"{100 * rates[0]:.2f}{loss}", beam, str(preset.epochs)]


def chosen_preset(options):
    """The preset with what the command line puts in its place."""
    names = ("units", "epochs", "batch_size", "learning_rate", "mels", "group_lasso", "activation")
    return dataclasses.replace(PRESETS[options.preset], **arguments.given(options, *names))


class Task:
    """The network as `models.sweep` trains it, to be compared by its character error rate on speakers it never heard.

    Args:
        data: path of the directory.
        preset: a `Preset`.
        valid_speakers, sample_rate, unknown_characters: as of the command line.
    """

    metric = "cer_valid"
    include = list(PRUNED)

    def __init__(self, data, preset, valid_speakers=None, sample_rate=None, unknown_characters="error"):
        self.preset, self.epochs, self.units = preset, preset.epochs, preset.units
        self._corpus = speech_data.read(data, preset.mels, sample_rate, preset.stride, unknown_characters)
        training, validation = self._corpus.split(valid_speakers)
        self._training = Batches(self._corpus, training, preset.batch_size, seed=0)
        self._validation = Batches(self._corpus, validation, preset.batch_size)
        self._statistics = mean_and_variance(self._corpus, training)
        self.steps_per_epoch = len(self._training)

    def check_blocks(self, block_shape):
        """Raises `ValueError` if blocks would lie over two gates."""
        check_blocks(self.preset, block_shape)

    def build(self, seed, units=None, dynamic=None):
        """A new model."""
        if dynamic is not None:
            raise ValueError("models.deep_speech has no layers that choose their blocks: use --model qrnn_lm.")
        keras.utils.set_random_seed(seed)
        preset = dataclasses.replace(self.preset, units=units or self.units)
        return speech_network(preset, self._corpus.bins, *self._statistics)

    def fit(self, model, callbacks):
        """Compiles the model and trains all epochs."""
        compile_model(model, self.preset, self.steps_per_epoch)
        fit(model, self._training, self._validation, self.epochs, callbacks)

    def scores(self, model):
        """Character errors for each character, as a fraction, decoded greedily."""
        return {"cer_valid": model.evaluate(self._validation.dataset(), verbose=0, return_dict=True)["cer"]}


def sweep_task(data, preset, settings):
    """What `models.sweep` trains; `--set` also takes `valid_speakers`, `sample_rate` and `unknown_characters`."""
    if data is None:
        raise ValueError("models.deep_speech needs --data: a directory with speech: see models.speech_data.")
    names = ("valid_speakers", "sample_rate", "unknown_characters")
    of_data = {name: settings[name] for name in names if name in settings}
    settings = {name: value for name, value in settings.items() if name not in names}
    return Task(data, runs.preset_with(PRESETS, preset or "small", settings), **of_data)


def compile_model(model, preset, steps_per_epoch):
    """Compiles with the preset's optimizer, the CTC loss and the character error rate; dense and pruned alike."""
    rate = keras.optimizers.schedules.ExponentialDecay(
        preset.learning_rate, steps_per_epoch, preset.decay, staircase=True
    )
    if preset.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, preset.momentum, nesterov=True, global_clipnorm=preset.clip_norm)
    else:
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=preset.clip_norm)
    model.compile(optimizer, ctc.ctc_loss, metrics=[ctc.CharacterErrorRate()], jit_compile=False)


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "deep_speech",
        "Speech recognition with CTC, dense and block-sparse.",
        "directory with wav files and transcripts, or an .npz of MFCCs",
        PRESETS,
    )
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--beam-width", type=arguments.at_least(1), default=16)
    _add_data_arguments(parser.add_argument_group("data"))
    pruning = arguments.add_pruning_arguments(
        parser, target=0.8, block_shape=(4, 4), group_lasso="factor, of the model glp; default: the preset's"
    )
    arguments.add_step_arguments(pruning)
    preset = arguments.add_preset_arguments(parser, "units", "epochs", "batch-size", "mels")
    preset.add_argument("--activation", choices=("clipped_relu", "relu", "tanh"))
    return parser.parse_args(words)


def _add_data_arguments(group):
    whole = arguments.at_least(0)
    group.add_argument("--valid-speakers", nargs="+", help="default: the last tenth, by name")
    rate = "that all files must have; default: that of the first"
    group.add_argument("--sample-rate", type=arguments.at_least(1), help=rate)
    group.add_argument("--unknown-characters", choices=("error", "drop"), default="error")
    group.add_argument("--time-mask", type=whole, default=0, help="SpecAugment: frames masked, below this")
    group.add_argument("--frequency-mask", type=whole, default=0, help="SpecAugment: features masked, below this")


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
