"""Weights of before the swap for a model of after it.

`EarlyStopping(restore_best_weights=True)`, and whoever else keeps what `get_weights()` returned, may hand a model whole
matrices when it has gone on in blocks meanwhile.
"""

import weakref

import numpy as np

from tf_blocksparse.sparse_training.optimizer_state import Move


def accept_weights_of_before(model, moves):
    """Lets `model.set_weights()` take the weights that it has now when those in `moves` have been exchanged.

    Args:
        model: a `keras.Model`, before its layers are exchanged.
        moves: dict from the `id` of a variable to the list of `Move`s that take its place.
    """
    if moves:
        before = [(tuple(v.shape), moves.get(id(v)) or [Move(v, lambda w: w)]) for v in model.weights]
        earlier = getattr(model, "set_weights", None)
        forms = earlier.forms if isinstance(earlier, _SetWeights) else ()
        model.set_weights = _SetWeights(model, (*forms, before))


class _SetWeights:
    """`set_weights()` of a model that has had other forms.

    Args:
        model: the `keras.Model`.
        forms: tuple of lists of `(shape, moves)`, one for each weight of an earlier form.
    """

    def __init__(self, model, forms):
        self._model = weakref.ref(model)
        self.forms = forms

    def __call__(self, weights):
        model = self._model()
        weights = [np.asarray(w) for w in weights]
        shapes = [w.shape for w in weights]
        for form in self.forms:
            if shapes == [shape for shape, _ in form] and shapes != [tuple(v.shape) for v in model.weights]:
                for w, (_, moves) in zip(weights, form, strict=True):
                    for move in moves:
                        move.variable.assign(move.cut(w))
                return
        type(model).set_weights(model, weights)
