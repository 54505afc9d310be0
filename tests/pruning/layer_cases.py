"""One table of all that `prune_blocks()` can prune: every property is tested over the whole of it.

What a weight's matrix is, is written here a second time, element by element and apart from the package: `place` says
in which row and column of its layer's product an element of the weight stands.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import tf_blocksparse as bs
from helpers import loop_blocks
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.pruning import pruned_weights

BLOCK_SHAPE = (4, 2)
STEPS, BATCH, MIDDLE = 16, 2, 8
BEGIN, END, FREQUENCY, TARGET = 2, 14, 5, 0.7
FACTOR = 1e-3
TIME, FEATURES, WORDS = 3, 7, 11
FOLDER = tempfile.TemporaryDirectory()  # of the trained models; goes when the process does


@dataclasses.dataclass(frozen=True)
class Matrix:
    """What is known of a pruned weight without looking at the package.

    kind: its kind.
    gates: matrices side by side in it.
    place: `(index, shape) -> (row, column)` of an element. None: the last axis is the column, the others the row.
    rows: `(layer, x, gate) -> [..., rows]`, what the first layer of its model multiplies the gate's matrix by.
    columns: `(y, gate) -> [..., columns]`, where its product is in the layer's result.
    """

    kind: str = "linear"
    gates: int = 1
    place: Callable | None = None
    rows: Callable | None = None
    columns: Callable | None = None

    def of(self, w):
        """The weight `w` as its matrix `[in, out]`."""
        rows, columns = positions(self.place or rows_first, w.shape)
        matrix = np.full((rows.max() + 1, columns.max() + 1), np.nan, w.dtype)
        matrix[rows, columns] = w.ravel()
        assert matrix.size == w.size and not np.isnan(matrix).any()
        return matrix

    def weight(self, matrix, shape):
        """The weight of `shape` that has this matrix."""
        return matrix[positions(self.place or rows_first, shape)].reshape(shape)

    def grid(self, w):
        return BlockGrid(self.of(w).shape, BLOCK_SHAPE, self.gates)

    def blocks(self, w):
        """Yields `(i, j, block)` of every block of the weight `w`, by plain counting."""
        matrix = self.of(w).astype("float64")
        for i, j, rows, cols in loop_blocks(self.grid(w)):
            yield i, j, matrix[rows, cols]


@functools.cache
def positions(place, shape):
    """Rows and columns of the elements of a weight, in the order in which they are stored."""
    return tuple(np.array([place(index, shape) for index in np.ndindex(*shape)]).T)


def rows_first(index, shape):
    """Dense, recurrent and convolution kernels, embeddings."""
    row = 0
    for i, n in zip(index[:-1], shape[:-1], strict=True):
        row = row * n + i
    return row, index[-1]


def transposed_place(index, shape):
    """The kernel of a transposed convolution: `[..., out, in]`."""
    return rows_first((*index[:-2], index[-1], index[-2]), (*shape[:-2], shape[-1], shape[-2]))


def patches(x, kernel_size):
    """`[batch, places, taps * channels]`: what each place of a convolution sees, channels last."""
    sides = [range(n - k + 1) for n, k in zip(x.shape[1:-1], kernel_size, strict=True)]
    starts = np.array(np.meshgrid(*sides, indexing="ij")).reshape(len(sides), -1).T
    windows = [x[:, *(slice(s, s + k) for s, k in zip(start, kernel_size, strict=True))] for start in starts]
    return np.stack([window.reshape(len(x), -1) for window in windows], 1)


def convolution_rows(layer, x, gate):
    channels = x.shape[-1] // layer.groups
    return patches(x[..., gate * channels : (gate + 1) * channels], layer.kernel_size)


def transposed_rows(layer, x, gate):
    """`y[p] = sum over taps k of x[p - k] w[k]`: a convolution that sees its taps in reverse order."""
    padding = [(0, 0), *((k - 1, k - 1) for k in layer.kernel_size), (0, 0)]
    taps = patches(np.pad(x, padding), layer.kernel_size)
    return taps.reshape(len(x), taps.shape[1], -1, x.shape[-1])[:, :, ::-1].reshape(taps.shape)


def pointwise_rows(layer, x, gate):
    return np.asarray(ops.depthwise_conv(x, layer.depthwise_kernel, padding="valid"))


def one_hot(layer, x, gate):
    return np.eye(layer.input_dim)[x]


def as_it_is(layer, x, gate):
    return x


DENSE = Matrix(rows=as_it_is)
EMBEDDING = Matrix("embedding", rows=one_hot)
CONVOLUTION = Matrix("convolution", rows=convolution_rows)
TRANSPOSED = Matrix("convolution", place=transposed_place, rows=transposed_rows)
POINTWISE = Matrix("convolution", rows=pointwise_rows)
TO_HEADS = Matrix(place=lambda i, n: (i[0], i[1] * n[2] + i[2]))  # [in, heads, units]
FROM_HEADS = Matrix(place=lambda i, n: (i[0] * n[1] + i[1], i[2]))  # [heads, units, out]


def recurrent(path, gates=1, kernel_kind="linear"):
    return {f"{path}/kernel": Matrix(kernel_kind, gates), f"{path}/recurrent_kernel": Matrix("recurrent", gates)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A small model and what of it is pruned.

    build: makes the model, built.
    expected: dict from the path of a pruned weight to its `Matrix`.
    prune: more arguments for `prune_blocks()`.
    repeats_prune: whether `load_model()` cannot bring the pruning back, so that `prune_blocks()` is called again.
    is_graph: whether the model is Sequential or Functional.
    """

    build: Callable
    expected: dict
    prune: dict = dataclasses.field(default_factory=dict)
    repeats_prune: bool = False
    is_graph: bool = True

    def fresh(self):
        """A new model, not pruned, of the same initial weights each time."""
        keras.utils.set_random_seed(5)
        return self.build()

    def pruned(self, compiled=False, **settings):
        """A new pruned model; if compiled, with an optimizer that is built, which saves Keras tracing twice."""
        model = self.apply(self.fresh(), **settings)
        if compiled:
            model.compile(keras.optimizers.Adam(0.01), "mse")
            model.optimizer.build(model.trainable_variables)
        return model

    def apply(self, model, **settings):
        """Prunes a model of the case."""
        schedule = bs.GradualSparsity(TARGET, BEGIN, END, FREQUENCY)
        regularizer = bs.BlockGroupLasso(FACTOR)
        arguments = dict(schedule=schedule, regularizer=regularizer) | self.prune | settings
        return bs.prune_blocks(model, BLOCK_SHAPE, **arguments)

    def data(self, model, steps=STEPS, seed=0):
        """Inputs and targets for `steps` steps."""
        rng = np.random.default_rng(seed)
        shape = (steps * BATCH, *model.input_shape[1:])
        ids = isinstance(model.layers[0], layers.Embedding)
        x = rng.integers(0, WORDS, shape) if ids else rng.standard_normal(shape).astype("float32")
        return x, rng.standard_normal((len(x), *model.output_shape[1:])).astype("float32")


