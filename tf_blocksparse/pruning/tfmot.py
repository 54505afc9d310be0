"""The one place that imports TensorFlow Model Optimization.

Importing it sets `TF_USE_LEGACY_KERAS=1`, after which `tf.keras` is Keras 2 for the whole process and for
its children. Touching `tf.keras` first pins it to Keras 3, and the environment is put back afterwards.
"""

import os

import tensorflow as tf

_VARIABLE = "TF_USE_LEGACY_KERAS"


def _import_tfmot():
    before = os.environ.get(_VARIABLE)
    tf.keras.layers  # noqa: B018  resolves the lazy loader
    try:
        import tensorflow_model_optimization
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return tensorflow_model_optimization


tfmot = _import_tfmot()
