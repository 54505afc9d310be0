"""`convert()`: a pruned Keras model becomes one of block-sparse layers.

First it is chosen for each layer whether that gains. Then the model is copied, with a block-sparse twin, made from its
config, in the place of every layer that does. When all layers of the copy are built, the weights are copied pair by
pair.
"""

import logging
import weakref

import keras

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.choice import BATCH_SIZES, Chooser, remember
from tf_blocksparse.cloning import clone_uncompiled
from tf_blocksparse.layers.storage_dtype import check_dtypes
from tf_blocksparse.output_difference import output_differences
from tf_blocksparse.pruning import PruneBlocks, pruned_weights
from tf_blocksparse.pruning.prune import check_layer
from tf_blocksparse.pruning.strip import warn_if_unfinished
from tf_blocksparse.twins import copy_twin, copy_weights, has_twin, is_twin, make_twin, plain_copy

logger = logging.getLogger("tf_blocksparse")
_MANY_LAYERS = 5  # that take about a second each to measure: from here on a bar shows the progress
_differences = weakref.WeakKeyDictionary()


def convert(
    model,
    block_shape=None,
    dtype="float32",
    min_sparsity=None,
    batch_size=None,
    measure=True,
    calibration_data=None,
    time_steps=1,
    product_dtype=None,
):
    """Turns the layers of a pruned model into block-sparse layers where that makes them faster.

    Dynamic layers, such as `DynamicBlockDense`, need no pruning: their copies skip the blocks that an example does not
    choose.

    `Dense`, `Embedding`, `SimpleRNN`, `GRU` and `LSTM` layers are converted, alone, in `Bidirectional` or
    `TimeDistributed`, and in nested models. The products of each are measured, for about a second, dense and in
    blocks: a layer that is slower in blocks at one of the batch sizes, or not faster over all of them, stays as it
    is, and so does one that cannot be converted; `report()` says why. So the result depends on the machine: convert
    where the model will run, or give `measure=False` or `min_sparsity`. An `Embedding` is not measured; it is
    converted when at least half of its blocks are zero and that saves memory. The outputs are those of the pruned
    model, within float32 rounding, or within that of another `dtype`.

    Args:
        model: a built Sequential or Functional `keras.Model`, or one built layer; pruned, or stripped. It is not
            changed.
        block_shape: `(height, width)` or an int for all layers. None: that of the pruning, or else for each layer
            the one that stores its zeros in the fewest bytes.
        dtype: type of the stored blocks: `"float32"`, or for a model that is not to be trained any more `"bfloat16"` or
            `"int8"`. Layers are compared with dense ones all the same: float32 blocks may be faster than bfloat16. An
            `Embedding` is stored in float32.
        min_sparsity: float in [0, 1): nothing is measured, and layers of which a smaller share of the blocks is
            zero stay dense.
        batch_size: int or tuple of int, examples in a batch to measure at. None: 1 and 16.
        measure: bool. False: nothing is measured, and layers of which less than half of the blocks is zero (0.97
            for blocks of less than four elements) stay dense.
        calibration_data: inputs as for `model.predict()`: an array, a tuple, list or dict of arrays, or batches such
            as a `tf.data.Dataset`. The outputs of both models on them are compared; the log and `report()` of the
            converted model tell the differences.
        time_steps: int, what an unknown dimension of a `Dense` layer's input, such as time, is taken for when the
            layer is measured: its product has `batch_size * time_steps` rows.
        product_dtype: what the inputs of a product are rounded to, with `dtype="bfloat16"` or `"int8"`. None: the
            same, int8 with a scale for each row of inputs. `"float32"`: they are taken as they are, which dynamic
            layers do in any case.

    Returns:
        A new, uncompiled `keras.Model` (or layer) that shares no weights with `model`. If all its layers were measured
        to be faster dense, none of them is block-sparse, and a warning says so.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it is not built, is a subclassed model, has nothing to convert, or an argument is out of
            range.

    Example:

    >>> fast = convert(model)
    >>> print(report(fast))
    """
    _check_arguments(model, dtype, product_dtype, min_sparsity, time_steps)
    block_shape = None if block_shape is None else canonical_block_shape(block_shape)
    sizes = batch_sizes(batch_size)
    warn_if_unfinished(pruned_weights(model))
    chooser = Chooser(block_shape, dtype, product_dtype, min_sparsity, sizes if measure else (), time_steps)
    choices = _choices(model, chooser)
    converted = _copy(model, lambda layer: _convert_layer(layer, choices[id(layer)], dtype, product_dtype))
    copies = list(pairs(model, converted))
    if not any(is_twin(twin) for _, twin in copies):
        _nothing_gained(model, choices.values())
    for layer, twin in copies:
        copy_weights(layer, twin)
        remember(twin, choices[id(layer)])
    if calibration_data is not None:
        _compare(model, converted, calibration_data)
    elif dtype != "float32":
        logger.info("%s: calibration_data= tells how much %s blocks change the outputs", model.name, dtype)
    return converted


