"""`export()`: a SavedModel of a converted model."""

import contextlib
import pathlib

import keras
import tensorflow as tf

from tf_blocksparse.custom_ops import implementation
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.prune import check_layer
from tf_blocksparse.saved_model import CUSTOM_OP_PREFIX, write_grids
from tf_blocksparse.signatures import signature_of
from tf_blocksparse.warmup import check_warmup, write_warmup
from tf_blocksparse.weight_reports import sparse_weights_by_path


def export(model, path, portable=False, signatures=None, resources=(), warmup=False):
    """Writes a SavedModel that holds the stored blocks only.

    By default it computes with the custom ops. Whoever loads it needs the op library: `import tf_blocksparse`, or in a
    process that has TensorFlow alone `tf.load_op_library(tf_blocksparse.ops.library_path())` with that path written
    out. With `portable=True` it is made of standard TensorFlow ops and loads wherever TensorFlow does, has the same
    signatures and size and the same outputs within float32 rounding, and is slower: docs/serving.md has measurements.

    Args:
        model: a built `keras.Model`, usually from `convert()`. Layers that are not block-sparse are exported as
            Keras does.
        path: directory to write; must not exist or be empty.
        portable: bool. Use standard TensorFlow ops only.
        signatures: dict from a name to what can be called by it: a Sequential or Functional `keras.Model`; a
            `tf.function` with an `input_signature`; or a tuple of a callable and the list of its arguments'
            `tf.TensorSpec`. The first is `serving_default` as well, unless one has that name. None: the model, as
            `serve`. Float16 and bfloat16 inputs and outputs of a Keras model are float32 in its signature, as JSON
            has no other.
        resources: other trackable objects that signatures use, such as tables of a `tf.lookup`. Variables, and the
            tables of Keras layers in models, are found without.
        warmup: write a warmup record, `assets.extra/tf_serving_warmup_requests`, with which TensorFlow Serving
            computes every signature once when it loads the model: it then refuses to load what it cannot compute,
            and the first request is as fast as the others. True: of zeros and empty strings, with 1 for unknown
            dimensions. Or a dict from the input names of `serving_default` to arrays, for that signature alone.
            Needs tensorflow-serving-api; where it is missing, the log says so and nothing is written.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        TypeError: if `model` is no Keras model or a signature is none.
        ValueError: if a model is not built, or still pruned, `path` has files in it, a signature has unknown inputs,
            `portable` cannot be had, or a signature cannot be computed with the warmup inputs.

    Example:

    >>> export(convert(model), "served/1")
    >>> served = tf.saved_model.load("served/1")
    >>> served.serve(inputs)
    """
    _check(model, signatures)
    given = {"serve": model} if signatures is None else signatures
    checked = {name: signature_of(name, value) for name, value in given.items()}
    models = [model, *(value for value in given.values() if isinstance(value, keras.Model))]
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`path` must be new or an empty directory. Received: {path}, which is in use.")
    check_warmup(warmup)
    with implementation.standard_ops() if portable else contextlib.nullcontext():
        traced = {name: signature.trace() for name, signature in checked.items()}
        if portable:
            _check_portable(traced)
        _write(models, traced, resources, str(path))
    write_grids({name: weight for m in models for name, weight in sparse_weights_by_path(m).items()}, path)
    if warmup is not False:
        write_warmup(path, warmup)
    return path


def _check(model, signatures):
    check_layer(model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"export() takes a keras.Model. Received: {type(model).__name__} {model.name!r}. Put the layer into a "
            "model first."
        )
    if not model.built:
        raise ValueError(f"{model.name!r} is not built, so its inputs are unknown. Call it once.")
    if signatures is not None and not (isinstance(signatures, dict) and signatures):
        raise TypeError(
            "`signatures` must be a dict from names to models or functions, with one at least. Received: "
            f"{signatures!r}."
        )
    for exported in [model, *(value for value in (signatures or {}).values() if isinstance(value, keras.Model))]:
        if pruned_weights(exported):
            raise ValueError(
                f"{exported.name!r} is still pruned: its weights are stored in full. Export what "
                "tf_blocksparse.convert(model) returns, or tf_blocksparse.strip_pruning(model) for a dense SavedModel."
            )


def _check_portable(traced):
    """Refuses functions with custom ops in them, which were traced before and are only called here."""
    for name, function in traced.items():
        graph = function.get_concrete_function().graph.as_graph_def()
        nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
        custom = sorted({node.op for node in nodes if node.op.startswith(CUSTOM_OP_PREFIX)})
        if custom:
            raise ValueError(
                f"The signature {name!r} cannot be portable: it calls {', '.join(custom)} itself, or a tf.function "
                "that was traced with it before. Call the layers from plain Python functions, which are traced anew."
            )


def _write(models, traced, resources, path):
    """Writes the SavedModel that `model.export()` would, but each variable once; Keras 3.15 stores all twice."""
    archive = keras.export.ExportArchive()
    for name, function in traced.items():
        archive.add_endpoint(name, function)
    for name in ("variables", "trainable_variables", "non_trainable_variables"):
        of_models = {id(v): v.value for model in models for v in getattr(model, name)}
        archive.add_variable_collection(name, list(of_models.values()))
    for resource in (*_tables(models), *resources):
        archive.track(resource)
    archive.write_out(path, verbose=False)


def _tables(models):
    """The look-up tables of preprocessing layers, which are no variables."""
    found = [node for model in models for node in tf.train.TrackableView(model).descendants()]
    return [node for node in found if isinstance(node, tf.saved_model.experimental.TrackableResource)]
