"""Ranks the blocks of several weights together ([AGP]: sparsity over all layers, not in each)."""

import keras
from keras import ops

from tf_blocksparse.pruning.schedule import updated_mask
from tf_blocksparse.pruning.weights import pruned_weights


class GlobalRanking:
    """Weights that share one sparsity: the schedule decides over all their blocks at once.

    Every constraint asks for its mask after the optimizer has updated all variables. The first one to ask in a step
    of the schedule makes the masks of all; the others take theirs.

    Args:
        weights: list of built `PrunableWeight` with one schedule; linked by this.
    """

    def __init__(self, weights):
        self._members = [(weight.pruning, weight.variable) for weight in weights]
        self._sizes = [constraint.grid.num_blocks for constraint, _ in self._members]
        self._schedule = self._members[0][0].schedule
        self._kept = keras.Variable(ops.ones(sum(self._sizes), "bool"), dtype="bool", trainable=False)
        self._made_at = keras.Variable(-1, dtype="int64", trainable=False)
        for constraint, _ in self._members:
            constraint.global_ranking = self

    def updated_mask(self, constraint, due, step):
        """The new `block_mask` of a member; unchanged unless `due`."""
        first = ops.logical_and(due, ops.not_equal(ops.convert_to_tensor(self._made_at), step))
        kept = ops.cond(first, lambda: self._rank(step), lambda: ops.convert_to_tensor(self._kept))
        self._kept.assign(kept)
        self._made_at.assign(ops.where(first, step, ops.convert_to_tensor(self._made_at)))
        position = next(i for i, (member, _) in enumerate(self._members) if member is constraint)
        start = sum(self._sizes[:position])
        mine = kept[start : start + self._sizes[position]]
        mask = ops.convert_to_tensor(constraint.block_mask)
        return ops.where(due, ops.logical_and(mask, ops.reshape(mine, mask.shape)), mask)

    def _rank(self, step):
        scores = ops.concatenate([_scores(constraint, variable) for constraint, variable in self._members])
        masks = [ops.reshape(ops.convert_to_tensor(constraint.block_mask), -1) for constraint, _ in self._members]
        one_row = (1, sum(self._sizes))
        kept = updated_mask(
            self._schedule, ops.reshape(scores, one_row), ops.reshape(ops.concatenate(masks), one_row), step
        )
        return ops.reshape(kept, -1)


def _scores(constraint, variable):
    """Scores of a weight's blocks in one row; the highest is infinite, so that every weight keeps a block."""
    w = variable if constraint.inner is None else constraint.inner(variable)
    scores = ops.reshape(constraint.scores(ops.convert_to_tensor(w)), -1)
    best = ops.equal(ops.arange(scores.shape[0]), ops.cast(ops.argmax(scores), "int32"))
    return ops.where(best, float("inf"), scores)


def link_ranking(model):
    """Links the weights of a model whose blocks are ranked over all layers, after it was loaded or cloned.

    `prune_blocks(model, ..., ranking="global")` does it by itself, and loading weights into that model keeps it.
    A model from `keras.models.load_model()` has its masks and steps, but not which weights are ranked together.

    Args:
        model: a built model or layer that was pruned with `ranking="global"`.

    Returns:
        `model`, the same object.

    Raises:
        ValueError: if it has no such weights, or they are not built.
    """
    groups = {}
    for weight in pruned_weights(model):
        if weight.pruning.ranking == "global":
            groups.setdefault(repr(weight.pruning.get_config()["schedule"]), []).append(weight)
    if not groups:
        raise ValueError(
            f'Nothing in {model.name!r} is ranked over all layers: prune_blocks(model, ..., ranking="global").'
        )
    for weights in groups.values():
        _check_built(weights)
        GlobalRanking(weights)
    return model


def _check_built(weights):
    missing = [weight.path for weight in weights if weight.variable is None]
    if missing:
        raise ValueError(
            f"Blocks can only be ranked over weights that exist. Not built yet: {', '.join(missing)}. Call the "
            "model once before."
        )
    for weight in weights:
        weight.pruning.build_for(weight.variable)