def differences_of(model):
    """The `OutputDifference`s that `convert()` found for a model that it returned: a tuple, empty without data."""
    return _differences.get(model, ())


def is_graph(model):
    """Whether a `keras.Model` is Sequential or Functional, and not a subclass with a `call()` of its own."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def leaves(model):
    """The layers of a model that are converted or copied as a whole, each once.

    Raises:
        ValueError: if it is a subclassed model, or has one in it.
    """
    return list({id(leaf): leaf for leaf, _ in pairs(model, model)}.values())


def _check_arguments(model, dtype, product_dtype, min_sparsity, time_steps):
    check_layer(model)
    check_dtypes(dtype, product_dtype, name="dtype")
    check_measuring(min_sparsity, time_steps)
    if not model.built:
        raise ValueError(
            f"{model.name!r} is not built, so it has no weights to convert. Train it, load it or call it once."
        )


def check_measuring(min_sparsity, time_steps):
    """Raises `ValueError` for arguments of `convert()` that are out of range."""
    if min_sparsity is not None and not 0 <= min_sparsity < 1:
        raise ValueError(f"`min_sparsity` is a fraction in [0, 1). Received: min_sparsity={min_sparsity!r}.")
    if not _is_count(time_steps):
        raise ValueError(f"`time_steps` must be a positive integer. Received: time_steps={time_steps!r}.")


def _check_graph(model):
    if not is_graph(model):
        raise ValueError(
            f"convert() takes Sequential and Functional models and layers. Received: {type(model).__name__} "
            f"{model.name!r}, a subclass of keras.Model, whose call() cannot be rewritten. Build it with the "
            "functional API, or call convert() on its layers and put them in their place."
        )


def batch_sizes(batch_size):
    """`batch_size` as a tuple of different integers."""
    if batch_size is None:
        return BATCH_SIZES
    sizes = tuple(batch_size) if isinstance(batch_size, (tuple, list)) else (batch_size,)
    if not sizes or not all(_is_count(n) for n in sizes):
        raise ValueError(
            "`batch_size` must be a positive integer or a tuple of them, the batch sizes that the model will run at. "
            f"Received: batch_size={batch_size!r}. Example: batch_size=(1, 16)."
        )
    return tuple(dict.fromkeys(sizes))


def _is_count(n):
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def _choices(model, chooser):
    """The `Choice` for each layer that holds no others: dict by the id of the layer."""
    layers = leaves(model)
    slow = chooser.batch_sizes and chooser.min_sparsity is None and sum(map(has_twin, layers)) >= _MANY_LAYERS
    progress = keras.utils.Progbar(len(layers)) if slow else None
    choices = {}
    for leaf in layers:
        choice = choices[id(leaf)] = chooser.choose(leaf)
        if progress is not None:
            progress.add(1)
        if has_twin(leaf):
            logger.info("%s: %s", leaf.name, choice.note() or "converted")
    return choices


def _nothing_gained(model, choices):
    """Tells that no layer of a model is converted: a warning if dense ones are faster, an error if none is sparse."""
    if any(choice.times for choice in choices):
        logger.warning(
            "%s: every layer is faster dense on this machine, so nothing is converted. tf_blocksparse.report() of the "
            "converted model has the times; min_sparsity=0 converts all the same.",
            model.name,
        )
        return
    raise ValueError(
        f"Nothing in {model.name!r} can be converted: no Dense, Embedding, SimpleRNN, GRU or LSTM layer has "
        "enough zero blocks to gain. Prune first: tf_blocksparse.prune_blocks(model, ...). "
        "tf_blocksparse.report(model) says why for each weight; min_sparsity=0 converts all the same."
    )


def _compare(model, converted, data):
    _differences[converted] = output_differences(model, converted, data)
    for difference in _differences[converted]:
        logger.info("%s: converting changes %s", model.name, difference)


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
    copied = clone_uncompiled(model, lambda layer: _copy(layer, copy_leaf))
    if not copied.built:
        copied.build_from_config(model.get_build_config())
    return copied


def pairs(layer, copied):
    """Yields `(layer, its copy)` for all layers that `convert()` converts or copies as a whole."""
    if isinstance(layer, keras.Model):
        _check_graph(layer)
        for inner, inner_copy in zip(layer.layers, copied.layers, strict=True):
            yield from pairs(inner, inner_copy)
    elif isinstance(layer, PruneBlocks):
        yield from pairs(layer.layer, copied)
    elif isinstance(layer, keras.layers.Bidirectional):
        yield from pairs(layer.forward_layer, copied.forward_layer)
        yield from pairs(layer.backward_layer, copied.backward_layer)
    elif isinstance(layer, keras.layers.TimeDistributed):
        yield from pairs(layer.layer, copied.layer)
    else:
        yield layer, copied


def _convert_layer(layer, choice, dtype, product_dtype):
    """The block-sparse twin of a layer, or a copy of it; no weights yet."""
    if is_twin(layer):
        return copy_twin(layer, dtype, product_dtype)
    if choice.why_dense is not None:
        return plain_copy(layer)
    return make_twin(layer, choice.block_shape, dtype, product_dtype)
