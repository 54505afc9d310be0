"""What a SavedModel can be called with: functions and the tensors that they take."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from tf_blocksparse.convert import is_graph

_HALVES = ("float16", "bfloat16")  # which JSON requests cannot carry


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function and what it is traced with.

    Args:
        function: takes and returns tensors, or structures of them.
        specs: list of `tf.TensorSpec`, or of structures of them, one for each argument.
        autograph: bool, whether Python's `if` and `while` on tensors are turned into graph.
    """

    function: Callable
    specs: list
    autograph: bool = True

    def trace(self):
        """A `tf.function` that has been traced, here and now."""
        body = tf.function(self.function, input_signature=self.specs, autograph=self.autograph).get_concrete_function()
        # TensorFlow traces what it saves twice and writes both graphs: let them be calls of the same body.
        function = tf.function(lambda *arguments: body(*arguments), input_signature=self.specs, autograph=False)
        function.get_concrete_function()
        return function


def signature_of(name, given):
    """The `Signature` that a user's entry of that name stands for.

    Args:
        name: str, for messages.
        given: a built Sequential or Functional `keras.Model`; a `tf.function` with an `input_signature`; or a
            callable with a list of its arguments' `tf.TensorSpec`s, as a tuple of two.

    Raises:
        TypeError: if it is none of them.
        ValueError: if its inputs are unknown.
    """
    if isinstance(given, keras.Model):
        return _of_model(given)
    if isinstance(given, Signature):
        return given
    if isinstance(given, tf.types.experimental.PolymorphicFunction):
        if given.input_signature is None:
            raise ValueError(
                f"The signature {name!r} is a tf.function of unknown inputs. Give it an input_signature, as "
                "tf.function(f, input_signature=[tf.TensorSpec([None, 4])])."
            )
        return Signature(given.python_function, list(given.input_signature))
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]) and isinstance(given[1], (list, tuple)):
        return Signature(given[0], list(given[1]))
    raise TypeError(
        f"The signature {name!r} must be a keras.Model, a tf.function with an input_signature, or a tuple of a "
        f"callable and a list of tf.TensorSpec. Received: {given!r}."
    )


def _of_model(model):
    """The call of a model, with its inputs as one argument; what is half precision inside is float32 outside."""
    if not model.built:
        raise ValueError(f"{model.name!r} is not built, so its inputs are unknown. Call it once.")
    if not is_graph(model):
        raise ValueError(
            f"The inputs of {model.name!r}, a subclass of keras.Model, are not recorded. Say what they are: "
            "signatures={'serve': (model, [tf.TensorSpec([None, 4])])}, one spec for each argument of its call()."
        )
    # A tensor or a structure of tensors, just as the model is called.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    dtypes = keras.tree.map_structure(lambda x: keras.backend.standardize_dtype(x.dtype), inputs)
    if isinstance(inputs, dict):
        specs = {name: tf.TensorSpec(x.shape, _outside(x.dtype), name=name) for name, x in inputs.items()}
    else:
        specs = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, _outside(x.dtype), name=x.name), inputs)

    def call(x):
        x = keras.tree.map_structure(lambda value, dtype: _cast(value, dtype), x, dtypes)
        return keras.tree.map_structure(lambda value: _cast(value, _outside(value.dtype)), model(x))

    return Signature(call, [specs], autograph=False)


def _outside(dtype):
    dtype = keras.backend.standardize_dtype(dtype)
    return "float32" if dtype in _HALVES else dtype


def _cast(value, dtype):
    return value if keras.backend.standardize_dtype(value.dtype) == dtype else tf.cast(value, dtype)
