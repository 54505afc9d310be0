"""Digits from a plain network of dense layers, and from its twin whose layers choose their blocks for each image.

    python -m models.mnist --data DIR                  # DIR holds an .npz file with x_train and y_train
    python -m models.mnist --data DIR --preset paper   # 5 layers of 1024, 128x128 blocks, 90 %, 45 epochs

Trains the dynamic model and the dense one alike, with momentum SGD ([BDS] section 4.1), prints a row for each, and
draws which blocks are open for two classes (Figure 1) and how many gates depend on the image (Figure 2). The last
5,000 images of the training part are for validation. A run that was stopped goes on where it was with the same --out.

The authors report a test error of about 2 % after 21 of 45 epochs, "comparable to the dense case". They keep the
learning rate constant; here it falls to zero along a cosine. README.md has what came out.

Reference: Hadifar, Deleu, Develder, Demeester: Block-wise Dynamic Sparseness (2020), arXiv:2001.04686.
"""

import argparse
import dataclasses
import math
import pathlib
import sys

import keras
import numpy as np
from keras import layers

import tf_blocksparse as bs
from models import runs
from tf_blocksparse.block_gates import computation, gate_usage
from tf_blocksparse.gate_plots import plot_gate_usage, plot_gates_by_class

VALIDATION = 5000  # images
CLASSES = (3, 8)  # that are drawn
MEAN, DEVIATION = 0.1307, 0.3081  # of the pixels of the training part


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of the models.

    Attributes:
        units: width of each hidden layer.
        depth: number of hidden layers, after one from the pixels to `units` that is dense in both models.
        block_shape, sparsity: of the dynamic model.
        epochs, batch_size, learning_rate, momentum: of the training, which is the same for both models. The rate is
            that of the first step.
        gate_scale: variance of the gates' weights times the number of their inputs, at first.
    """

    units: int
    depth: int
    block_shape: tuple
    sparsity: float
    epochs: int
    batch_size: int = 128
    learning_rate: float = 5e-3
    momentum: float = 0.9
    gate_scale: float = 4.0


PRESETS = {
    "small": Preset(units=256, depth=3, block_shape=(32, 32), sparsity=0.75, epochs=10),
    "paper": Preset(units=1024, depth=5, block_shape=(128, 128), sparsity=0.9, epochs=45),
}


def load(directory):
    """Reads the digits: `(x, y)` of the training part, `[images, 784]` float32 and int64 `[images]`.

    Pixels have mean 0 and variance 1.
    """
    directory = pathlib.Path(directory)
    files = sorted(directory.glob("*.npz")) if directory.is_dir() else []
    for file in files:
        with np.load(file) as arrays:
            if {"x_train", "y_train"} <= set(arrays):
                x, y = arrays["x_train"], arrays["y_train"]
                pixels = x.reshape(len(x), -1).astype("float32") / 255.0
                return (pixels - MEAN) / DEVIATION, y.astype("int64")
    raise FileNotFoundError(
        f"No .npz file with x_train and y_train in {str(directory)!r}; found {[file.name for file in files]}. "
        "Keras has one: keras.datasets.mnist.load_data(path='/DIR/mnist.npz')."
    )


def network(preset, kind, features=784, classes=10):
    """Builds a model: images `[batch, features]` -> logits `[batch, classes]`.

    Args:
        preset: a `Preset`.
        kind: `"dynamic"` or `"dense"`.
        features, classes: int.
    """
    inputs = keras.Input((features,), name="image")
    # Blocks of 128 do not divide 784 pixels, and few of them would see a part of the image only.
    hidden = layers.Dense(preset.units, "relu", kernel_initializer=start(), name="pixels")(inputs)
    for number in range(1, preset.depth + 1):
        # What all images have in common would open the same gates for all: ReLU leaves much of it, this takes it out.
        hidden = layers.BatchNormalization(name=f"normalization_{number}")(hidden)
        hidden = hidden_layer(preset, kind, f"hidden_{number}")(hidden)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(hidden), name=f"mnist_{kind}")


def start():
    """Initializer of the kernels: that of PyTorch, the authors' framework."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def hidden_layer(preset, kind, name):
    """One hidden layer with ReLU; both kinds start from the same distribution."""
    settings = {"units": preset.units, "activation": "relu", "kernel_initializer": start(), "name": name}
    if kind == "dense":
        return layers.Dense(**settings)
    return bs.DynamicBlockDense(
        block_shape=preset.block_shape,
        sparsity=preset.sparsity,
        # Gates do not change when the gate's weights are scaled: the larger these are, the slower they turn.
        gate_kernel_initializer=keras.initializers.VarianceScaling(preset.gate_scale, "fan_in", "uniform"),
        gate_bias_initializer="zeros",
        **settings,
    )


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        self.options = options
        self.preset = PRESETS[options.preset]
        self.preset = dataclasses.replace(
            self.preset,
            epochs=self.preset.epochs if options.epochs is None else options.epochs,
            sparsity=self.preset.sparsity if options.sparsity is None else options.sparsity,
        )
        x, y = load(options.data)
        if len(x) <= VALIDATION:
            raise ValueError(f"{len(x)} images are too few: the last {VALIDATION} are for validation.")
        self.training, self.validation = (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])
        options.out.mkdir(parents=True, exist_ok=True)

    def train(self, kind):
        """Trains a model with plain `fit`, or goes on training it: the model, and its validation error by epoch."""
        preset, out = self.preset, self.options.out
        keras.utils.set_random_seed(self.options.seed)
        model = network(preset, kind, self.training[0].shape[1])
        steps = math.ceil(len(self.training[0]) / preset.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(preset.learning_rate, preset.epochs * steps)
        model.compile(
            keras.optimizers.SGD(rate, momentum=preset.momentum),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
        log = out / f"{kind}.csv"
        model.fit(
            *self.training,
            batch_size=preset.batch_size,
            epochs=preset.epochs,
            validation_data=self.validation,
            callbacks=[
                keras.callbacks.BackupAndRestore(out / f"{kind}_backup", delete_checkpoint=False),
                keras.callbacks.CSVLogger(log, append=True),
            ],
            verbose=1 if sys.stdout.isatty() else 2,
        )
        model.save(out / f"{kind}.keras")
        return model

    def validation_error(self, model):
        """Share of the validation images that are not recognised."""
        return 1.0 - model.evaluate(*self.validation, batch_size=500, verbose=0, return_dict=True)["accuracy"]

    def execute(self):
        """Trains the models, prints the table, draws the pictures."""
        preset, out, rows = self.preset, self.options.out, []
        for kind in self.options.models:
            print(f"\n{kind}: {preset.depth} layers of {preset.units}, {preset.epochs} epochs", flush=True)
            model = self.train(kind)
            rows.append(self.row(kind, model))
            if kind == "dynamic":
                usage = gate_usage(model, self.validation[0])
                plot_gates_by_class(model, *self.validation, classes=CLASSES).savefig(out / "figure1.png", dpi=120)
                plot_gate_usage(usage, None).savefig(out / "figure2.png", dpi=120)
                print(*usage, sep="\n")
                print(*computation(model), sep="\n")
        self.print_table(rows)

    def row(self, kind, model):
        """What the table says of a model."""
        error = f"{self.validation_error(model):.2%}"
        if kind == "dense":
            return [kind, error, "0%", "1.000", "", "", f"{model.count_params():,}"]
        parts, usages = computation(model), gate_usage(model, self.validation[0])
        dense = sum(part.dense for part in parts)
        dependent = sum(u.input_dependent for u in usages) / sum(u.open_share.size for u in usages)
        return [
            kind,
            error,
            f"{self.preset.sparsity:.0%}",
            f"{sum(part.chosen for part in parts) / dense:.3f}",
            f"{sum(part.gate for part in parts) / dense:.3f}",
            f"{dependent:.0%}",
            f"{model.count_params():,}",
        ]

    def print_table(self, rows):
        """Prints the rows as Markdown."""
        preset = self.preset
        title = f"{self.options.preset}: {preset.depth} layers of {preset.units}, blocks {preset.block_shape}"
        runs.print_rows(
            title, ("model", "validation error", "sparsity", "comput.", "+ gates", "input dependent", "params"), rows
        )
        print(f"Models, logs and pictures: {self.options.out}")


def parse(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.mnist", description="Digits: dense layers, and layers that choose their blocks."
    )
    parser.add_argument("--data", required=True, help="directory with an .npz file that has x_train and y_train")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--models", nargs="+", choices=("dynamic", "dense"), default=("dynamic", "dense"))
    parser.add_argument("--epochs", type=int, help="in place of the preset's")
    parser.add_argument("--sparsity", type=float, help="a fraction, in place of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="directory for the results (default: runs/mnist-TIME)")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: expected 1 or more epochs")
    if options.sparsity is not None and not 0 <= options.sparsity < 1:
        parser.error(f"--sparsity {options.sparsity}: expected a fraction, at least 0 and below 1")
    options.out = runs.directory(options.out, "mnist")
    return options


def main(arguments=None):
    """The command: prepares, which finds all that is wrong with its arguments and data, then runs."""
    options = parse(arguments)
    try:
        run = Run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    run.execute()


if __name__ == "__main__":
    main()
