"""`strip_pruning()`: takes the pruning constraint off weights again."""

import logging

import keras

from tf_blocksparse.cloning import clone_uncompiled
from tf_blocksparse.pruning.optimizers import warn_about_optimizer, zero_dropped_blocks
from tf_blocksparse.pruning.prune import check_layer, forget_traced_functions
from tf_blocksparse.pruning.schedule import end_step_of
from tf_blocksparse.pruning.sublayer_constraints import forget_constraints, is_attention
from tf_blocksparse.pruning.weights import layer_paths, pruned_weights
from tf_blocksparse.pruning.wrapper import PruneBlocks
from tf_blocksparse.regularizers import WhilePruning

logger = logging.getLogger("tf_blocksparse")


def strip_pruning(layer_or_model):
    """Takes the pruning machinery off and leaves a plain Keras model with its zeros.

    Weights are masked once more, so blocks that an optimizer brought back at the end of training (averaged
    weights: `use_ema=True`) are zero again. The constraints and regularizers that the weights had before are
    put back.

    Args:
        layer_or_model: what `prune_blocks()` was called on.

    Returns:
        `layer_or_model`, the same object. Only if layers were wrapped by hand in `PruneBlocks`: what is inside
        the wrapper, or a new, uncompiled model without wrappers, which shares the layers and their weights.

    Layers that have gone on in blocks (`sparsify_training()`) have no pruning machinery any more: they stay.

    Raises:
        ValueError: if nothing in it is pruned, or was and has gone on in blocks.
    """
    check_layer(layer_or_model)
    weights = pruned_weights(layer_or_model)
    # Block-sparse layers are known by what they have: their classes are above this package.
    if not weights and not any(hasattr(place.layer, "num_blocks") for place in layer_paths(layer_or_model)):
        raise ValueError(
            f"Nothing is pruned in {layer_or_model.name!r}: strip_pruning() takes what prune_blocks() was "
            "called on, once."
        )
    warn_if_unfinished(weights)
    warn_about_optimizer(layer_or_model, averages=False)
    for weight in weights:
        zero_dropped_blocks(weight)
    detach(layer_or_model)
    return _without_wrappers(layer_or_model)


def detach(layer_or_model):
    """Puts back the constraints and regularizers that the weights had before; leaves the values alone."""
    for weight in pruned_weights(layer_or_model):
        weight.constraint = weight.pruning.inner
        if isinstance(weight.regularizer, WhilePruning):
            weight.regularizer = weight.regularizer.inner
    for place in layer_paths(layer_or_model):
        if is_attention(place.layer):
            forget_constraints(place.layer)
    forget_traced_functions(layer_or_model)


def warn_if_unfinished(weights):
    """Logs a warning when training stopped before the schedule of a weight had ended."""
    for weight in weights:
        steps = 0 if weight.pruning.step is None else int(weight.pruning.step)
        end_step = end_step_of(weight.pruning.schedule)
        if steps < end_step:
            logger.warning(
                "%s: the pruning schedule ends at step %d, but only %d steps were trained. Its sparsity is not "
                "the final one: train longer or end the schedule sooner. A loop of your own has to give the "
                "optimizer the Keras variables of the model, not their tf.Variables, for pruning to happen.",
                weight.path,
                end_step,
                steps,
            )
            return


def _without_wrappers(layer_or_model):
    if isinstance(layer_or_model, PruneBlocks):
        return layer_or_model.layer
    if not isinstance(layer_or_model, keras.Model) or not any(
        isinstance(layer, PruneBlocks) for layer in layer_or_model.layers
    ):
        return layer_or_model
    return clone_uncompiled(layer_or_model, lambda layer: layer.layer if isinstance(layer, PruneBlocks) else layer)
