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

import argparse
import dataclasses
import pathlib
import sys

import keras
import numpy as np

import tf_blocksparse as bs
from models import ctc, runs, speech_data
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
        self.schedule = planned_schedule(options, self.preset.epochs, len(self.training))
        if {"bp", "glp"} & set(options.models) and "dense" not in options.models and not self._file("dense").exists():
            raise ValueError(
                f"The slopes of the ramp come from the dense model, and {self._file('dense')} is not there. Received: "
                f"--models {' '.join(options.models)}. Put dense before them."
            )
        self.statistics = mean_and_variance(self.corpus, training)
        settings = dataclasses.asdict(self.preset) | {name: getattr(options, name) for name in _SETTINGS}
        runs.keep_settings(options.out, settings | {"utterances": [len(training), len(validation)]})

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
            ramps = self.ramps()
            bs.prune_blocks(model, self.options.block_shape, ramps, include=list(PRUNED), regularizer=regularizer)
        compile_model(model, preset, len(self.training))
        return model

    def ramps(self):
        """Schedules of the recurrent and the linear weights, with slopes from the dense model (Equations 1 and 2)."""
        dense, plan = keras.saving.load_model(self._file("dense"), compile=False), self.schedule
        steps = {name: getattr(plan, name) for name in ("begin_step", "ramp_step", "end_step")}
        return {
            kind: bs.ThresholdRamp.for_model(
                dense, self.options.target, self.options.block_shape, self.preset.epochs, len(self.training),
                plan.frequency, kind, hit_target=True, **steps,
            )
            for kind in ("recurrent", "linear")
        }  # fmt: skip

    def train(self, kind):
        """Trains a model with plain `fit`, or goes on training it: the model without pruning's machinery, saved."""
        model, out = self.new_model(kind), self.options.out
        callbacks = runs.callbacks(out, kind, self.options.tensorboard, kind in ("bp", "glp"))
        model.fit(
            self.training.dataset(),
            validation_data=self.validation.dataset(),
            epochs=self.preset.epochs,
            shuffle=False,
            callbacks=[self.training.callback(), *callbacks],
            verbose=1 if sys.stdout.isatty() else 2,
        )
        model = bs.strip_pruning(model) if kind in ("bp", "glp") else model
        model.save(self._file(kind))
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
        bs.export(served, self.options.out / f"{kind}_served")
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
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(PRESETS[options.preset], **given)


def planned_schedule(options, epochs, steps_per_epoch):
    """The ramp of [BSR] Table 1 for a run of so many steps, without its slopes, which need the trained dense model.

    It begins with the second epoch, is steeper from 20 % of the epochs on and ends at 40 %.
    """
    total = epochs * steps_per_epoch
    end = round(0.4 * total) if options.end_step is None else options.end_step
    begin = steps_per_epoch if options.begin_step is None else options.begin_step
    ramp = max(begin, round(0.2 * total)) if options.ramp_step is None else options.ramp_step
    frequency = min(100, max(1, steps_per_epoch // 10)) if options.frequency is None else options.frequency
    if not 0 <= begin <= ramp <= end <= total or begin == end:
        raise ValueError(
            f"The threshold would rise from step {begin}, faster from {ramp}, to {end}, of {total}. Steps must follow "
            "in this order; the paper's, 1 epoch, 20 % and 40 % of the epochs, need 5 epochs or more. Give --epochs, "
            "or --begin-step, --ramp-step and --end-step."
        )
    return bs.ThresholdRamp(begin, ramp, end, 1.0, 1.5, frequency, options.target)


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


def parse(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.deep_speech", description="Speech recognition with CTC, dense and block-sparse."
    )
    parser.add_argument("--data", required=True, help="directory with wav files and transcripts, or an .npz of MFCCs")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="directory for the results (default: runs/deep_speech-TIME)")
    parser.add_argument("--tensorboard", action="store_true", help="write logs for TensorBoard below --out")
    parser.add_argument("--beam-width", type=int, default=16)
    _add_data_arguments(parser.add_argument_group("data"))
    _add_pruning_arguments(parser.add_argument_group("pruning"))
    preset = parser.add_argument_group("in place of the preset's")
    for name in ("units", "epochs", "batch-size", "mels"):
        preset.add_argument(f"--{name}", type=int)
    preset.add_argument("--learning-rate", type=float)
    preset.add_argument("--group-lasso", type=float, help="factor, of the model glp")
    preset.add_argument("--activation", choices=("clipped_relu", "relu", "tanh"))
    options = parser.parse_args(arguments)
    for name in ("units", "epochs", "batch_size", "mels", "sample_rate", "beam_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if len(options.block_shape) > 2 or min(options.block_shape) < 1:
        parser.error(f"--block-shape {options.block_shape}: expected height and width, 1 or more each")
    options.block_shape = (options.block_shape[0], options.block_shape[-1])
    options.out = runs.directory(options.out, "deep_speech")
    return options


def _add_data_arguments(group):
    group.add_argument("--valid-speakers", nargs="+", help="default: the last tenth, by name")
    group.add_argument("--sample-rate", type=int, help="that all files must have; default: that of the first")
    group.add_argument("--unknown-characters", choices=("error", "drop"), default="error")
    group.add_argument("--time-mask", type=int, default=0, help="SpecAugment: frames masked, below this")
    group.add_argument("--frequency-mask", type=int, default=0, help="SpecAugment: features masked, below this")


def _add_pruning_arguments(group):
    group.add_argument("--target", type=float, default=0.8, help="sparsity, a fraction (default: 0.8)")
    group.add_argument("--block-shape", type=int, nargs="+", default=(4, 4), help="height and width (default: 4 4)")
    group.add_argument("--begin-step", type=int, help="default: the second epoch")
    group.add_argument("--ramp-step", type=int, help="default: 20 %% of the epochs")
    group.add_argument("--end-step", type=int, help="default: 40 %% of the epochs")
    group.add_argument("--frequency", type=int, help="steps between updates; default: 100, or 10 an epoch")
    group.add_argument("--min-sparsity", type=float, help="layers below it stay dense; default: measured")


def main(arguments=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(arguments))


if __name__ == "__main__":
    main()
