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

import dataclasses

import keras
from keras import layers

import tf_blocksparse as bs
from models import arguments, runs
from models.digit_data import CLASSES, digits
from models.epochs import fit
from tf_blocksparse.block_gates import computation, gate_usage
from tf_blocksparse.gate_plots import plot_gate_usage, plot_gates_by_class

DRAWN = (3, 8)  # classes


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


def network(preset, kind, features=784, classes=CLASSES):
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
        hidden = hidden_layer(preset, kind, f"hidden_{number}")(hidden)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(hidden), name=f"mnist_{kind}")


def start():
    """Initializer of the kernels: that of PyTorch, the authors' framework."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


@keras.saving.register_keras_serializable("models")
class CentredUniform(keras.initializers.Initializer):
    """Uniform values of a variance of `scale / inputs`, less their mean for each output.

    What all inputs have in common then moves no gate. Outputs of ReLU have much in common: at first 78 % of the gates
    of the paper's network depend on the image, against 58 % if the mean is left in.
    """

    def __init__(self, scale, seed=None):
        self.scale = scale
        self.seed = seed

    def __call__(self, shape, dtype=None):
        values = keras.initializers.VarianceScaling(self.scale, "fan_in", "uniform", self.seed)(shape, dtype=dtype)
        return values - keras.ops.mean(values, axis=0, keepdims=True)

    def get_config(self):
        return {"scale": self.scale, "seed": self.seed}


def hidden_layer(preset, kind, name):
    """One hidden layer with ReLU; both kinds start from the same distribution."""
    settings = {"units": preset.units, "activation": "relu", "kernel_initializer": start(), "name": name}
    if kind == "dense":
        return layers.Dense(**settings)
    return bs.DynamicBlockDense(
        block_shape=preset.block_shape,
        sparsity=preset.sparsity,
        # Gates do not change when the gate's weights are scaled: the larger these are, the slower they turn.
        gate_kernel_initializer=CentredUniform(preset.gate_scale),
        gate_bias_initializer="zeros",
        **settings,
    )


def compile_model(model, preset, steps):
    """Compiles with momentum SGD, whose rate falls to zero in so many steps; dense and dynamic alike."""
    rate = keras.optimizers.schedules.CosineDecay(preset.learning_rate, steps)
    model.compile(
        keras.optimizers.SGD(rate, momentum=preset.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )


def validation_error(model, validation):
    """Share of the validation images that are not recognised."""
    return 1.0 - model.evaluate(validation.dataset(), verbose=0, return_dict=True)["accuracy"]


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        self.options = options
        given = arguments.given(options, "epochs", "sparsity", "batch_size", "learning_rate")
        self.preset = dataclasses.replace(PRESETS[options.preset], **given)
        self.training, self.validation = digits(options.data, self.preset.batch_size, options.seed)
        settings = {**dataclasses.asdict(self.preset), "seed": options.seed, "images": len(self.training.y)}
        runs.keep_settings(options.out, settings)

    def train(self, kind):
        """Trains a model with plain `fit`, or goes on training it: the model."""
        preset, options = self.preset, self.options
        keras.utils.set_random_seed(options.seed)
        model = network(preset, kind, self.training.x.shape[1])
        compile_model(model, preset, preset.epochs * len(self.training))
        callbacks = runs.callbacks(options.out, kind, options.tensorboard)
        fit(model, self.training, self.validation, preset.epochs, callbacks)
        runs.save(model, options.out / f"{kind}.keras")
        return model

    def execute(self):
        """Trains the models, prints the table, draws the pictures."""
        preset, out, rows = self.preset, self.options.out, []
        for kind in self.options.models:
            print(f"\n{kind}: {preset.depth} layers of {preset.units}, {preset.epochs} epochs", flush=True)
            model = self.train(kind)
            rows.append(self.row(kind, model))
            if kind == "dynamic":
                usage = gate_usage(model, self.validation.x)
                plot_gates_by_class(model, self.validation.x, self.validation.y, classes=DRAWN).savefig(
                    out / "figure1.png", dpi=120
                )
                plot_gate_usage(usage, None).savefig(out / "figure2.png", dpi=120)
                print(*usage, sep="\n")
                print(*computation(model), sep="\n")
        self.print_table(rows)

    def row(self, kind, model):
        """What the table says of a model."""
        error = f"{validation_error(model, self.validation):.2%}"
        if kind == "dense":
            return [kind, error, "0%", "1.000", "", "", f"{model.count_params():,}"]
        parts, usages = computation(model), gate_usage(model, self.validation.x)
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


class Task:
    """The network as `models.sweep` trains it, to be compared by its error on the validation images.

    Args:
        data: path of the directory.
        preset: a `Preset`.
    """

    metric = "error_valid"
    include = ["hidden_*"]

    def __init__(self, data, preset):
        self.preset, self.epochs, self.units = preset, preset.epochs, preset.units
        self._training, self._validation = digits(data, preset.batch_size)
        self.steps_per_epoch = len(self._training)

    def build(self, seed, units=None, dynamic=None):
        """A new model."""
        keras.utils.set_random_seed(seed)
        preset, kind = dataclasses.replace(self.preset, units=units or self.units), "dense"
        if dynamic is not None:
            block_shape, sparsity = dynamic
            preset, kind = dataclasses.replace(preset, block_shape=block_shape, sparsity=sparsity), "dynamic"
        return network(preset, kind, self._training.x.shape[1])

    def fit(self, model, callbacks):
        """Compiles the model and trains all epochs."""
        compile_model(model, self.preset, self.epochs * self.steps_per_epoch)
        fit(model, self._training, self._validation, self.epochs, callbacks)

    def scores(self, model):
        """The share of images that are not recognised."""
        return {"error_valid": validation_error(model, self._validation)}


def sweep_task(data, preset, settings):
    """What `models.sweep` trains; see there."""
    if data is None:
        raise ValueError("models.mnist needs --data: a directory with an .npz file that has x_train and y_train.")
    return Task(data, runs.preset_with(PRESETS, preset or "small", settings))


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "mnist",
        "Digits: dense layers, and layers that choose their blocks.",
        "directory with an .npz file that has x_train and y_train",
        PRESETS,
    )
    parser.add_argument("--models", nargs="+", choices=("dynamic", "dense"), default=("dynamic", "dense"))
    preset = arguments.add_preset_arguments(parser, "epochs", "batch-size")
    preset.add_argument("--sparsity", type=arguments.fraction, help="a fraction")
    return parser.parse_args(words)


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