@keras.saving.register_keras_serializable("layer_cases")
class Conventional(layers.Layer):
    """A custom layer with a constraint argument for its weight, as Keras's layers have it."""

    def __init__(self, units, w_constraint=None, w_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.w_constraint = keras.constraints.get(w_constraint)
        self.w_regularizer = keras.regularizers.get(w_regularizer)

    def build(self, input_shape):
        self.w = self.add_weight(
            shape=(input_shape[-1], self.units),
            constraint=self.w_constraint,
            regularizer=self.w_regularizer,
            name="w",
        )

    def call(self, x):
        return ops.matmul(x, self.w)

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "w_constraint": keras.constraints.serialize(self.w_constraint),
            "w_regularizer": keras.regularizers.serialize(self.w_regularizer),
        }


@keras.saving.register_keras_serializable("layer_cases")
class Unconventional(layers.Layer):
    """A custom layer that knows of no constraint."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], 9), name="w")

    def call(self, x):
        return ops.matmul(x, self.w)


@keras.saving.register_keras_serializable("layer_cases")
class Subclassed(keras.Model):
    """A model with a `call()` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lstm = layers.LSTM(5, name="lstm")
        self.first = layers.Dense(9, name="first")
        self.second = layers.Dense(3, name="second")

    @property
    def input_shape(self):
        return (None, TIME, FEATURES)

    @property
    def output_shape(self):
        return (None, 3)

    def call(self, x):
        return self.second(self.first(self.lstm(x)))


def sequence(*inner):
    return keras.Sequential([keras.Input((TIME, FEATURES)), *inner])


def words(*inner):
    return keras.Sequential([keras.Input((TIME,), dtype="int32"), *inner])


def vector(*inner):
    return keras.Sequential([keras.Input((FEATURES,)), *inner])


def image(rank, channels, *inner):
    sides = (5, 4, 3)[:rank]
    return keras.Sequential([keras.Input((*sides, channels)), *inner])


def movie(rank, *inner):
    sides = (4, 3, 2)[:rank]
    return keras.Sequential([keras.Input((2, *sides, 3)), *inner])


def attention(layer):
    x = keras.Input((TIME, FEATURES))
    return keras.Model(x, layer(x, x))


