"""`sparsify_training()`: the layers of a pruned model go on training in blocks."""

import contextlib
import logging

import keras

from tf_blocksparse.choice import Chooser, remember
from tf_blocksparse.convert import batch_sizes, check_measuring, is_graph, leaves
from tf_blocksparse.pruning import PruneBlocks, pruned_weights
from tf_blocksparse.pruning.prune import check_layer
from tf_blocksparse.pruning.weights import layer_paths
from tf_blocksparse.sparse_training.in_place import become
from tf_blocksparse.sparse_training.optimizer_state import exchange_variables, why_impossible, why_inexact
from tf_blocksparse.sparse_training.plan import choose_layers, default_batch_sizes, unfinished
from tf_blocksparse.sparse_training.record import keep_record, read_record
from tf_blocksparse.sparse_training.swap import Swap
from tf_blocksparse.sparse_training.weights_of_either_form import accept_weights_of_before
from tf_blocksparse.twins import is_twin

logger = logging.getLogger("tf_blocksparse")


def sparsify_training(
    model, optimizer=None, batch_size=None, time_steps=1, measure=True, min_sparsity=None, exact=True, like=None
):
    """Makes the layers of a pruned model multiply their live blocks alone, forward and backward, as it trains on.

    To be called when the schedules have ended: from then on the same blocks are zero to the end of training, and
    neither they nor what the optimizer remembers of them is needed. `Dense`, `Embedding`, `SimpleRNN`, `GRU` and
    `LSTM` layers become their block-sparse twins, in place: the model, its optimizer, loss and metrics stay the
    objects they are, and training ends with the weights it would have had, within rounding. With `fit`, use the
    callback `SparsifyTraining`, which calls this at the right step.

    A layer stays as it is, masked, if it would not gain by it, if it has no twin, or if a regularizer or constraint
    that outlasts the schedule needs the whole matrix (all but L1, L2 and NonNeg); `report(model)` says why. So does,
    unless `exact=False`, an `Embedding` under an optimizer other than `SGD`: of an id that a batch looks up repeatedly
    Keras adds up the squares of the gradients, where those of blocks are squared when they are added up. And so do
    `GRU` and `LSTM` layers with `recurrent_dropout`, which in blocks drops the same for all gates. What is
    measured is the product and both its gradients; the update of the optimizer, which is over fewer elements, is an
    additional gain. A layer whose schedule waits because it is frozen stays, too.

    Args:
        model: a built Sequential or Functional `keras.Model` that `prune_blocks()` was called on, changed in place. It
            runs without XLA afterwards: the ops have no kernel for it.
        optimizer: the one that trains the model, changed in place. None: the one it is compiled with.
        batch_size: int or tuple of int, examples in a batch to measure at. None: 32.
        time_steps: int, what an unknown dimension of a `Dense` layer's input, such as time, is taken for when it is
            measured.
        measure: bool. False: nothing is measured, and layers of which less than half of the blocks is zero (0.97
            for blocks of less than four elements) stay.
        min_sparsity: float in [0, 1): nothing is measured, and layers of which a smaller share of the blocks is zero
            stay.
        exact: bool. False: optimizers are taken, too, that look at a whole matrix, or at all of them: `clipnorm`,
            `global_clipnorm`, `Lamb`, `Adafactor`, and those of your own. What they look at is the live blocks then.
        like: path of a `.keras` or `.weights.h5` file, or prefix of a `tf.train.Checkpoint`, that is to be loaded next.
            Of the layers those go on in blocks that did in the model that was saved, whether schedules have ended or
            not; none if it was masked. The arguments from `batch_size` to `min_sparsity` are not looked at.

    Returns:
        `model`, the same object. A `tf.function` of your own that trains it has to be made anew.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is not built, subclassed or not pruned, a schedule has not ended, an argument is out of
            range, or the optimizer would not go on as before: see `exact`; `Muon` and `MultiOptimizer` never do.

    Example:

    >>> model.fit(x, y, epochs=4)  # the schedule ends in these
    >>> sparsify_training(model)
    >>> model.fit(x, y, epochs=10, initial_epoch=4)
    >>> model.save_weights("last.weights.h5")

    And in another process, with the same model, pruned and compiled:

    >>> sparsify_training(model, like="last.weights.h5").load_weights("last.weights.h5")

    Reference:
        [BSR] section 7: training sparse models, future work there
    """
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    check_model(model)
    check_optimizer(optimizer, exact)
    chooser = make_chooser(batch_size, time_steps, measure, min_sparsity)
    weights = pruned_weights(model)
    if not weights and not has_twins(model):
        raise ValueError(
            f"Nothing is pruned in {model.name!r}: sparsify_training() takes a model that prune_blocks() was called on."
        )
    if like is not None:
        _swap_layers(model, optimizer, _recorded_swaps(model, like))
        return model
    for weight in unfinished(weights):
        raise ValueError(
            f"The schedule of {weight.path} ends at step {weight.pruning.schedule.end_step}, but only "
            f"{0 if weight.pruning.step is None else int(weight.pruning.step)} steps were trained, so blocks still go. "
            "Call sparsify_training() later, or give fit() the callback tf_blocksparse.SparsifyTraining()."
        )
    choices = list(choose_layers(model, chooser, optimizer, exact))
    with _scope(model):
        swaps = [Swap(layer, choice.block_shape) for layer, choice in choices if choice.why_dense is None]
    _swap_layers(model, optimizer, swaps)
    _tell(model, choices)
    return model


