"""Which weights of a model `prune_blocks()` prunes, and with which blocks and schedule."""

import dataclasses
import logging

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.pruning.sublayer_constraints import is_attention
from tf_blocksparse.pruning.weights import (
    KINDS,
    PrunableWeight,
    layer_paths,
    named_weights,
    prunable_weights,
    weights_with_constraint,
)

logger = logging.getLogger("tf_blocksparse")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A weight that will be pruned, and how."""

    weight: PrunableWeight
    gates: int
    block_shape: tuple
    schedule: object


def choose(layer_or_model, block_shape, schedule, include, exclude, weights):
    """What to prune and how; the arguments are those of `prune_blocks()`.

    Returns:
        list of `Choice`, not empty.

    Raises:
        ValueError: if nothing is left to prune, a weight is pruned already, or an argument names nothing.
    """
    _check_attention_is_built(layer_or_model)
    candidates = [(weight, weight.gates) for weight in prunable_weights(layer_or_model)]
    candidates += _named(layer_or_model, weights)
    _check_keys("schedule", schedule, candidates)
    _check_keys("block_shape", block_shape, candidates)
    choices, skipped = [], []
    for weight, gates in candidates:
        chosen = _look_up(schedule, weight), _look_up(block_shape, weight)
        reason = _reason_to_skip(weight, chosen, include, exclude)
        if reason:
            skipped.append((weight.path, reason))
        else:
            choices.append(Choice(weight, gates, canonical_block_shape(chosen[1]), chosen[0]))
    skipped += [(w.path, w.problem) for w in weights_with_constraint(layer_or_model) if w.problem]
    _check_choices(layer_or_model, choices, skipped, include, exclude)
    for choice in choices:
        logger.info("pruned: %s in %d x %d blocks", choice.weight.path, *choice.block_shape)
    for path, reason in skipped:
        logger.info("left alone: %s: %s", path, reason)
    return choices


def _reason_to_skip(weight, chosen, include, exclude):
    if include is not None and not weight.matches(include):
        return "not in `include`"
    if exclude is not None and weight.matches(exclude):
        return "in `exclude`"
    return "no schedule or block shape for it" if None in chosen else None


def _check_choices(layer_or_model, choices, skipped, include, exclude):
    """Raises when there is nothing to prune or a weight is pruned already."""
    if not choices:
        left_alone = ", ".join(f"{path} ({reason})" for path, reason in skipped) or "nothing"
        raise ValueError(
            f"There is nothing to prune in {type(layer_or_model).__name__} {layer_or_model.name!r} with "
            f"include={include!r}, exclude={exclude!r}. Left alone: {left_alone}. Kernels of layers such as "
            "Dense, Embedding, LSTM, GRU or Conv2D can be pruned, and weights of custom layers that `weights` names. "
            "An empty model must be given its layers first."
        )
    for choice in choices:
        if choice.weight.pruning is not None:
            raise ValueError(
                f"{choice.weight.path} is pruned already, with block_shape={choice.weight.pruning.block_shape}. Call "
                "strip_pruning() first, or leave the layer out with `exclude`."
            )


def _named(layer_or_model, weights):
    """`(weight, gates)` for the weights of custom layers that the caller names."""
    patterns = [weights] if isinstance(weights, str) else weights or []
    patterns = patterns if isinstance(patterns, dict) else dict.fromkeys(patterns, 1)
    known = {id(weight.variable) for weight in prunable_weights(layer_or_model)}
    found = []
    for pattern, gates in patterns.items():
        matched = named_weights(layer_or_model, pattern)
        if not matched:
            raise ValueError(
                f"No weight of {layer_or_model.name!r} is named {pattern!r}. Received: weights={weights!r}; expected "
                "names of variables that are attributes of their layer, as in 'w' or 'my_layer/w'. A layer that is "
                "not built has no weights yet: call the model once before."
            )
        for weight in matched:
            if weight.problem:
                raise ValueError(f"{weight.path} cannot be pruned: {weight.problem}. Received: weights={weights!r}.")
        found += [(weight, gates) for weight in matched if id(weight.variable) not in known]
    return found


def _look_up(given, weight):
    """The entry for a weight in a dict by kind or name pattern, or None; what is no dict is for all."""
    if not isinstance(given, dict):
        return given
    return next((value for key, value in given.items() if key == weight.kind or weight.matches(key)), None)


def _check_keys(name, given, candidates):
    for key in given if isinstance(given, dict) else ():
        if key not in KINDS and not any(weight.matches(key) for weight, _ in candidates):
            raise ValueError(
                f"A `{name}` dict has as keys kinds of weights, {KINDS}, or patterns that fit the name of a layer or "
                f"weight. Received: {key!r}, which fits none of {[weight.path for weight, _ in candidates]}."
            )


def _check_attention_is_built(layer_or_model):
    for place in layer_paths(layer_or_model):
        if is_attention(place.layer) and not place.layer.built:
            raise ValueError(
                f"{place.path or place.layer.name} makes its projections when it is built, so there is nothing to "
                "prune in it yet. Call the model once, or give it an Input, before prune_blocks()."
            )