def shared():
    x = keras.Input((FEATURES,))
    layer = layers.Dense(FEATURES, name="shared")
    return keras.Model(x, layer(ops.tanh(layer(x))))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, TIME, FEATURES), "float32"))
    return model


def projections(path):
    names = {"query": TO_HEADS, "key": TO_HEADS, "value": TO_HEADS, "attention_output": FROM_HEADS}
    return {f"{path}/{name}/kernel": matrix for name, matrix in names.items()}


CASES = {
    "dense": Case(
        lambda: sequence(layers.Dense(9, name="first"), layers.Flatten(), layers.Dense(3, name="second")),
        {"first/kernel": DENSE, "second/kernel": Matrix()},
    ),
    "max_norm": Case(
        lambda: vector(layers.Dense(9, kernel_constraint="max_norm", kernel_regularizer="l2", name="dense")),
        {"dense/kernel": DENSE},
    ),
    "einsum": Case(
        lambda: sequence(layers.EinsumDense("abc,cde->abde", (TIME, 3, 5), name="einsum")),
        {
            "einsum/kernel": dataclasses.replace(
                TO_HEADS, rows=as_it_is, columns=lambda y, gate: y.reshape(*y.shape[:-2], -1)
            )
        },
    ),
    "einsum_batched": Case(
        lambda: sequence(layers.EinsumDense("abc,bcd->abd", (TIME, 5), name="einsum")),
        {
            "einsum/kernel": Matrix(
                gates=TIME,
                place=lambda i, n: (i[1], i[0] * n[2] + i[2]),
                rows=lambda layer, x, gate: x[:, gate],
                columns=lambda y, gate: y[:, gate],
            )
        },
    ),
    "einsum_turned": Case(
        lambda: vector(layers.EinsumDense("ab,cb->ac", 9, name="einsum")),
        {"einsum/kernel": Matrix(place=lambda i, n: (i[1], i[0]), rows=as_it_is)},
    ),
    "multi_head_attention": Case(
        lambda: attention(layers.MultiHeadAttention(2, 5, name="attention")), projections("attention")
    ),
    "group_query_attention": Case(
        lambda: attention(layers.GroupQueryAttention(5, 4, 2, name="attention")), projections("attention")
    ),
    "embedding": Case(
        lambda: words(layers.Embedding(WORDS, 9, name="embedding"), layers.Dense(3, name="dense")),
        {"embedding/embeddings": EMBEDDING, "dense/kernel": Matrix()},
    ),
    "reversible_embedding": Case(
        lambda: words(layers.ReversibleEmbedding(WORDS, 9, name="embedding")), {"embedding/embeddings": EMBEDDING}
    ),
    "simple_rnn": Case(lambda: sequence(layers.SimpleRNN(5, name="rnn")), recurrent("rnn")),
    "gru": Case(lambda: sequence(layers.GRU(5, name="gru")), recurrent("gru", 3)),
    "gru_reset_before": Case(lambda: sequence(layers.GRU(5, reset_after=False, name="gru")), recurrent("gru", 3)),
    "lstm": Case(lambda: sequence(layers.LSTM(5, name="lstm")), recurrent("lstm", 4)),
    "rnn_of_a_cell": Case(lambda: sequence(layers.RNN(layers.SimpleRNNCell(5), name="rnn")), recurrent("rnn")),
    "rnn_of_cells": Case(
        lambda: sequence(
            layers.RNN(
                layers.StackedRNNCells([layers.GRUCell(5, name="low"), layers.LSTMCell(3, name="high")], name="cells"),
                name="rnn",
            )
        ),
        recurrent("rnn/cells/low", 3) | recurrent("rnn/cells/high", 4),
    ),
    "bidirectional": Case(
        lambda: sequence(layers.Bidirectional(layers.LSTM(5, name="lstm"), name="both")),
        recurrent("both/forward_lstm", 4) | recurrent("both/backward_lstm", 4),
    ),
    "time_distributed": Case(
        lambda: sequence(layers.TimeDistributed(layers.Dense(9, name="dense"), name="steps")),
        {"steps/dense/kernel": DENSE},
    ),
    "conv_lstm_1d": Case(
        lambda: movie(1, layers.ConvLSTM1D(3, 2, name="conv_lstm")), recurrent("conv_lstm", 4, "convolution")
    ),
    "conv_lstm_2d": Case(
        lambda: movie(2, layers.ConvLSTM2D(3, 2, name="conv_lstm")), recurrent("conv_lstm", 4, "convolution")
    ),
    "conv_lstm_3d": Case(
        lambda: movie(3, layers.ConvLSTM3D(3, 2, name="conv_lstm")), recurrent("conv_lstm", 4, "convolution")
    ),
    "conv_1d": Case(lambda: image(1, 3, layers.Conv1D(5, 3, name="conv")), {"conv/kernel": CONVOLUTION}),
    "conv_2d": Case(lambda: image(2, 3, layers.Conv2D(5, (3, 2), name="conv")), {"conv/kernel": CONVOLUTION}),
    "conv_2d_groups": Case(
        lambda: image(2, 6, layers.Conv2D(10, 2, groups=2, name="conv")),
        {"conv/kernel": dataclasses.replace(CONVOLUTION, gates=2)},
    ),
    "conv_3d": Case(lambda: image(3, 3, layers.Conv3D(5, 2, name="conv")), {"conv/kernel": CONVOLUTION}),
    "conv_1d_transpose": Case(
        lambda: image(1, 3, layers.Conv1DTranspose(5, 3, name="conv")), {"conv/kernel": TRANSPOSED}
    ),
    "conv_2d_transpose": Case(
        lambda: image(2, 3, layers.Conv2DTranspose(5, (3, 2), name="conv")), {"conv/kernel": TRANSPOSED}
    ),
    "conv_3d_transpose": Case(
        lambda: image(3, 3, layers.Conv3DTranspose(5, 2, name="conv")), {"conv/kernel": TRANSPOSED}
    ),
    "separable_conv_1d": Case(
        lambda: image(1, 7, layers.SeparableConv1D(5, 3, name="conv")), {"conv/pointwise_kernel": POINTWISE}
    ),
    "separable_conv_2d": Case(
        lambda: image(2, 3, layers.SeparableConv2D(5, 2, depth_multiplier=2, name="conv")),
        {"conv/pointwise_kernel": POINTWISE},
    ),
    "nested": Case(
        lambda: sequence(
            keras.Sequential([layers.Dense(9, name="dense"), layers.LayerNormalization()], name="inner"),
            layers.GRU(5, name="gru"),
        ),
        {"inner/dense/kernel": Matrix()} | recurrent("gru", 3),
    ),
    "shared": Case(shared, {"shared/kernel": Matrix()}),
    "conventional": Case(lambda: vector(Conventional(9, name="custom")), {"custom/w": DENSE}),
    "unconventional": Case(
        lambda: vector(Unconventional(name="custom")),
        {"custom/w": DENSE},
        prune={"weights": ["w"]},
        repeats_prune=True,
    ),
    "subclassed": Case(
        subclassed,
        recurrent("lstm", 4) | {"first/kernel": Matrix(), "second/kernel": Matrix()},
        repeats_prune=True,
        is_graph=False,
    ),
}


