"""What some optimizers do to pruned weights, and the callback that mends it."""

import logging

import keras

from tf_blocksparse.pruning.weights import pruned_weights

logger = logging.getLogger("tf_blocksparse")


class KeepBlocksZero(keras.callbacks.Callback):
    """Zeroes dropped blocks once more when `fit` ends. Only optimizers with `use_ema=True` need it.

    At the end of `fit` Keras overwrites the weights with their averages over time, in which dropped blocks are not
    zero yet. `strip_pruning()` and `convert()` zero them, too.

    Example:

    >>> model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    >>> model.fit(x, y, callbacks=[KeepBlocksZero()])
    """

    def on_train_begin(self, logs=None):
        warn_about_optimizer(self.model, averages=False)

    def on_train_end(self, logs=None):
        for weight in pruned_weights(self.model):
            zero_dropped_blocks(weight)


def zero_dropped_blocks(weight):
    """Sets the blocks of a `PrunableWeight` that were dropped to zero; nothing if it is not built."""
    if weight.variable is not None:
        weight.variable.assign(weight.pruning.masked(weight.variable))


def warn_about_optimizer(model, averages=True):
    """Logs what the optimizer of a compiled model does to pruned weights that its user may not expect.

    Args:
        model: a layer or model; one that is not compiled says nothing.
        averages: bool, whether to warn of averaged weights, which is too late or needless once they are seen to.
    """
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if isinstance(optimizer, keras.optimizers.Ftrl):
        logger.warning(
            "Ftrl sets weights from its sums of gradients and starts them near zero, so that within a few steps the "
            "scores of blocks say little of the weights that were initialised or loaded. Prune with another optimizer."
        )
    if averages and getattr(optimizer, "use_ema", False):
        logger.warning(
            "%s has use_ema=True: at the end of fit() averaged weights bring dropped blocks back. Pass "
            "callbacks=[tf_blocksparse.KeepBlocksZero()] to fit(); strip_pruning() and convert() mend it, too.",
            type(optimizer).__name__,
        )
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    for weight in pruned_weights(model) if accumulated > 1 else ():
        if weight.pruning.gradient_accumulation_steps != accumulated:
            logger.warning(
                "The optimizer accumulates gradients over %d steps, but %s was pruned with gradient_accumulation_steps="
                "%d: its schedule runs %g times as fast. Pass gradient_accumulation_steps=%d to prune_blocks().",
                accumulated,
                weight.path,
                weight.pruning.gradient_accumulation_steps,
                accumulated / weight.pruning.gradient_accumulation_steps,
                accumulated,
            )
            return
