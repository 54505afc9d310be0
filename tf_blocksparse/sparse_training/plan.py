"""Which layers of a model go on in blocks, and why the others do not."""

import dataclasses

import keras

from tf_blocksparse.choice import BATCH_SIZES, Choice
from tf_blocksparse.convert import leaves
from tf_blocksparse.pruning import PruneBlocks, pruned_weights
from tf_blocksparse.pruning.schedule import end_step_of
from tf_blocksparse.pruning.weights import layer_paths, prunable_weights, sublayers
from tf_blocksparse.sparse_training.optimizer_state import why_inexact_for_embeddings
from tf_blocksparse.sparse_training.swap import common_block_shape, lasting_constraint, lasting_regularizer
from tf_blocksparse.twins import why_no_twin_class, why_not_elementwise

_CONTAINERS = (keras.Model, keras.layers.Bidirectional, keras.layers.TimeDistributed, PruneBlocks)


def unfinished(weights):
    """Those of the pruned `PrunableWeight`s that are trained and whose schedule has not ended."""
    return [weight for weight in weights if _is_trained(weight) and not has_ended(weight)]


def has_ended(weight):
    """Whether the schedule of a pruned `PrunableWeight` has ended, so that its mask does not change any more."""
    end_step = end_step_of(weight.pruning.schedule)
    return end_step >= 0 and weight.pruning.step is not None and int(weight.pruning.step) >= end_step


def choose_layers(model, chooser, optimizer, exact):
    """Yields `(layer, Choice)` for every layer of a model that is pruned: whether it goes on in blocks, and why not."""
    held = _held_by_others(model)
    for layer in leaves(model):
        if pruned_weights(layer):
            reason = _why_masked(layer, held) or (_why_inexact(layer, optimizer) if exact else None)
            yield layer, Choice(why_dense=reason) if reason else _choice(layer, chooser)


def _why_inexact(layer, optimizer):
    """Why training would go on differently with `layer` in blocks, in a few words, or None."""
    reason = None
    if isinstance(layer, keras.layers.Embedding):
        reason = why_inexact_for_embeddings(optimizer)
    elif (getattr(getattr(layer, "cell", None), "dropout_mask_count", None) or 1) > 1:
        reason = "with recurrent_dropout Keras drops other inputs for each gate, and in blocks the same for all"
    return reason and f"{reason}; exact=False takes it"


def _choice(layer, chooser):
    choice = chooser.choose_by_gain(layer, common_block_shape(layer))
    if choice.why_dense is None:
        return choice
    return dataclasses.replace(choice, why_dense=choice.why_dense.replace("stays dense", "trains masked"))


def _why_masked(layer, held):
    """Why a pruned layer has to stay as it is, whatever it would gain, in a few words, or None."""
    weights = list(prunable_weights(layer))
    for weight in weights:
        if weight.pruning is not None and not has_ended(weight):
            return f"the schedule of {weight.name} has not ended"
    if id(layer) in held:
        return "it is part of another layer, which may use its weights"
    return why_no_twin_class(layer) or why_not_elementwise(
        (weight.name, lasting_constraint(weight), lasting_regularizer(weight)) for weight in weights
    )


def default_batch_sizes():
    """What is measured at when nothing is known of the batches: Keras's own batch size."""
    return (max(32, *BATCH_SIZES),)


def _is_trained(weight):
    return weight.variable is None or weight.variable.trainable


def _held_by_others(model):
    """Ids of layers that are an attribute of a layer that calls them in a way of its own."""
    places = [place.layer for place in layer_paths(model) if not isinstance(place.layer, _CONTAINERS)]
    return {id(inner) for layer in places for inner in sublayers(layer)}