class Recorder(keras.callbacks.Callback):
    """Keeps the masks and values after every step, and saves in all formats after the step in the middle."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.masks, self.values, self.optimizer = folder, [], [], None

    def on_train_batch_end(self, batch, logs=None):
        weights = pruned_weights(self.model)
        self.masks.append({weight.path: ops.convert_to_numpy(weight.pruning.block_mask) for weight in weights})
        self.values.append({weight.path: ops.convert_to_numpy(weight.variable) for weight in weights})
        if len(self.masks) == MIDDLE:
            self.optimizer = [ops.convert_to_numpy(v) for v in self.model.optimizer.variables]
            self.model.save(f"{self.folder}/middle.keras")
            self.model.save_weights(f"{self.folder}/middle.weights.h5")
            checkpoint_of(self.model).write(f"{self.folder}/middle")

    def on_train_end(self, logs=None):
        self.model.save_weights(f"{self.folder}/end.weights.h5")


@dataclasses.dataclass(frozen=True)
class Record:
    """One training of a case, of which many things are asked.

    Attributes:
        model: as it was after the last step; not to be changed.
        masks, values: for each step, dict from path to array.
        optimizer: the variables of the optimizer after the step `MIDDLE`.
        folder: where the model is saved, after the step `MIDDLE`: `middle.keras`, `middle.weights.h5`, and `middle`,
            a checkpoint; and after the last one: `end.weights.h5`.
    """

    model: keras.Model
    masks: list
    values: list
    optimizer: list
    folder: str


@functools.cache
def initial(name):
    """A model of the case before it was pruned: not to be changed."""
    return CASES[name].fresh()


@functools.cache
def trained(name):
    """The `Record` of training a case."""
    recorder = Recorder(tempfile.mkdtemp(dir=FOLDER.name))
    model = CASES[name].pruned(compiled=True)
    train(model, *CASES[name].data(model), callbacks=[recorder])
    return Record(model, recorder.masks, recorder.values, recorder.optimizer, recorder.folder)


def train(model, x, y, **settings):
    """Steps in the order of the data."""
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **settings)


def checkpoint_of(model):
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)
