"""C++ and C programs that load both exports answer like Keras; built here against the installed TensorFlow."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

import tf_blocksparse as bs
from export_cases import converted

TF_DIR = pathlib.Path(tf.__file__).parent
SHAPE = (3, 5, 24)


def tool(name):
    """As its PyPI package installed it, beside this Python, or on the PATH."""
    beside = pathlib.Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    build = tmp_path_factory.mktemp("build")
    source = pathlib.Path(__file__).parent
    for command in (["-S", source, "-B", build, f"-DTF_DIR={TF_DIR}"], ["--build", build, "--parallel", "2"]):
        result = subprocess.run([tool("cmake"), *command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return {"c++": build / "host_cc", "c": build / "host_c"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Both exports of a recurrent model, an input file, and what Keras answers."""
    root = tmp_path_factory.mktemp("served")
    x = keras.Input((None, SHAPE[2]), name="x")
    y = layers.Bidirectional(layers.LSTM(20, return_sequences=True))(x)
    model = converted(keras.Model(x, layers.Dense(7, activation="relu")(layers.GRU(16, return_sequences=True)(y))))
    data = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    data.tofile(root / "x.bin")
    for form in ("custom", "portable"):
        bs.export(model, root / form, portable=form == "portable")
    return root, np.asarray(model(data))


def operations(model):
    """`(input operation, output operation, output index)` of serving_default."""
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    (x,), (y,) = signature.inputs.values(), signature.outputs.values()
    return x.name.split(":")[0], *y.name.split(":")


def run(programs, language, root, form, library):
    names = operations(root / form) if language == "c" else ()
    arguments = [root / form, library, root / "x.bin", root / "y.bin", *names, *SHAPE]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    (root / "y.bin").unlink(missing_ok=True)
    command = [str(programs[language]), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("language", ["c++", "c"])
@pytest.mark.parametrize("form", ["custom", "portable"])
def test_answers_like_keras(language, form, programs, served):
    root, expected = served
    library = bs.ops.library_path() if form == "custom" else "-"
    result = run(programs, language, root, form, library)
    assert result.returncode == 0, result.stderr
    y = np.fromfile(root / "y.bin", "float32").reshape(expected.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(y).max() > 0.01


@pytest.mark.parametrize("language", ["c++", "c"])
def test_without_the_library_the_missing_op_is_named(language, programs, served):
    result = run(programs, language, served[0], "custom", "-")
    assert result.returncode == 1
    assert re.search("Op type not registered 'BlockSparse>[A-Za-z]+'", result.stderr)
