"""`prune_blocks()`: puts the pruning constraint on weights."""

import copy
import logging

import keras

from tf_blocksparse.blocks import check_score
from tf_blocksparse.pruning.constraint import BlockPruningConstraint, check_ranking
from tf_blocksparse.pruning.global_ranking import link_ranking
from tf_blocksparse.pruning.optimizers import warn_about_optimizer
from tf_blocksparse.pruning.schedule import check_schedule, check_step, end_step_of
from tf_blocksparse.pruning.selection import choose
from tf_blocksparse.regularizers import WhilePruning

logger = logging.getLogger("tf_blocksparse")


def prune_blocks(
    layer_or_model,
    block_shape=(4, 4),
    schedule=None,
    score="max",
    include=None,
    exclude=None,
    weights=None,
    regularizer=None,
    ranking="layer",
    train_steps=None,
    gradient_accumulation_steps=1,
):
    """Makes the weights of a layer or model become block-sparse while it trains.

    Works in place, on every kernel that multiplies a matrix: `Dense`, `EinsumDense`, `Embedding`, the recurrent layers
    and their cells, convolutions (as `[height * width * in, out]`; the pointwise part of separable ones), the
    projections of attention, and custom layers that have a `..._constraint` for a weight; alone or inside wrappers
    and models. Biases, normalisation and depthwise filters stay as they are. Nothing changes in how the model is
    compiled, trained, saved or summarised, and no callback is needed: after every optimizer step the dropped blocks
    are exactly zero, and they stay zero.

    Call it before the layer is used in training, or at any time on a whole model. `report(model)` says what is
    pruned, what is not and why.

    Args:
        layer_or_model: a `keras.layers.Layer` or `keras.Model`, built or not.
        block_shape: `(height, width)` of a block in the kernel seen as `[in, out]`, or an int for square ones.
            Any size: edge blocks may be smaller. In a recurrent layer the grid is laid on each gate's matrix. Or a
            dict of them, as for `schedule`.
        schedule: a schedule of this package or a TFMOT `PruningSchedule`. Or a dict that gives one for each kind of
            weight, `"recurrent"`, `"linear"`, `"embedding"`, `"convolution"`, or for each name pattern; of several
            that fit a weight the first counts, and a weight that none fits is not pruned.
        score: `"max"` (the paper's), `"mean"` or `"l2"`: how |w| of a block becomes its score.
        include: prune only these: a layer, a class of layers, a pattern of names of layers or weights such as
            `"lstm_*"` or `"*/recurrent_kernel"`, a function of a layer that returns a bool, or a list of these. None:
            all.
        exclude: leave these alone, in the same terms.
        weights: names of weights of custom layers to prune as well, which have no `..._constraint`: a pattern of
            their names, as in `"w"` or `"my_layer/w"`, a list of these, or a dict from the pattern to the number of
            gates that lie side by side in the weight. They must exist: the layer must be built.
        regularizer: a `BlockGroupLasso` (the paper's GLP), `keras.regularizers.L1`, `LHalf` or another that acts on
            the pruned weights while their schedule runs. None: none.
        ranking: `"layer"`: every weight reaches the schedule's sparsity. `"global"`: blocks are ranked over all
            weights of a schedule, which reach it together; no weight loses its last block.
        train_steps: int, optimizer steps that the training will take. When given, a schedule that would
            end after training does is refused.
        gradient_accumulation_steps: int, what the optimizer has. Steps are optimizer steps.

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
    check_score(score)
    check_ranking(ranking)
    _check_schedules(schedule, ranking, train_steps)
    regularizer = keras.regularizers.get(regularizer)
    choices = choose(layer_or_model, block_shape, schedule, include, exclude, weights)
    settings = {"score": score, "ranking": ranking, "gradient_accumulation_steps": gradient_accumulation_steps}
    constraints = [_constraint(choice, settings) for choice in choices]
    for choice, constraint in zip(choices, constraints, strict=True):
        choice.weight.constraint = constraint
        if regularizer is not None:
            choice.weight.regularizer = WhilePruning(regularizer, inner=choice.weight.regularizer)
        _warn_if_coarse(choice.weight)
    if ranking == "global":
        link_ranking(layer_or_model)
    forget_traced_functions(layer_or_model)
    warn_about_optimizer(layer_or_model)
    return layer_or_model


def check_layer(layer_or_model):
    """Raises `TypeError` unless it is a Keras 3 layer or model on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise TypeError(
            f"tf_blocksparse works on Keras's TensorFlow backend. Present: {keras.backend.backend()!r}. Set the "
            "environment variable KERAS_BACKEND=tensorflow before keras is imported."
        )
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise TypeError(
            "Expected a Keras 3 layer or model (keras.layers.Layer, keras.Model). Received: "
            f"{layer_or_model!r} of type {type(layer_or_model).__module__}.{type(layer_or_model).__name__}. "
            "Layers of tf_keras (Keras 2) have to be rebuilt with `import keras`."
        )


def forget_traced_functions(layer_or_model):
    """A train step that Keras has traced would go on without the new constraints."""
    if isinstance(layer_or_model, keras.Model):
        layer_or_model.train_function = None


def _constraint(choice, settings):
    """The constraint for a chosen weight, with its state if the weight exists."""
    weight = choice.weight
    constraint = BlockPruningConstraint(
        copy.copy(choice.schedule),
        choice.block_shape,
        choice.gates,
        view=weight.view,
        inner=weight.constraint,
        **settings,
    )
    if weight.variable is not None:
        constraint.build_for(weight.variable)
    return constraint


def _check_schedules(schedule, ranking, train_steps):
    if schedule is None or schedule == {}:
        raise ValueError(
            "`schedule` is missing. Example: schedule=tf_blocksparse.GradualSparsity(0.9, begin_step=0, end_step=1000)."
        )
    for one in schedule.values() if isinstance(schedule, dict) else [schedule]:
        check_schedule(one)
        if ranking == "global" and hasattr(one, "threshold") and getattr(one, "target_sparsity", None) is None:
            raise ValueError(
                'ranking="global" spreads a target sparsity over the weights, but this schedule has none: its '
                f"threshold treats all weights alike already. Received: {type(one).__name__} without target_sparsity."
            )
        if train_steps is not None and end_step_of(one) > check_step("train_steps", train_steps):
            raise ValueError(
                "The schedule ends after training: its last step is "
                f"end_step={one.end_step}, but training takes train_steps={train_steps}. End the schedule "
                "sooner or train longer."
            )


def _warn_if_coarse(weight):
    """Warns when a weight has so few blocks that no number of them is near the target."""
    target, grid = getattr(weight.pruning.schedule, "target_sparsity", None), weight.pruning.grid
    if target is None or grid is None:
        return
    reached = min(round(target * grid.num_blocks), grid.num_blocks - 1) / grid.num_blocks
    if abs(reached - target) > 0.05:
        logger.warning(
            "%s has only %d x %d blocks of %s: its sparsity will be %.3f, which is as near to target_sparsity=%g as "
            "whole blocks come. Use smaller blocks for it, or leave it out with `exclude`.",
            weight.path,
            *grid.mask_shape,
            grid.block_shape,
            reached,
            target,
        )
