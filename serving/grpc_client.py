"""Asks a model server over gRPC, which carries every dtype and is the faster way for large tensors.

python serving/grpc_client.py localhost:8500 tagger '{"x": [[0.5, 1.0]]}'
"""

import argparse
import json

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(stub, model, inputs, signature="serving_default", timeout=10.0):
    """Outputs of a model for one request.

    Args:
        stub: `PredictionServiceStub` of a channel, which is made once for many requests.
        model: name of the model.
        inputs: dict from input names to arrays, whole batches each, of the dtypes of the signature.
        signature: name of the signature.
        timeout: seconds to wait.

    Returns:
        A dict from output names to arrays.

    Raises:
        grpc.RpcError: if the server cannot answer; its `details()` has the server's own words.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    response = stub.Predict(request, timeout)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def stub_of(address):
    """A `PredictionServiceStub` for `"host:port"`, without encryption."""
    return prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("inputs", type=json.loads, help="JSON: input names with their values")
    parser.add_argument("--dtype", default="float32", help="of the inputs that are numbers")
    parser.add_argument("--signature", default="serving_default")
    options = parser.parse_args()
    arrays = {name: np.asarray(values) for name, values in options.inputs.items()}
    arrays = {k: v if v.dtype.kind in "US" else v.astype(options.dtype) for k, v in arrays.items()}
    for name, values in predict(stub_of(options.address), options.model, arrays, options.signature).items():
        print(name, values.tolist())
