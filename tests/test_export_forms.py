"""Both exports of all kinds of models: loaded where this package was never imported, they answer like Keras."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_blocksparse as bs
from export_cases import CASES
from helpers import run_python

# Loads every SavedModel under a directory and answers its inputs; of portable ones also tells custom ops.
SERVE = """
import pathlib, pickle, sys
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
library, directory = sys.argv[1], pathlib.Path(sys.argv[2])
if library != "none":
    tf.load_op_library(library)
answers = {}
for path in sorted(directory.iterdir()):
    inputs = pickle.loads((path / "inputs.pkl").read_bytes())
    served = tf.saved_model.load(str(path / "saved"))
    proto = saved_model_pb2.SavedModel.FromString((path / "saved" / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    ops = {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    signatures = {k: (f.structured_input_signature[1], f.structured_outputs) for k, f in served.signatures.items()}
    answers[path.name] = {
        "signatures": {
            name: [{k: (s.dtype.name, s.shape.as_list()) for k, s in specs.items()} for specs in pair]
            for name, pair in signatures.items()
        },
        "custom": sorted(op for op in ops if op.startswith("BlockSparse>")),
        "outputs": tf.nest.map_structure(lambda y: y.numpy(), served.serve(inputs)),
    }
assert not any(name.startswith("tf_blocksparse") for name in sys.modules)
pathlib.Path(sys.argv[3]).write_bytes(pickle.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Of Keras by case, and of both exports in fresh processes."""
    root = tmp_path_factory.mktemp("forms")
    keras_answers = {}
    for form in ("custom", "portable"):
        keras.utils.set_random_seed(1)
        for case in CASES:
            model, inputs = case()
            bs.export(model, root / form / case.__name__ / "saved", portable=form == "portable")
            (root / form / case.__name__ / "inputs.pkl").write_bytes(pickle.dumps(inputs))
            tensors = keras.tree.map_structure(tf.convert_to_tensor, inputs)
            keras_answers[form, case.__name__] = keras.tree.map_structure(np.asarray, model(tensors))
    found = {"keras": keras_answers}
    for form, library in (("custom", bs.ops.library_path()), ("portable", "none")):
        run_python(SERVE, library, root / form, root / f"{form}.pkl")
        found[form] = pickle.loads((root / f"{form}.pkl").read_bytes())
    return found


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_both_answer_like_keras(case, answers):
    for form, tolerance in (("custom", 0.0), ("portable", 2e-5)):
        expected = answers["keras"][form, case]
        actual = answers[form][case]["outputs"]
        keras.tree.assert_same_structure(actual, expected)
        for a, e in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
            assert a.dtype == np.float32
            if case == "dynamic_layers":
                tolerance = 2e-6 if form == "custom" else tolerance  # their gates are TensorFlow's ops, which it fuses
            if case == "half_precision":
                tolerance = 1e-2  # one step of bfloat16, which Keras's own ops round to
            np.testing.assert_allclose(a, e.astype("float32"), rtol=tolerance, atol=tolerance)
            assert np.abs(a).max() > 1e-3


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_signatures_are_the_same_and_only_one_has_custom_ops(case, answers):
    custom, portable = answers["custom"][case], answers["portable"][case]
    assert custom["signatures"] == portable["signatures"]
    assert set(custom["signatures"]) == {"serve", "serving_default"}
    assert portable["custom"] == []
    assert bool(custom["custom"]) == (case != "nothing_converted")
    types = [t for pair in custom["signatures"].values() for specs in pair for t, _ in specs.values()]
    assert set(types) <= {"float32", "int32", "string"}  # what a REST request can carry


def test_shapes_stay_unknown_or_static(answers):
    signatures = {case: answers["portable"][case]["signatures"]["serve"] for case in answers["portable"]}
    assert signatures["language_model"] == [
        {"ids": ("int32", [None, None])},
        {"output_0": ("float32", [None, None, 60])},
    ]
    assert signatures["static_shapes"] == [{"x": ("float32", [2, 5, 12])}, {"output_0": ("float32", [2, 7])}]
