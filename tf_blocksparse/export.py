"""`export()`: a SavedModel of a converted model."""

import pathlib

import keras

from tf_blocksparse.convert import is_graph
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.prune import check_layer


def export(model, path):
    """Writes a SavedModel that holds the stored blocks only and computes with the custom op.

    Whoever loads it needs the op library: `import tf_blocksparse`, or in a process that has TensorFlow alone
    `tf.load_op_library(tf_blocksparse.ops.library_path())` with that path written out.

    Args:
        model: a built `keras.Model`, usually from `convert()`. Layers that are not block-sparse are exported as
            Keras does.
        path: directory to write; must not exist or be empty.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is a subclassed model, not built, or still pruned, or `path` has files in it.

    Example:

    >>> export(convert(model), "served/1")
    >>> served = tf.saved_model.load("served/1")
    >>> served.serve(inputs)
    """
    check_layer(model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"export() takes a keras.Model. Received: {type(model).__name__} {model.name!r}. Put the layer into a "
            "model first."
        )
    if not model.built:
        raise ValueError(f"{model.name!r} is not built, so its inputs are unknown. Call it once.")
    if not is_graph(model):
        raise ValueError(
            f"export() takes Sequential and Functional models. Received: {type(model).__name__} {model.name!r}, a "
            "subclass of keras.Model. Use keras.Model.export(); it needs no more than `import tf_blocksparse`."
        )
    if pruned_weights(model):
        raise ValueError(
            f"{model.name!r} is still pruned: its weights are stored in full. Export what "
            "tf_blocksparse.convert(model) returns, or tf_blocksparse.strip_pruning(model) for a dense SavedModel."
        )
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`path` must be new or an empty directory. Received: {path}, which is in use.")
    _write(model, str(path))
    return path


def _write(model, path):
    """Writes the SavedModel that `model.export()` would, but each variable once; Keras 3.15 stores all twice."""
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", model.__call__, input_signature=_input_signature(model))
    for name in ("variables", "trainable_variables", "non_trainable_variables"):
        archive.add_variable_collection(name, [v.value for v in getattr(model, name)])
    archive.write_out(path, verbose=False)


def _input_signature(model):
    # The inputs are one argument, a tensor or a structure of tensors, just as the model is called.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return [keras.tree.map_structure(lambda x: keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name), inputs)]
