"""SavedModels that earlier versions wrote still load, and answer as they did."""

import base64
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse  # noqa: F401  registers the ops

FILES = sorted(pathlib.Path(__file__).parent.glob("saved_model_*.json"))


def test_there_is_one():
    assert FILES
    assert all(file.stat().st_size < 20_000 for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_loads_and_answers_as_then(file, tmp_path):
    golden = json.loads(file.read_text())
    archive = base64.b64decode("".join(golden["saved_model.tar.xz"]))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    y = loaded.signatures["serving_default"](ids=tf.constant(golden["ids"], tf.int32))["output_0"]
    assert np.ptp(golden["outputs"]) > 0.001
    np.testing.assert_allclose(y, golden["outputs"], rtol=1e-4, atol=2e-5)
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    ops = {node.op for function in graph.library.function for node in function.node_def}
    expected = golden.get("ops", ["Gather", "MatMul", "LowPrecisionMatMul"])  # the first file says none
    assert {f"BlockSparse>{op}" for op in expected} <= ops
