"""What TensorFlow Serving needs: clients, the hook, the Dockerfile. No model server is at hand: stand-ins answer."""

import concurrent.futures
import http.server
import json
import re
import subprocess
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import converted
from helpers import ROOT

LABEL = "//tensorflow_serving/custom_ops/blocksparse:block_sparse_ops"
SERVERS_BUILD = """load("x", "y")

SUPPORTED_TENSORFLOW_OPS = if_v2([]) + if_not_v2([
    "@org_tensorflow//tensorflow/contrib:contrib_kernels",
]) + [
    "@org_tensorflow_text//tensorflow_text:ops_lib",
]
"""


@pytest.fixture(scope="module")
def model():
    x = keras.Input((None, 6), name="x")
    return converted(keras.Model(x, layers.Dense(5)(layers.GRU(8, name="gru")(x))))


@pytest.fixture(scope="module")
def loaded(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tagger") / "1"
    bs.export(model, path, signatures={"serve": model, "step": bs.streaming_model(model)}, warmup=True)
    return path, tf.saved_model.load(str(path))


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


@pytest.fixture(scope="module")
def grpc_address(loaded):
    """A gRPC server that answers Predict as a model server does."""
    grpc = pytest.importorskip("grpc")
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            if request.model_spec.name != "tagger":
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(other)")
            function = loaded[1].signatures[request.model_spec.signature_name]
            outputs = function(**{k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()})
            return predict_pb2.PredictResponse(outputs={k: tf.make_tensor_proto(v) for k, v in outputs.items()})

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


def test_grpc_client(grpc_address, model):
    from serving import grpc_client

    stub = grpc_client.stub_of(grpc_address)
    x = normal(2, 4, 6)
    np.testing.assert_allclose(grpc_client.predict(stub, "tagger", {"x": x})["output_0"], model(x), atol=1e-6)
    state = {"gru_state_0": np.zeros((2, 8), "float32")}
    for piece in (x[:, :1], x[:, 1:]):
        answer = grpc_client.predict(stub, "tagger", {"x": piece, **state}, signature="step")
        state = {"gru_state_0": answer["gru_state_0"]}
    np.testing.assert_allclose(answer["output_0"], model(x), atol=1e-6)
    with pytest.raises(Exception, match="Servable not found"):
        grpc_client.predict(stub, "other", {"x": x})


def test_a_server_can_replay_the_warmup_record(grpc_address, loaded):
    from tensorflow_serving.apis import prediction_log_pb2

    from serving import grpc_client

    records = tf.data.TFRecordDataset(str(loaded[0] / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    assert {log.predict_log.request.model_spec.signature_name for log in logs} == {"serve", "serving_default", "step"}
    for log in logs:
        request = log.predict_log.request
        request.model_spec.name = "tagger"
        response = grpc_client.stub_of(grpc_address).Predict(request, 10)
        assert tf.make_ndarray(response.outputs["output_0"]).shape == (1, 5)


@pytest.fixture(scope="module")
def rest_url(loaded):
    """A web server that answers :predict in columns as a model server does, without a name for a single output."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            function = loaded[1].signatures[request["signature_name"]]
            specs = function.structured_input_signature[1]
            if self.path != "/v1/models/tagger:predict" or set(request["inputs"]) != set(specs):
                return self.answer(400, {"error": f"Missing inputs: {sorted(set(specs) - set(request['inputs']))}"})
            outputs = function(**{k: tf.constant(v, specs[k].dtype) for k, v in request["inputs"].items()})
            columns = {k: v.numpy().tolist() for k, v in outputs.items()}
            self.answer(200, {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})

        def answer(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_address[1]}/v1/models/tagger"
    server.shutdown()
    thread.join()
    server.server_close()


def test_rest_client(rest_url, model):
    from serving import rest_client

    x = normal(2, 4, 6)
    np.testing.assert_allclose(rest_client.predict(rest_url, {"x": x}), model(x), atol=1e-6)
    answer = rest_client.predict(rest_url, {"x": x.tolist(), "gru_state_0": [[0.0] * 8] * 2}, "step")
    assert set(answer) == {"output_0", "gru_state_0"}
    with pytest.raises(RuntimeError, match=r"400 .*Missing inputs: \['gru_state_0'\]"):
        rest_client.predict(rest_url, {"x": x}, "step")


def test_the_hook_adds_the_op_once(tmp_path):
    file = tmp_path / "BUILD"
    file.write_text(SERVERS_BUILD)
    for _ in range(2):
        subprocess.run(["sh", str(ROOT / "serving" / "add_op.sh"), str(file)], check=True)
    added = f'SUPPORTED_TENSORFLOW_OPS = ["{LABEL}"] + if_v2([])'
    assert file.read_text() == SERVERS_BUILD.replace("SUPPORTED_TENSORFLOW_OPS = if_v2([])", added)
    file.write_text("nothing")
    result = subprocess.run(["sh", str(ROOT / "serving" / "add_op.sh"), str(file)], capture_output=True, text=True)
    assert result.returncode == 1 and "has no line 'SUPPORTED_TENSORFLOW_OPS" in result.stderr


def test_the_dockerfile_copies_what_the_build_file_names():
    text = (ROOT / "serving" / "Dockerfile").read_text()
    copies = dict(re.findall(r"^COPY ((?!--)\S+) (\S+)$", text, re.M))
    assert all((ROOT / source).exists() for source in copies)
    package = LABEL.split(":")[0].strip("/")
    assert copies["BUILD"] == f"{package}/BUILD"
    assert copies["tf_blocksparse/custom_ops/cc"] == f"{package}/tf_blocksparse/custom_ops/cc"
    build = (ROOT / "BUILD").read_text()
    assert f'name = "{LABEL.split(":")[1]}"' in build
    assert "alwayslink = 1" in build and 'default_visibility = ["//visibility:public"]' in build
    sources = re.findall(r'"(tf_blocksparse/[^"*]+\.cc)"', build)
    assert sources and all(source.startswith("tf_blocksparse/custom_ops/cc/") for source in sources)


def test_ops_use_public_headers_only():
    """What TensorFlow Serving's own tree has under the labels that BUILD names; the GPU's target names more."""
    public = ("absl/", "tensorflow/core/framework/", "tensorflow/core/lib/", "tf_blocksparse/")
    sources = ROOT / "tf_blocksparse" / "custom_ops" / "cc"
    sources = [path for part in ("kernels", "ops") for path in (sources / part).rglob("*.[chi]*")]
    bazel = [path for path in sources if "gpu" not in path.stem.split("_")]
    assert len(bazel) > 50
    for path in bazel:
        for header in re.findall(r'#include "([^"]+)"', path.read_text()):
            assert header.startswith(public), f"{path.name} includes {header}"
