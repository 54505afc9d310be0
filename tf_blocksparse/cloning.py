"""Copies of Keras models with some of their layers exchanged."""

import keras


def clone_uncompiled(model, clone_function):
    """`keras.models.clone_model()`, but the copy is not compiled.

    Keras copies the optimizer and the loss, too, and fails on a loss that is a plain function.
    """
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, clone_function=clone_function)
    finally:
        model.compiled = compiled
