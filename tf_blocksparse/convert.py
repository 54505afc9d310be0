"""`convert()`: a pruned Keras model becomes one of block-sparse layers.

First the model is copied, with a block-sparse twin, made from its config, in the place of every layer that is sparse
enough. Then, when all layers of the copy are built, the weights are copied pair by pair.
"""

import keras

from tf_blocksparse.block_pattern import best_block_shape
from tf_blocksparse.blocks import BlockGrid, canonical_block_shape
from tf_blocksparse.cloning import clone_uncompiled
from tf_blocksparse.layers import (
    BlockSparseDense,
    BlockSparseEmbedding,
    BlockSparseGRU,
    BlockSparseLSTM,
    BlockSparseSimpleRNN,
)
from tf_blocksparse.layers.block_sparse_rnn import BlockSparseRNN
from tf_blocksparse.layers.block_sparse_weight import elementwise_problem
from tf_blocksparse.pruning import PruneBlocks, pruned_weights
from tf_blocksparse.pruning.prune import check_layer
from tf_blocksparse.pruning.strip import detach, warn_if_unfinished
from tf_blocksparse.pruning.weights import prunable_weights

TWINS = {
    keras.layers.Dense: BlockSparseDense,
    keras.layers.Embedding: BlockSparseEmbedding,
    keras.layers.SimpleRNN: BlockSparseSimpleRNN,
    keras.layers.GRU: BlockSparseGRU,
    keras.layers.LSTM: BlockSparseLSTM,
}
# Sparsity from which a layer is converted. Measured on (384, 1536), batch 1 and 16, two threads, AVX-512: with half of
# the blocks gone, products with 4x4 and larger blocks take as long as dense ones or less; 2x2 and 4x1 gain at batch 16
# from 80 % on and at batch 1 from 90 % on; 1x1 is slower than dense even at 90 %.
MIN_SPARSITY = 0.5
MIN_SPARSITY_OF_TINY_BLOCKS = 0.97
TINY_BLOCK = 4  # elements; a smaller block is tiny
_KERAS_ONLY = ("lora_rank", "lora_alpha", "quantization_config", "use_cudnn", "implementation")


def convert(model, block_shape=None, dtype="float32", min_sparsity=None):
    """Turns the layers of a pruned model into block-sparse layers.

    `Dense`, `Embedding`, `SimpleRNN`, `GRU` and `LSTM` layers are converted, alone, in `Bidirectional` or
    `TimeDistributed`, and in nested models. A layer that is not sparse enough to gain, or that cannot be converted,
    stays as it is; `report()` says why. The outputs are those of the pruned model, within float32 rounding.

    Args:
        model: a built Sequential or Functional `keras.Model`, or one built layer; pruned, or stripped. It is not
            changed.
        block_shape: `(height, width)` or an int for all layers. None: that of the pruning, or else for each layer
            the one that stores its zeros in the fewest bytes.
        dtype: type of the stored blocks: `"float32"`.
        min_sparsity: float in [0, 1), layers of which a smaller share of the blocks is zero stay dense.
            None: 0.5, or 0.97 for blocks of less than four elements.

    Returns:
        A new, uncompiled `keras.Model` (or layer) that shares no weights with `model`.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it is not built, is a subclassed model, has nothing to convert, or an argument is out of
            range.

    Example:

    >>> fast = convert(model)
    >>> print(report(fast))
    """
    _check_arguments(model, dtype, min_sparsity)
    block_shape = None if block_shape is None else canonical_block_shape(block_shape)
    warn_if_unfinished(pruned_weights(model))
    converted = _copy(model, lambda layer: _convert_layer(layer, block_shape, min_sparsity))
    pairs = list(_pairs(model, converted))
    if not any(type(twin) in TWINS.values() for _, twin in pairs):
        raise ValueError(
            f"Nothing in {model.name!r} can be converted: no Dense, Embedding, SimpleRNN, GRU or LSTM layer has "
            "enough zero blocks to gain. Prune first: tf_blocksparse.prune_blocks(model, ...). "
            "tf_blocksparse.report(model) says why for each weight; min_sparsity=0 converts all the same."
        )
    for layer, twin in pairs:
        _copy_weights(layer, twin)
    return converted


