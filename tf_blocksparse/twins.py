"""Keras layers and their block-sparse twins: which there are, how one is made, and what it stores."""

import keras

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.dynamic_twins import copy_dynamic_weights, in_blocks, is_dynamic, is_in_blocks
from tf_blocksparse.layers import (
    BlockSparseDense,
    BlockSparseEmbedding,
    BlockSparseGRU,
    BlockSparseLSTM,
    BlockSparseSimpleRNN,
)
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight, elementwise_problem
from tf_blocksparse.pruning.strip import detach
from tf_blocksparse.pruning.weights import prunable_weights

TWINS = {
    keras.layers.Dense: BlockSparseDense,
    keras.layers.Embedding: BlockSparseEmbedding,
    keras.layers.SimpleRNN: BlockSparseSimpleRNN,
    keras.layers.GRU: BlockSparseGRU,
    keras.layers.LSTM: BlockSparseLSTM,
}
_KERAS_ONLY = ("lora_rank", "lora_alpha", "quantization_config", "use_cudnn", "implementation")


def has_twin(layer):
    """Whether there is a block-sparse class for the class of `layer`."""
    return type(layer) in TWINS


def is_twin(layer):
    """Whether `layer` is block-sparse, or a dynamic layer in the form for inference."""
    return type(layer) in TWINS.values() or is_in_blocks(layer)


def why_no_twin(layer):
    """Why `layer` cannot be made block-sparse, however sparse it is, in a few words; None if it can."""
    return why_no_twin_class(layer) or why_not_elementwise(
        (weight.name, weight.constraint, weight.regularizer) for weight in prunable_weights(plain_copy(layer))
    )


def why_no_twin_class(layer):
    """Why there is no block-sparse class for `layer`, in a few words; None if there is."""
    if not has_twin(layer):
        return f"{type(layer).__name__} has no block-sparse twin"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "it is quantized or has LoRA weights"
    return None


def why_not_elementwise(weights):
    """Which of some weights has a constraint or regularizer that needs the whole matrix, in a few words, or None.

    Args:
        weights: iterable of `(name, constraint, regularizer)`.
    """
    for name, constraint, regularizer in weights:
        problem = elementwise_problem(constraint, regularizer)
        if problem:
            return f"{problem} on {name} needs the whole matrix"
    return None


def plain_copy(layer):
    """A layer of the same config but for the pruning; not built."""
    plain = type(layer).from_config(layer.get_config())
    detach(plain)
    return plain


def make_twin(layer, block_shape, dtype="float32", product_dtype=None, **settings):
    """The block-sparse twin of a built layer: as many blocks as `layer` has that are not zero, no weights yet.

    Args:
        layer: one that `why_no_twin()` has nothing against.
        block_shape: `(height, width)`.
        dtype: what the blocks are stored in, if the twin can.
        product_dtype: what its inputs are rounded to then, or None: the same.
        **settings: in place of those in the config of `layer`.
    """
    if is_dynamic(layer):
        return in_blocks(layer, dtype)
    config = {k: v for k, v in plain_copy(layer).get_config().items() if k not in _KERAS_ONLY}
    num_blocks = {name: int(grid.nonzero_blocks(w).sum()) for name, w, grid in matrices(layer, block_shape)}
    twin = TWINS[type(layer)]
    config["block_shape"] = block_shape
    config["num_blocks"] = num_blocks if issubclass(twin, BlockSparseRNN) else next(iter(num_blocks.values()))
    return twin.from_config({**config, **_storage_settings(layer, dtype, product_dtype), **settings})


def copy_twin(layer, dtype="float32", product_dtype=None):
    """A copy of a block-sparse layer without its weights; if it stores float32, one that stores `dtype`."""
    config = layer.get_config()
    if config.get("storage_dtype", dtype) == "float32":
        config.update(_storage_settings(layer, dtype, product_dtype))
    return type(layer).from_config(config)


def has_low_precision(layer):
    """Whether `layer` in blocks can store them in less than float32: there is an op for products only."""
    return TWINS.get(type(layer), type(layer)) is not BlockSparseEmbedding


def _storage_settings(layer, dtype, product_dtype):
    if is_dynamic(layer):
        return {"storage_dtype": dtype}  # their op takes inputs as they are
    return {"storage_dtype": dtype, "product_dtype": product_dtype} if has_low_precision(layer) else {}


def copy_weights(layer, twin):
    """Copies the weights of a built layer to its twin, or to a copy of it; builds that first if need be."""
    if not layer.weights:
        return
    if not twin.built:
        twin.build_from_config(layer.get_build_config())
    if is_dynamic(layer):
        copy_dynamic_weights(layer, twin)
        return
    if not is_twin(twin):
        twin.set_weights(layer.get_weights())
        return
    owner, twin_owner = getattr(layer, "cell", layer), getattr(twin, "cell", twin)
    for name, stored in block_sparse_weights(owner).items():  # of a layer that is block-sparse already
        matrix = stored.bsr()
        getattr(twin_owner, name).assign(matrix.to_dense(), matrix.block_mask)
    for name, w, _ in matrices(layer, twin_owner.block_shape):
        getattr(twin_owner, name).assign(w)
    if getattr(twin_owner, "bias", None) is not None:
        twin_owner.bias.assign(owner.bias)


def block_sparse_weights(owner):
    """The `BlockSparseWeight`s of a block-sparse layer, or cell, by name: dict, empty for other layers."""
    return {name: value for name, value in vars(owner).items() if isinstance(value, BlockSparseWeight)}


def matrices(layer, block_shape):
    """Yields `(name in the twin, array [in, out], grid)` for the matrices that the twin of `layer` stores."""
    for name, weight, columns, grid in stored_matrices(layer, block_shape):
        yield name, weight.matrix()[:, columns], grid


def stored_matrices(layer, block_shape):
    """Yields `(name in the twin, PrunableWeight of layer, columns, grid)` for the matrices that its twin stores.

    `columns` is the slice of the weight's columns that make the matrix.
    """
    for weight in prunable_weights(layer):
        name, gates, (rows, cols) = weight.name, weight.gates, weight.variable.shape
        units = cols // gates
        if name == "recurrent_kernel" and not getattr(weight.owner, "reset_after", True):
            yield name, weight, slice(2 * units), BlockGrid((units, 2 * units), block_shape, 2)
            yield "candidate_kernel", weight, slice(2 * units, None), BlockGrid((units, units), block_shape)
        else:
            yield name, weight, slice(None), BlockGrid((rows, cols), block_shape, gates)
