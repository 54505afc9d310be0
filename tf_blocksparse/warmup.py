"""Warmup records: requests that TensorFlow Serving computes when it loads a SavedModel.

A server that lacks a custom op loads a SavedModel that needs it all the same, says that it is available, and fails
every request. With a warmup record it fails when it loads.
"""

import logging

import tensorflow as tf

logger = logging.getLogger("tf_blocksparse")
WARMUP_FILE = "tf_serving_warmup_requests"


def check_warmup(warmup):
    """Refuses what is neither a bool nor a dict of inputs."""
    if not isinstance(warmup, (bool, dict)):
        raise TypeError(
            "`warmup` must be a bool, or a dict from the input names of serving_default to arrays. Received: "
            f"{warmup!r}."
        )


def write_warmup(path, warmup):
    """Writes `assets.extra/tf_serving_warmup_requests` into a SavedModel, or logs why not.

    Args:
        path: `pathlib.Path` of the SavedModel. It is loaded, and tried with the requests.
        warmup: True, or a dict from input names of `serving_default` to arrays.

    Raises:
        ValueError: if a signature cannot be computed with its inputs.
    """
    try:
        from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2
    except ImportError:
        logger.warning("%s: no warmup record, as tensorflow-serving-api is not installed", path)
        return
    signatures = tf.saved_model.load(str(path)).signatures
    names = ["serving_default"] if isinstance(warmup, dict) else sorted(signatures)
    requests = {name: _inputs(name, signatures[name], warmup) for name in names}
    (path / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / "assets.extra" / WARMUP_FILE)) as writer:
        for name, inputs in requests.items():
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=path.parent.name, signature_name=name),
                inputs={key: tf.make_tensor_proto(value) for key, value in inputs.items()},
            )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def _inputs(name, function, warmup):
    """The tensors to compute a signature with, by name, after they were tried."""
    specs = function.structured_input_signature[1]
    if isinstance(warmup, dict):
        if set(warmup) != set(specs):
            raise ValueError(f"`warmup` must have the inputs {sorted(specs)}. Received: {sorted(warmup)}.")
        inputs = {key: tf.convert_to_tensor(warmup[key], spec.dtype) for key, spec in specs.items()}
    else:
        inputs = {key: _blank(spec) for key, spec in specs.items()}
    try:
        function(**inputs)
    except tf.errors.OpError as error:
        raise ValueError(
            f"The signature {name!r} cannot be computed with its warmup inputs, of shapes "
            f"{ {key: tuple(value.shape) for key, value in inputs.items()} }. The SavedModel is written, its warmup "
            "record is not. Give inputs that it takes, as warmup={'input name': array}."
        ) from error
    return inputs


def _blank(spec):
    """Zeros or empty strings, with 1 for each unknown dimension."""
    if spec.shape.rank is None:
        raise ValueError(f"The rank of the input {spec.name!r} is unknown: give warmup={{'input name': array}}.")
    shape = [1 if size is None else size for size in spec.shape]
    return tf.fill(shape, "") if spec.dtype == tf.string else tf.zeros(shape, spec.dtype)
