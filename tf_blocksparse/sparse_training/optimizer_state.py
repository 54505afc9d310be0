"""What an optimizer remembers of its variables, when some of them are exchanged.

Keras's optimizers keep a list of variables for each thing they remember, one for each trainable variable. So what
belongs to what is found without knowing the optimizer: every attribute that is such a list.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

# Each element is updated by itself, so the elements of some blocks are updated as they would be in the whole matrix.
ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
    keras.optimizers.ScheduleFreeAdamW,
)
_NOT_SLOTS = ("_variables", "_trainable_variables")


@dataclasses.dataclass(frozen=True)
class Move:
    """Where values of a variable go.

    Attributes:
        variable: the new `keras.Variable`.
        cut: function from an array of the old variable's shape to one of the new variable's.
    """

    variable: keras.Variable
    cut: Callable


def why_inexact(optimizer):
    """Why training goes on differently with the live blocks alone, in a few words; None if it does not."""
    optimizer = _inner(optimizer)
    if optimizer is None:
        return None
    for name in ("clipnorm", "global_clipnorm"):
        if getattr(optimizer, name, None) is not None:
            return f"{name} clips by a norm that counts the gradients of dropped blocks, too"
    if type(optimizer) not in ELEMENTWISE:
        return f"{type(optimizer).__name__} is not known to update each element by itself"
    return None


def why_inexact_for_embeddings(optimizer):
    """Why an `Embedding` trains differently in blocks, in a few words; None if it does not.

    The gradient of a Keras embedding names the rows of a batch one by one, a repeated id repeatedly, and Keras 3.15
    applies what an optimizer does to each of them: it adds up the squares where it should square the sum.
    """
    optimizer = _inner(optimizer)
    linear = isinstance(optimizer, keras.optimizers.SGD) and optimizer.clipvalue is None
    if optimizer is None or linear:
        return None
    return f"{type(optimizer).__name__} treats each look-up of a repeated id by itself, and of blocks their sum"


def why_impossible(optimizer):
    """Why nothing that this optimizer trains can be exchanged, in a few words; None if it can."""
    optimizer = _inner(optimizer)
    if isinstance(optimizer, keras.optimizers.Muon):
        return "Muon turns whole matrices and would train blocks by its AdamW instead"
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return "MultiOptimizer deals the variables out to several optimizers by their names"
    return None


def exchange_variables(optimizer, moves):
    """Makes a built optimizer go on with other variables; it keeps its iterations, learning rate and slots.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, changed in place.
        moves: dict from the `id` of a trainable variable to the list of `Move`s to those that take its place. All
            others stay.

    Raises:
        ValueError: if a slot of an exchanged variable has another shape than the variable, and is none of Adafactor's.
    """
    if optimizer is None or not optimizer.built:
        return
    inner = _inner(optimizer)
    old = list(inner._trainable_variables)
    new = [[m.variable for m in moves[id(v)]] if id(v) in moves else [v] for v in old]
    _check_slots(inner, old, moves)
    before = dict(vars(inner))
    _rebuild(inner, [v for variables in new for v in variables], before)
    firsts = np.cumsum([0, *map(len, new)])
    for name, slots in _slots(before, len(old)).items():
        for i, slot in enumerate(slots):
            taken = vars(inner)[name][firsts[i] : firsts[i + 1]]
            _take(inner, name, i, slot, taken, moves.get(id(old[i])), before)
    _keep_exclusions(inner, old, new)
    if inner is not optimizer:  # a LossScaleOptimizer: its scale and counter belong to no variable
        optimizer._trainable_variables = list(inner._trainable_variables)
        optimizer._trainable_variables_indices = dict(inner._trainable_variables_indices)


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _slots(attributes, count):
    """The lists of slots among the attributes of an optimizer of `count` trainable variables."""
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, list) and name not in _NOT_SLOTS and len(value) == count and any(map(_is_variable, value))
    }


def _is_variable(value):
    return isinstance(value, keras.Variable)


def _check_slots(optimizer, old, moves):
    for name, slots in _slots(vars(optimizer), len(old)).items():
        for slot, variable in zip(slots, old, strict=True):
            if id(variable) in moves and slot is not None and slot.shape not in ((), variable.shape):
                if not _is_factor(optimizer, name):
                    raise ValueError(
                        f"{type(optimizer).__name__} keeps {name!r} of shape {slot.shape} for {variable.path} of shape "
                        f"{variable.shape}, and what that means for some of its blocks is unknown. Train with another "
                        "optimizer, or leave the model masked."
                    )


def _rebuild(optimizer, variables, before):
    """Builds the optimizer anew: all slots as Keras makes them, so that saved state is in the order it expects."""
    kept = {id(v) for name, v in before.items() if _is_variable(v) and name in ("_iterations", "_learning_rate")}
    kept = [v for v in before["_variables"] if id(v) in kept]
    tracker = optimizer._tracker
    del optimizer._tracker  # while it is there, lists that are set are tracked
    optimizer._variables, optimizer._trainable_variables = [], []
    store = {"variables": (tracker.config["variables"][0], optimizer._variables)}
    optimizer._tracker = type(tracker)(store)
    for variable in kept:
        optimizer._track_variable(variable)
    optimizer._trainable_variables_indices = {}
    optimizer.built = False
    with keras.name_scope(optimizer.name):
        optimizer.build(variables)
    for name, value in before.items():  # such as Nadam's product
        if _is_variable(value) and vars(optimizer).get(name) is not value:
            vars(optimizer)[name].assign(value)


def _take(optimizer, name, i, slot, taken, moves, before):
    """Copies slot `i` of the list `name` to those in its place."""
    if slot is None:
        return
    if moves is None:
        taken[0].assign(slot)
        return
    for new, move in zip(taken, moves, strict=True):
        if len(slot.shape) == 0:  # a number for the whole variable
            new.assign(slot)
        elif _is_factor(optimizer, name):
            new.assign(_factor(name, before["_r"][i], before["_c"][i], move.cut))
        else:
            new.assign(move.cut(ops.convert_to_numpy(slot)))


def _is_factor(optimizer, name):
    return isinstance(optimizer, keras.optimizers.Adafactor) and name in ("_r", "_c")


def _factor(name, r, c, cut):
    """Adafactor's means over the rows, or columns, of each block, whose product is what it was for the matrix."""
    r, c = ops.convert_to_numpy(r), ops.convert_to_numpy(c)
    mean = r.mean()
    blocks = cut(np.outer(r / mean if mean else r, c).astype(r.dtype))
    return blocks.mean(axis=-1 if name == "_r" else -2)


def _keep_exclusions(optimizer, old, new):
    """Goes on leaving out of weight decay what was left out by `exclude_from_weight_decay(var_list=...)`."""
    excluded = getattr(optimizer, "_exclude_from_weight_decay", set())
    for variable, variables in zip(old, new, strict=True):
        if optimizer._var_key(variable) in excluded:
            excluded.update(map(optimizer._var_key, variables))
    optimizer._exclude_from_weight_decay_cache = {}
