"""MobileNets: narrow dense ones against wide ones whose pointwise convolutions are pruned in blocks ([AGP] Figure 3).

    python -m models.mobilenet --data DIR                        # DIR holds mnist.npz, or images by class: image_data
    python -m models.mobilenet --data DIR --preset paper         # 224 x 224 pixels, widths 1, 0.75, 0.5 and 0.25

Trains dense models of several widths (`--widths`), and the widest pruned to several sparsities (`--target`), and prints
a row for each: width, sparsity, parameters that are not zero, accuracy. What is pruned are the 1x1 convolutions, the
classifier, which is one in Keras, included: 98 % of the weights; not the first convolution, the depthwise ones and what
normalizes. For inference a 1x1 convolution is a dense layer over the channels: so it is converted and exported. A run
that was stopped goes on after its last whole epoch with the same command and --out.

Keras's model is that of Howard et al.: `keras.applications.MobileNet`. The authors prune single weights; here blocks of
16x16 by default, and `--block-shape 1` is theirs.

References: Zhu, Gupta: To prune, or not to prune (2017), arXiv:1710.01878. Howard et al. (2017), arXiv:1704.04861.
"""

import dataclasses

import keras
from keras import layers

import tf_blocksparse as bs
from models import arguments, image_data, runs
from models.epochs import fit as fit_epochs

