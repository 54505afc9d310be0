"""`prune_once()`: the target sparsity at once, without training."""

import math

from tf_blocksparse.pruning.constant_sparsity import ConstantSparsity
from tf_blocksparse.pruning.prune import check_layer, prune_blocks
from tf_blocksparse.pruning.weights import pruned_weights


def prune_once(
    layer_or_model,
    target_sparsity,
    block_shape=(4, 4),
    score="max",
    include=None,
    exclude=None,
    weights=None,
    ranking="layer",
):
    """Drops the blocks of lowest score of a trained model here and now, without a step of training.

    The accuracy that is lost so is not made up for: what gradual pruning keeps at 90 % sparsity is mostly gone here.
    Use it to see what sizes and times a target and a block shape would give, or go on to train: the dropped blocks
    stay zero in `fit`, as after `prune_blocks()` with a `ConstantSparsity` that has ended, until `strip_pruning()`.

    Args:
        layer_or_model: a built `keras.layers.Layer` or `keras.Model` that is not pruned.
        target_sparsity: float in [0, 1), fraction of the blocks of each weight that become zero; one block of each
            always stays.
        block_shape, score, include, exclude, weights: as of `prune_blocks()`.
        ranking: `"layer"`: each weight reaches the target by itself. `"global"`: blocks are ranked over all weights.

    Returns:
        `layer_or_model`, the same object.

    Raises:
        TypeError: if it is no Keras 3 layer or model.
        ValueError: if it is not built, has nothing to prune or is pruned already, has weights that are not finite, or
            an argument is out of range. It is unchanged then.

    Example:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="dense")])
    >>> _ = prune_once(model, 0.9, block_shape=16)
    >>> int(np.count_nonzero(model.get_layer("dense").kernel))  # 2 of 16 blocks: the nearest to a tenth
    512

    Reference:
        [BSR] section 3, for the score of a block; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    check_layer(layer_or_model)
    if not layer_or_model.built:
        raise ValueError(f"{layer_or_model.name!r} is not built: it has no weights to prune yet. Call it once.")
    schedule = ConstantSparsity(target_sparsity)
    before = {id(weight.variable) for weight in pruned_weights(layer_or_model)}
    prune_blocks(layer_or_model, block_shape, schedule, score, include, exclude, weights, ranking=ranking)
    chosen = [weight for weight in pruned_weights(layer_or_model) if id(weight.variable) not in before]
    problem = next(filter(None, map(_problem, chosen)), None)
    if problem:
        for weight in chosen:
            weight.constraint = weight.pruning.inner
        raise ValueError(problem)
    # All are ranked before any changes: `ranking="global"` looks at all of them.
    for weight, masked in [(weight, weight.pruning(weight.variable)) for weight in chosen]:
        weight.variable.assign(masked)
    return layer_or_model


def _problem(weight):
    """Why a weight cannot be ranked by its values, or None."""
    if weight.variable is None:
        return f"{weight.path} does not exist yet. Call the model once before prune_once()."
    if not math.isfinite(float(abs(weight.matrix()).max(initial=0.0))):
        return f"{weight.path} has values that are not finite, so its blocks cannot be ranked. Was the training sound?"
    return None