def is_graph(model):
    """Whether a `keras.Model` is Sequential or Functional, and not a subclass with a `call()` of its own."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def why_not(layer, block_shape=None, min_sparsity=None):
    """Why `convert()` leaves `layer` as it is, in a few words; None if it converts it.

    Args:
        layer: a built layer that holds no other layers but an RNN's cell.
        block_shape, min_sparsity: as for `convert()`.
    """
    if type(layer) not in TWINS:
        return f"{type(layer).__name__} has no block-sparse twin"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "it is quantized or has LoRA weights"
    for weight in prunable_weights(_plain_copy(layer)):
        problem = elementwise_problem(weight.constraint, weight.regularizer)
        if problem:
            return f"{problem} on {weight.name} needs the whole matrix"
    block_shape = block_shape or _block_shape_of(layer)
    sparsity = _sparsity(layer, block_shape)
    needed = default_min_sparsity(block_shape) if min_sparsity is None else min_sparsity
    if sparsity < needed:
        blocks = " x ".join(map(str, block_shape))
        return f"sparsity {sparsity:.2f} in {blocks} blocks is below {needed:.2f}: dense is as fast"
    return None


def default_min_sparsity(block_shape):
    """Sparsity below which a layer with such blocks stays dense unless the caller says otherwise."""
    height, width = block_shape
    return MIN_SPARSITY if height * width >= TINY_BLOCK else MIN_SPARSITY_OF_TINY_BLOCKS


def _check_arguments(model, dtype, min_sparsity):
    check_layer(model)
    if dtype != "float32":
        raise ValueError(f'`dtype` must be "float32". Received: dtype={dtype!r}.')
    if min_sparsity is not None and not 0 <= min_sparsity < 1:
        raise ValueError(f"`min_sparsity` is a fraction in [0, 1). Received: min_sparsity={min_sparsity!r}.")
    if not model.built:
        raise ValueError(
            f"{model.name!r} is not built, so it has no weights to convert. Train it, load it or call it once."
        )


def _copy(layer, copy_leaf):
    """Copies a layer or model; `copy_leaf` says what becomes of a layer that holds no others."""
    if not isinstance(layer, keras.layers.Layer):  # an operation of the graph, such as the one that makes a mask
        return type(layer).from_config(layer.get_config())
    if isinstance(layer, keras.Model):
        return _copy_model(layer, copy_leaf)
    if isinstance(layer, PruneBlocks):
        return _copy(layer.layer, copy_leaf)
    if isinstance(layer, keras.layers.Bidirectional):
        return keras.layers.Bidirectional(
            _copy(layer.forward_layer, copy_leaf),
            merge_mode=layer.merge_mode,
            backward_layer=_copy(layer.backward_layer, copy_leaf),
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    if isinstance(layer, keras.layers.TimeDistributed):
        return keras.layers.TimeDistributed(_copy(layer.layer, copy_leaf), name=layer.name, dtype=layer.dtype_policy)
    return copy_leaf(layer)


def _copy_model(model, copy_leaf):
    if not is_graph(model):
        raise ValueError(
            f"convert() takes Sequential and Functional models and layers. Received: {type(model).__name__} "
            f"{model.name!r}, a subclass of keras.Model, whose call() cannot be rewritten. Build it with the "
            "functional API, or call convert() on its layers and put them in their place."
        )
    copied = clone_uncompiled(model, lambda layer: _copy(layer, copy_leaf))
    if not copied.built:
        copied.build_from_config(model.get_build_config())
    return copied


def _pairs(layer, copied):
    """Yields `(layer, its copy)` for all layers that `_copy()` handed to `copy_leaf`."""
    if isinstance(layer, keras.Model):
        for inner, inner_copy in zip(layer.layers, copied.layers, strict=True):
            yield from _pairs(inner, inner_copy)
    elif isinstance(layer, PruneBlocks):
        yield from _pairs(layer.layer, copied)
    elif isinstance(layer, keras.layers.Bidirectional):
        yield from _pairs(layer.forward_layer, copied.forward_layer)
        yield from _pairs(layer.backward_layer, copied.backward_layer)
    elif isinstance(layer, keras.layers.TimeDistributed):
        yield from _pairs(layer.layer, copied.layer)
    else:
        yield layer, copied


def _convert_layer(layer, block_shape, min_sparsity):
    """The block-sparse twin of a layer, or a plain copy; no weights yet."""
    plain = _plain_copy(layer)
    if not layer.built or why_not(layer, block_shape, min_sparsity):
        return plain
    config = {k: v for k, v in plain.get_config().items() if k not in _KERAS_ONLY}
    config["block_shape"] = block_shape or _block_shape_of(layer)
    num_blocks = {name: int(grid.nonzero_blocks(w).sum()) for name, w, grid in _matrices(layer, config["block_shape"])}
    twin = TWINS[type(layer)]
    config["num_blocks"] = num_blocks if issubclass(twin, BlockSparseRNN) else next(iter(num_blocks.values()))
    return twin.from_config(config)


def _plain_copy(layer):
    """A layer of the same config but for the pruning; not built."""
    plain = type(layer).from_config(layer.get_config())
    detach(plain)
    return plain


def _copy_weights(layer, twin):
    if not layer.weights:
        return
    if not twin.built:
        twin.build_from_config(layer.get_build_config())
    if type(twin) not in TWINS.values():
        twin.set_weights(layer.get_weights())
        return
    owner, twin_owner = getattr(layer, "cell", layer), getattr(twin, "cell", twin)
    for name, w, _ in _matrices(layer, twin_owner.block_shape):
        getattr(twin_owner, name).assign(w)
    if getattr(twin_owner, "bias", None) is not None:
        twin_owner.bias.assign(owner.bias)


def _matrices(layer, block_shape):
    """Yields `(name in the twin, array [in, out], grid)` for the matrices that the twin of `layer` stores."""
    for weight in prunable_weights(layer):
        name, gates, w = weight.name, weight.gates, weight.matrix()
        units = w.shape[1] // gates
        if name == "recurrent_kernel" and not getattr(weight.owner, "reset_after", True):
            yield "candidate_kernel", w[:, 2 * units :], BlockGrid((units, units), block_shape)
            w, gates = w[:, : 2 * units], 2
        yield name, w, BlockGrid(w.shape, block_shape, gates)


def _block_shape_of(layer):
    """Block shape of the pruning of `layer`, or the one that fits its zeros best."""
    for weight in pruned_weights(layer):
        return weight.pruning.block_shape
    return best_block_shape([(w, grid.gates) for _, w, grid in _matrices(layer, (1, 1))])


def _sparsity(layer, block_shape):
    """Share of the blocks of all matrices of `layer` that are zero."""
    masks = [grid.nonzero_blocks(w) for _, w, grid in _matrices(layer, block_shape)]
    return 1.0 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
