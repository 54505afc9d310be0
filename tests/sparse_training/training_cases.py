"""Small models that train masked and in blocks, and how their weights are compared."""

import keras
import numpy as np

import tf_blocksparse as bs
from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.convert import leaves

layers = keras.layers

END_STEP = 3
STEPS = 7
BATCH, TIME, WORDS = 4, 4, 24
IN_BLOCKS = {"min_sparsity": 0.0}  # whatever is measured


def schedule():
    return bs.ConstantSparsity(0.6, begin_step=END_STEP)


def sequential(*inner, inputs=(TIME, 12), dtype="float32"):
    return keras.Sequential([keras.Input(inputs, dtype=dtype), *inner])


def _functional():
    """Two inputs, a shared layer, a nested model and a residual connection."""
    a, b = keras.Input((12,)), keras.Input((12,))
    shared = layers.Dense(16, "tanh")
    nested = sequential(layers.Dense(16, "relu"), layers.Dense(16), inputs=(16,))
    h = layers.Add()([shared(a), nested(shared(b))])
    return keras.Model([a, b], layers.Dense(10)(h))


MODELS = {
    "dense": lambda: sequential(layers.Dense(18, "tanh"), layers.Dense(10), inputs=(14,)),
    "ragged": lambda: sequential(layers.Dense(11, "relu"), layers.Dense(7), inputs=(13,)),
    "embedding": lambda: sequential(
        layers.Embedding(WORDS, 10, mask_zero=True), layers.LSTM(8), inputs=(TIME,), dtype="int32"
    ),
    "simple_rnn": lambda: sequential(layers.SimpleRNN(12, dropout=0.3, recurrent_dropout=0.3, seed=3)),
    "gru": lambda: sequential(layers.GRU(10, return_sequences=True), layers.Dense(6)),
    "gru_reset_before": lambda: sequential(layers.GRU(10, reset_after=False)),
    "lstm": lambda: sequential(layers.LSTM(10, dropout=0.3, seed=3, go_backwards=True)),
    "bidirectional": lambda: sequential(layers.Bidirectional(layers.LSTM(8), merge_mode="sum")),
    "time_distributed": lambda: sequential(layers.TimeDistributed(layers.Dense(8, "relu")), layers.GRU(8)),
    "functional": _functional,
}


def pruned(model, optimizer=None, loss="mse", **settings):
    bs.prune_blocks(model, block_shape=(4, 2), schedule=schedule())
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9) if optimizer is None else optimizer
    model.compile(optimizer, loss, **{"jit_compile": False, **settings})
    return model


def data(model, batches=STEPS, seed=0):
    """Inputs and targets for a model."""
    rng = np.random.default_rng(seed)

    def array(tensor):
        shape = (batches * BATCH, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return rng.integers(WORDS, size=shape).astype("int32")
        return rng.standard_normal(shape).astype("float32")

    inputs = [array(t) for t in model.inputs]
    return inputs if len(inputs) > 1 else inputs[0], array(model.outputs[0])


def fit(model, xy, callbacks=(), **settings):
    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **settings}
    return model.fit(*xy, callbacks=list(callbacks), **settings)


def values(model):
    """All matrices and biases of a model, masked or in blocks: dict from `(place, name)` to dense arrays."""
    return {key: dense(value) for key, value in _variables(model).items()}


def slots(model, name):
    """What the optimizer keeps under an attribute, as `values()`; of blocks, zero elsewhere."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    by_variable = dict(zip(map(id, optimizer._trainable_variables), getattr(optimizer, name), strict=True))
    found = {}
    for key, value in _variables(model).items():
        if hasattr(value, "bsr"):
            matrix = value.bsr()
            blocks = by_variable[id(value.blocks)].numpy()
            found[key] = BsrMatrix(matrix.grid, blocks, matrix.indices, matrix.indptr, matrix.order).to_dense()
        else:
            found[key] = by_variable[id(value)].numpy()
    return found


def dense(value):
    return value.bsr().to_dense() if hasattr(value, "bsr") else value.numpy()


def live(model):
    """Bool arrays like `values()`: True where a weight is of a live block, or of no block at all."""
    found = {}
    for key, value in _variables(model).items():
        if hasattr(value, "bsr"):
            matrix = value.bsr()
            found[key] = np.asarray(matrix.grid.expand(matrix.block_mask))
        else:
            found[key] = np.ones(value.shape, bool)
    return found


def _variables(model):
    names = ("kernel", "embeddings", "recurrent_kernel", "candidate_kernel", "bias")
    owners = [getattr(layer, "cell", layer) for layer in leaves(model)]
    found = {(i, name): getattr(owner, name, None) for i, owner in enumerate(owners) for name in names}
    return {key: value for key, value in found.items() if value is not None}


def largest_difference(a, b):
    """Largest difference of two models' weights, of the largest weight of the matrix."""
    a, b = whole(values(a)), whole(values(b))
    assert a.keys() == b.keys()
    return max(np.abs(a[key] - b[key]).max() / max(np.abs(a[key]).max(), 1e-3) for key in a)


def whole(found):
    """`values()` or `slots()` with the two parts of a GRU's recurrent kernel in one."""
    found = dict(found)
    for place, name in list(found):
        if name == "candidate_kernel":
            parts = found[place, "recurrent_kernel"], found.pop((place, name))
            found[place, "recurrent_kernel"] = np.concatenate(parts, axis=1)
    return found