POINTWISE = ["conv_pw_*", "conv_preds"]
CHANNELS = 32  # of the first convolution, at width 1
COLUMNS = ("model", "width", "sparsity", "parameters", "not zero", "accuracy", "top 5")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size and training of the models.

    Attributes:
        size: height and width of the images, at least 32.
        widths: of the dense models, the widest of which is pruned as well.
        targets: sparsities it is pruned to.
        epochs, batch_size, optimizer, learning_rate, decay: of the training, the same for all models. The learning rate
            is multiplied by `decay` after every epoch.
        dropout: before the classifier.
    """

    size: int
    widths: tuple
    targets: tuple
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    decay: float
    dropout: float = 1e-3

    def rate(self, epoch):
        """Learning rate of an epoch, the first of which is 0."""
        return self.learning_rate * self.decay**epoch


PRESETS = {
    "small": Preset(
        size=32, widths=(0.5, 0.25), targets=(0.75, 0.9), epochs=6, batch_size=64, optimizer="adam",
        learning_rate=2e-3, decay=0.7,
    ),
    "paper": Preset(
        size=224, widths=(1.0, 0.75, 0.5, 0.25), targets=(0.5, 0.75, 0.9, 0.95), epochs=100, batch_size=96,
        optimizer="rmsprop", learning_rate=0.045, decay=0.94,
    ),
}  # fmt: skip


def mobilenet(classes, preset, width):
    """Builds a model: images `[batch, size, size, 3]`, 0 to 255, -> logits `[batch, classes]`."""
    images = keras.Input((preset.size, preset.size, 3), name="images")
    return keras.applications.MobileNet(
        input_tensor=layers.Rescaling(1 / 127.5, -1.0)(images),
        alpha=width,
        dropout=preset.dropout,
        weights=None,
        classes=classes,
        classifier_activation=None,
        name=f"mobilenet_{width:g}".replace(".", "_"),
    )


def prune(model, block_shape, schedule, regularizer=None):
    """Makes a fresh model prune its pointwise convolutions while it trains."""
    bs.prune_blocks(model, block_shape, schedule, include=POINTWISE, regularizer=regularizer)


def with_dense_layers(model):
    """A copy of a trained model, its 1x1 convolutions as dense layers over the channels, which `convert()` takes."""

    def copy(layer):
        if not _is_pointwise(layer):
            return layer.__class__.from_config(layer.get_config())
        return layers.Dense(layer.filters, layer.activation, layer.use_bias, name=layer.name, dtype=layer.dtype_policy)

    twin = keras.models.clone_model(model, clone_function=copy)
    for layer, new in zip(model.layers, twin.layers, strict=True):
        values = layer.get_weights()
        if _is_pointwise(layer):
            values[0] = values[0][0, 0]  # [1, 1, in, out]
        new.set_weights(values)
    return twin


def _is_pointwise(layer):
    return type(layer) is layers.Conv2D and layer.kernel_size == (1, 1) and layer.strides == (1, 1)


class Run:
    """Training and comparison, a step a method."""

    def __init__(self, options):
        self.options, self.preset = options, chosen_preset(options)
        preset = self.preset
        train, val, self.classes = image_data.load(options.data, options.max_images)
        self.train_images = image_data.Images(*train, preset.size, preset.batch_size, options.seed)
        self.validation = image_data.Images(*val, preset.size, preset.batch_size)
        steps = len(self.train_images)
        self.schedules = {t: runs.gradual_schedule(t, steps, preset.epochs) for t in preset.targets}
        settings = {**dataclasses.asdict(preset), "seed": options.seed, "images": len(train[1])}
        for name in ("widths", "targets"):  # more of them may be asked for later
            del settings[name]
        settings.update(block_shape=options.block_shape, group_lasso=options.group_lasso, classes=self.classes)
        arguments.group_lasso(options)  # raises if the factor is none
        runs.keep_settings(options.out, settings)

    def train(self, name, width, target=None):
        """Trains a model, dense or to the sparsity `target`, or goes on training it."""
        options, preset = self.options, self.preset
        keras.utils.set_random_seed(options.seed)
        model = mobilenet(len(self.classes), preset, width)
        if target is not None:
            prune(model, options.block_shape, self.schedules[target], arguments.group_lasso(options))
        callbacks = runs.callbacks(options.out, name, options.tensorboard, target is not None)
        fit(model, self.train_images, self.validation, preset, callbacks)
        return model if target is None else bs.strip_pruning(model)

    def execute(self):
        """Trains the models, saves them, prints the table."""
        preset, rows = self.preset, []
        widest = max(preset.widths)
        cells = [(f"dense_{width:g}", width, None) for width in preset.widths]
        cells += [(f"sparse_{target:g}", widest, target) for target in preset.targets]
        for name, width, target in cells:
            print(f"\n{name}: {preset.epochs} epochs of {len(self.train_images)} steps", flush=True)
            model = self.train(name, width, target)
            runs.save(model, self.options.out / f"{name}.keras")
            rows.append(self.row(model, width, target))
            runs.export(model if target is None else self.convert(model), self.options.out / f"{name}_served")
        title = f"{self.options.preset}: {len(self.classes)} classes, {preset.size} x {preset.size} pixels, blocks of "
        runs.print_rows(title + " x ".join(map(str, self.options.block_shape)), COLUMNS, rows)
        print(f"Models and logs: {self.options.out}")

    def convert(self, model):
        """The block-sparse model of a pruned one; prints what became of each layer."""
        options = self.options
        dense = with_dense_layers(model)
        converted = bs.convert(dense, options.block_shape, min_sparsity=options.min_sparsity, batch_size=1)
        print(bs.report(converted))
        return converted

    def row(self, model, width, target):
        """What the table says of a model."""
        number, left = runs.parameters(model)
        scores = model.evaluate(self.validation.dataset(), verbose=0, return_dict=True)
        return [
            "dense" if target is None else "sparse",
            f"{width:g}",
            "0%" if target is None else f"{target:.0%}",
            f"{number / 1e6:.2f} M",
            f"{left / 1e6:.2f} M",
            f"{scores['accuracy']:.2%}",
            f"{scores['top_5']:.2%}",
        ]


class Task:
    """The widest MobileNet as `models.sweep` trains it, to be compared by its accuracy on the validation images.

    Its `units` are the channels of the first convolution, 32 for the width 1.

    Args:
        data: path of the directory.
        preset: a `Preset`.
    """

    metric = "accuracy_valid"
    higher_is_better = True
    include = POINTWISE

    def __init__(self, data, preset):
        self.preset, self.epochs, self.units = preset, preset.epochs, round(CHANNELS * max(preset.widths))
        train, val, self._classes = image_data.load(data)
        self._images = image_data.Images(*train, preset.size, preset.batch_size)
        self._validation = image_data.Images(*val, preset.size, preset.batch_size)
        self.steps_per_epoch = len(self._images)

    def build(self, seed, units=None, dynamic=None):
        """A new model."""
        if dynamic is not None:
            raise ValueError("models.mobilenet has no layers that choose their blocks: use --model mnist.")
        keras.utils.set_random_seed(seed)
        return mobilenet(len(self._classes), self.preset, (units or self.units) / CHANNELS)

    def fit(self, model, callbacks):
        """Compiles the model and trains all epochs."""
        fit(model, self._images, self._validation, self.preset, callbacks)

    def scores(self, model):
        """Accuracies: that the likeliest class is right, and that one of the five likeliest is."""
        found = model.evaluate(self._validation.dataset(), verbose=0, return_dict=True)
        return {"accuracy_valid": found["accuracy"], "top_5_valid": found["top_5"]}


def sweep_task(data, preset, settings):
    """What `models.sweep` trains; see there."""
    if data is None:
        raise ValueError("models.mobilenet needs --data: a directory with an .npz file, or with images by class.")
    return Task(data, runs.preset_with(PRESETS, preset or "small", settings))


def fit(model, images, validation, preset, callbacks):
    """Compiles a model and trains all epochs, or those that are left."""
    compile_model(model, preset)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: preset.rate(epoch))
    fit_epochs(model, images, validation, preset.epochs, [rate, *callbacks])


def compile_model(model, preset):
    """Compiles with the preset's optimizer; dense and pruned alike."""
    optimizers = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
    model.compile(
        optimizers[preset.optimizer](preset.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5")],
        jit_compile=False,
    )


def chosen_preset(options):
    """The preset with what the command line puts in its place."""
    given = arguments.given(options, "size", "widths", "epochs", "batch_size", "learning_rate", "target")
    given.update({"targets": given.pop("target")} if "target" in given else {})
    return dataclasses.replace(PRESETS[options.preset], **given)


def parse(words=None):
    """Reads the command line."""
    parser = arguments.command_parser(
        "mobilenet",
        "MobileNets, narrow and dense or wide and block-sparse.",
        "directory with an .npz file, or with images by class",
        PRESETS,
    )
    parser.add_argument("--max-images", type=arguments.at_least(1), help="train on the first so many images only")
    arguments.add_pruning_arguments(parser, target=None, block_shape=(16, 16))
    preset = arguments.add_preset_arguments(parser, "epochs", "batch-size")
    preset.add_argument("--size", type=arguments.at_least(32), help="height and width of the images")
    preset.add_argument(
        "--widths", type=arguments.positive, nargs="+", help="of the dense models; the widest is pruned"
    )
    return parser.parse_args(words)


def main(words=None):
    """The command."""
    runs.prepare_and_execute(Run, parse(words))


if __name__ == "__main__":
    main()