def check_model(model):
    """Raises unless the layers of `model` can be exchanged."""
    check_layer(model)
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a keras.Model. Received: {type(model).__name__} {model.name!r}.")
    if not is_graph(model):
        raise ValueError(
            "Sparse training takes Sequential and Functional models, which Keras can save with other layers in them. "
            f"Received: {type(model).__name__} {model.name!r}, a subclass of keras.Model. Build it with the functional "
            "API, or train it masked."
        )
    if not model.built:
        raise ValueError(f"{model.name!r} is not built, so it has no weights. Give it an Input or call it once.")


def check_optimizer(optimizer, exact):
    """Raises `ValueError` unless `optimizer` can go on with the live blocks alone."""
    impossible = why_impossible(optimizer)
    if impossible:
        raise ValueError(f"Sparse training is not for this optimizer: {impossible}. Train with another one, or masked.")
    inexact = why_inexact(optimizer)
    if inexact and exact:
        raise ValueError(
            f"With this optimizer sparse training would not end with the weights of masked training: {inexact}. "
            "exact=False does it all the same, with the live blocks alone; so does clipvalue= in the place of a norm."
        )


def make_chooser(batch_size=None, time_steps=1, measure=True, min_sparsity=None):
    """The `Chooser` for arguments as of `sparsify_training()`."""
    check_measuring(min_sparsity, time_steps)
    sizes = default_batch_sizes() if batch_size is None else batch_sizes(batch_size)
    return Chooser(
        min_sparsity=min_sparsity, batch_sizes=sizes if measure else (), time_steps=time_steps, training=True
    )


def has_twins(model):
    """Whether layers of `model` are block-sparse already."""
    return any(is_twin(place.layer) for place in layer_paths(model))


def _recorded_swaps(model, path):
    layers = leaves(model)
    with _scope(model):
        return [
            Swap(layers[place], tuple(blocks["block_shape"]), blocks["num_blocks"])
            for place, blocks in read_record(path).items()
            if not is_twin(layers[place])
        ]


def _swap_layers(model, optimizer, swaps):
    moves = {key: value for swap in swaps for key, value in swap.moves.items()}
    with _scope(model):
        accept_weights_of_before(model, moves)
        exchange_variables(optimizer, moves)
    for swap in swaps:
        swap.do()
    if swaps:
        _unwrap(model)
        _forget_functions(model)
    if has_twins(model):
        keep_record(model)


def _tell(model, choices):
    for layer, choice in choices:
        remember(layer, choice)
        logger.info("%s: %s", layer.name, choice.note() or "goes on in blocks")
    if choices and all(choice.why_dense for _, choice in choices):
        logger.warning(
            "%s: no layer gains by training in blocks, so all stay masked; tf_blocksparse.report(model) says why.",
            model.name,
        )


def _scope(model):
    """Where the variables of `model` are made."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _unwrap(model):
    """`PruneBlocks` wrappers with nothing left to prune become what they wrap."""
    for place in list(layer_paths(model)):
        if isinstance(place.layer, PruneBlocks) and not pruned_weights(place.layer):
            become(place.layer, place.layer.layer)


def _forget_functions(model):
    """Functions that Keras has traced would go on with the old layers."""
    if model.jit_compile:
        logger.info("%s: jit_compile is off from now on, the block-sparse ops have no XLA kernel", model.name)
        model.jit_compile = False
    model.train_function = model.test_function = model.predict_function = None
