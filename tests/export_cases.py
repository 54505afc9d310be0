"""Converted models of all kinds, with inputs: what both exports have to answer alike."""

import keras
import numpy as np
from keras import layers

import tf_blocksparse as bs
from tf_blocksparse.blocks import BlockGrid

WORDS = ["in", "the", "beginning", "was", "word", "and"]


def sparsify(model, block_shape=4, density=0.6, seed=0):
    """Zeroes blocks of the kernels of a model, at random, but for one block row."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("kernel", "recurrent_kernel", "embeddings") and len(weight.shape) == 2:
            gates = weight.shape[1] // weight.shape[0] if weight.name == "recurrent_kernel" else 1
            grid = BlockGrid(weight.shape, block_shape, gates)
            block_mask = rng.random(grid.mask_shape) < density
            block_mask[grid.rows // 2] = True  # so that every output depends on something
            kept = np.asarray(grid.expand(block_mask))
            weight.assign(keras.ops.convert_to_numpy(weight) * kept)
    return model


def converted(model, block_shape=4, density=0.6, **options):
    """A block-sparse copy, all layers converted that can be."""
    return bs.convert(sparsify(model, block_shape, density), block_shape=block_shape, min_sparsity=0, **options)


def _normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def _ids(limit, *shape):
    return np.random.default_rng(1).integers(0, limit, shape).astype("int32")


def language_model():
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(60, 32)(ids)
    x = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(x)
    x = layers.GRU(32, return_sequences=True)(x)
    return converted(keras.Model(ids, layers.Dense(60)(x))), _ids(60, 3, 7)


def static_shapes():
    x = keras.Input(batch_shape=(2, 5, 12), name="x")
    return converted(keras.Model(x, layers.Dense(7)(layers.SimpleRNN(10)(x)))), _normal(2, 5, 12)


def several_inputs_and_outputs():
    inputs = {"left": keras.Input((8,), name="left"), "right": keras.Input((6,), dtype="int32", name="right")}
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(20, 8, mask_zero=True)(inputs["right"]))
    joined = layers.Concatenate()([inputs["left"], embedded])
    outputs = {"a": layers.Dense(9, activation="relu", name="a")(joined), "b": layers.Dense(5, name="b")(joined)}
    return converted(keras.Model(inputs, outputs)), {"left": _normal(3, 8), "right": _ids(20, 3, 6)}


def strings():
    text = keras.Input((), dtype="string", name="text")
    ids = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=6)(text)
    x = layers.GRU(12, reset_after=False)(layers.Embedding(8, 16, mask_zero=True)(ids))
    return converted(keras.Model(text, layers.Dense(3)(x))), np.array(["in the beginning", "", "the word was new"])


def categories():
    inputs = [keras.Input((1,), dtype="string", name="kind"), keras.Input((4,), name="numbers")]
    kind = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(inputs[0])
    joined = layers.Concatenate()([kind, layers.Normalization(mean=[0.0] * 4, variance=[2.0] * 4)(inputs[1])])
    return converted(keras.Model(inputs, layers.Dense(8)(joined))), [np.array([["a"], ["c"]]), _normal(2, 4)]


def int8():
    x = keras.Input((None, 16), name="x")
    y = layers.LSTM(16, return_sequences=True)(x)
    return converted(keras.Model(x, layers.Dense(10)(y)), dtype="int8", product_dtype="float32"), _normal(3, 6, 16)


def bfloat16():
    model = keras.Sequential([keras.Input((33,), name="x"), layers.Dense(20, activation="tanh"), layers.Dense(5)])
    return converted(model, (8, 16), 0.5, dtype="bfloat16"), _normal(300, 33)


def half_precision():
    policy = "mixed_bfloat16"
    model = keras.Sequential(
        [keras.Input((12,), name="x"), layers.Dense(8, dtype=policy), layers.Dense(4, dtype=policy)]
    )
    return converted(model), _normal(3, 12)


def layers_that_stay_dense():
    x = keras.Input((10, 8), name="x")
    y = layers.BatchNormalization()(layers.Conv1D(8, 3, padding="same")(x))
    y = layers.MultiHeadAttention(2, 4)(y, y)
    y = layers.TimeDistributed(layers.Dense(8))(y)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, "elu"), layers.Dropout(0.5)])
    return converted(keras.Model(x, inner(layers.GlobalMaxPooling1D()(y)))), _normal(4, 10, 8)


def dynamic_layers():
    x = keras.Input((None, 12), name="x")
    y = bs.DynamicBlockQRNN(16, return_sequences=True, block_shape=4, sparsity=0.5)(x)
    y = bs.DynamicBlockLSTM(12, return_sequences=True, block_shape=4, sparsity=0.5)(y)
    y = bs.DynamicBlockDense(10, "tanh", block_shape=(4, 2), sparsity=0.6)(y)
    return bs.convert(keras.Model(x, y), measure=False), _normal(3, 6, 12)


def sequences_of_a_large_batch():
    x = keras.Input((4, 12), name="x")
    y = layers.Bidirectional(layers.GRU(8, return_sequences=True), merge_mode="sum")(x)
    y = layers.Bidirectional(layers.SimpleRNN(8))(layers.LSTM(8, return_sequences=True, go_backwards=True)(y))
    return converted(keras.Model(x, y)), _normal(200, 4, 12)


def nothing_converted():
    model = keras.Sequential([keras.Input((5,), name="x"), layers.Dense(4), layers.LayerNormalization()])
    return model, _normal(3, 5)


CASES = (
    language_model,
    static_shapes,
    several_inputs_and_outputs,
    strings,
    categories,
    int8,
    bfloat16,
    half_precision,
    layers_that_stay_dense,
    dynamic_layers,
    sequences_of_a_large_batch,
    nothing_converted,
)
