"""`prune_blocks()`: puts the pruning constraint on weights."""

import copy

import keras

from tf_blocksparse.blocks import canonical_block_shape, check_score
from tf_blocksparse.pruning.constraint import BlockPruningConstraint
from tf_blocksparse.pruning.schedule import check_schedule, check_step
from tf_blocksparse.pruning.weights import KINDS, PRUNABLE, prunable_weights
from tf_blocksparse.regularizers import BlockGroupLasso


def prune_blocks(
    layer_or_model,
    block_shape=(4, 4),
    schedule=None,
    score="max",
    include=None,
    exclude=None,
    group_lasso=None,
    train_steps=None,
):
    """Makes the weights of a layer or model become block-sparse while it trains.

    Works in place, on the kernels of `Dense`, `Embedding`, `SimpleRNN`, `GRU` and `LSTM`, alone or inside
    `Bidirectional`, other wrappers and models; biases and all other layers stay as they are. Nothing changes
    in how the model is compiled, trained, saved or summarised, and no callback is needed: after every optimizer
    step the dropped blocks are exactly zero, and they stay zero.

    Call it before the layer is used in training, or at any time on a whole model.

    Args:
        layer_or_model: a `keras.layers.Layer` or `keras.Model`, built or not.
        block_shape: `(height, width)` of a block in the kernel seen as `[in, out]`, or an int for square ones.
            Any size: edge blocks may be smaller. In a recurrent layer the grid is laid on each gate's matrix.
        schedule: a `GradualSparsity`, a `ThresholdRamp` or a TFMOT `PruningSchedule`; or a dict that gives one
            for each kind of weight: `"recurrent"`, `"linear"` (all other kernels) and `"embedding"`. Kinds that
            the dict leaves out are not pruned.
        score: `"max"` (the paper's), `"mean"` or `"l2"`: how |w| of a block becomes its score.
        include: prune only these: a layer, a name pattern such as `"lstm_*"`, a function of a layer that returns
            a bool, or a list of these. None: all.
        exclude: leave these alone, in the same terms.
        group_lasso: float, factor of a `BlockGroupLasso` on the same blocks while the schedule runs: the paper's
            GLP. None: none.
        train_steps: int, optimizer steps that the training will take. When given, a schedule that would
            end after training does is refused.

    Returns:
        `layer_or_model`, the same object.

    Raises:
        TypeError: if it is no Keras 3 layer or model, or the schedule is none.
        ValueError: if there is nothing to prune, a weight is pruned already, or an argument is out of range.

    Example:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> schedule = GradualSparsity(0.9, begin_step=0, end_step=200, frequency=10)
    >>> prune_blocks(model, block_shape=(4, 4), schedule=schedule) is model
    True

    Reference:
        [BSR] section 3; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    check_layer(layer_or_model)
    block_shape = canonical_block_shape(block_shape)
    schedules = _schedules_by_kind(schedule, train_steps)
    check_score(score)
    lasso = None if group_lasso is None else BlockGroupLasso(group_lasso, block_shape)
    for weight in _select(layer_or_model, schedules, include, exclude):
        constraint = BlockPruningConstraint(
            copy.copy(schedules[weight.kind]), block_shape, weight.gates, score, inner=weight.constraint
        )
        if weight.variable is not None:
            constraint.build(weight.variable.shape)
        weight.constraint = constraint
        if lasso is not None:
            weight.regularizer = BlockGroupLasso(lasso.factor, block_shape, weight.gates, inner=weight.regularizer)
    forget_traced_functions(layer_or_model)
    return layer_or_model


def pruned_weights(layer_or_model):
    """The `PrunableWeight`s that `prune_blocks()` was called on."""
    return [
        weight for weight in prunable_weights(layer_or_model) if isinstance(weight.constraint, BlockPruningConstraint)
    ]


def check_layer(layer_or_model):
    """Raises `TypeError` unless it is a Keras 3 layer or model."""
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise TypeError(
            "Expected a Keras 3 layer or model (keras.layers.Layer, keras.Model). Received: "
            f"{layer_or_model!r} of type {type(layer_or_model).__module__}.{type(layer_or_model).__name__}. "
            "Layers of tf_keras (Keras 2) have to be rebuilt with `import keras`."
        )


def _schedules_by_kind(schedule, train_steps):
    if schedule is None:
        raise ValueError(
            "`schedule` is missing. Example: schedule=tf_blocksparse.GradualSparsity(0.9, begin_step=0, end_step=1000)."
        )
    by_kind = schedule if isinstance(schedule, dict) else dict.fromkeys(KINDS, schedule)
    unknown = sorted(set(by_kind) - set(KINDS))
    if unknown or not by_kind:
        raise ValueError(f"A `schedule` dict has the keys {KINDS}. Received: {sorted(by_kind)}.")
    for one in by_kind.values():
        check_schedule(one)
        if train_steps is not None and one.end_step > check_step("train_steps", train_steps):
            raise ValueError(
                "The schedule ends after training: its last step is "
                f"end_step={one.end_step}, but training takes train_steps={train_steps}. End the schedule "
                "sooner or train longer."
            )
    return by_kind


def _select(layer_or_model, schedules, include, exclude):
    """The weights to prune; raises when there are none or one is pruned already."""
    weights = [
        weight
        for weight in prunable_weights(layer_or_model)
        if weight.kind in schedules
        and (include is None or weight.leaf.matches(include))
        and (exclude is None or not weight.leaf.matches(exclude))
    ]
    if not weights:
        raise ValueError(
            f"There is nothing to prune in {type(layer_or_model).__name__} {layer_or_model.name!r} with "
            f"include={include!r}, exclude={exclude!r} and schedules for {sorted(schedules)}. Layers with "
            f"prunable weights: {', '.join(sorted(cls.__name__ for cls in PRUNABLE))} and their RNN layers. An "
            "empty model must be given its layers first."
        )
    for weight in weights:
        if isinstance(weight.constraint, BlockPruningConstraint):
            raise ValueError(
                f"{weight.path} is pruned already, with block_shape={weight.constraint.block_shape}. Call "
                "strip_pruning() first, or leave the layer out with `exclude`."
            )
    return weights


def forget_traced_functions(layer_or_model):
    """A train step that Keras has traced would go on without the new constraints."""
    if isinstance(layer_or_model, keras.Model):
        layer_or_model.train_function = None
