import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from helpers import assert_close, run_python
from tf_blocksparse.blocks import BlockGrid

SERVE = """
import sys
import numpy as np
import tensorflow as tf
library, directory = sys.argv[1:]
tf.load_op_library(library)
served = tf.saved_model.load(directory + "/saved")
np.save(directory + "/y.npy", served.serve(np.load(directory + "/x.npy")).numpy())
assert "tf_blocksparse" not in sys.modules
"""


def language_model(words=60, units=32):
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(words, units)(ids)
    x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(x)
    x = layers.GRU(units, return_sequences=True)(x)
    return keras.Model(ids, layers.Dense(words)(x))


@pytest.fixture(scope="module")
def pruned():
    model = language_model()
    bs.prune_blocks(model, 4, bs.GradualSparsity(0.9, 0, 4))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).integers(0, 60, (8, 5))
    model.fit(x, x, batch_size=2, verbose=0)
    return model


def test_a_fresh_process_with_tensorflow_alone_answers_alike(pruned, tmp_path):
    x = np.random.default_rng(1).integers(0, 60, (3, 7)).astype("int32")
    converted = bs.convert(pruned, measure=False)
    assert bs.export(converted, tmp_path / "saved") == tmp_path / "saved"
    np.save(tmp_path / "x.npy", x)
    run_python(SERVE, bs.ops.library_path(), tmp_path)
    y = np.load(tmp_path / "y.npy")
    np.testing.assert_array_equal(y, converted(x))
    assert_close(y, pruned(x), length=100)


def test_importing_the_package_is_enough_to_load(pruned, tmp_path):
    bs.export(bs.convert(pruned, measure=False), tmp_path / "saved")
    out = run_python(
        "import sys, numpy as np, tensorflow as tf, tf_blocksparse\n"
        "served = tf.saved_model.load(sys.argv[1])\n"
        "print(served.serve(np.zeros((2, 3), 'int32')).shape)",
        tmp_path / "saved",
    )
    assert "(2, 3, 60)" in out


def test_without_the_library_loading_fails_and_names_the_op(pruned, tmp_path):
    bs.export(bs.convert(pruned, measure=False), tmp_path / "saved")
    with pytest.raises(AssertionError, match="Op type not registered 'BlockSparse>"):
        run_python("import sys, tensorflow as tf\ntf.saved_model.load(sys.argv[1])", tmp_path / "saved")


def test_the_saved_model_holds_live_blocks_only(tmp_path):
    grid = BlockGrid((512, 512), 16)
    kept = np.arange(grid.num_blocks).reshape(grid.mask_shape) % 10 == 0
    model = keras.Sequential([keras.Input((512,)), layers.Dense(512)])
    model.layers[0].kernel.assign(np.asarray(grid.expand(kept)) * np.random.default_rng(0).random((512, 512)))
    bs.export(bs.convert(model, measure=False), tmp_path / "saved")
    variables = tmp_path / "saved" / "variables" / "variables"
    stored = {
        name: (shape, tf.train.load_variable(str(variables), name).nbytes)
        for name, shape in tf.train.list_variables(str(variables))
        if "VARIABLE_VALUE" in name
    }
    shapes = sorted(shape for shape, _ in stored.values())
    assert shapes == sorted([[kept.sum(), 16, 16], [kept.sum()], [33], [512]])
    directory = sum(file.stat().st_size for file in (tmp_path / "saved" / "variables").iterdir())
    assert directory <= 0.102 * 4 * 512 * 512 + 4 * 512 + 1024


def test_several_named_inputs_and_outputs(tmp_path):
    inputs = {name: keras.Input((8,), name=name) for name in ("left", "right")}
    kernel = np.where(np.arange(8) < 4, 1.0, 0.0) * np.ones((16, 1))
    joined = layers.Concatenate()([inputs["left"], inputs["right"]])
    model = keras.Model(inputs, {"y": layers.Dense(8, name="y")(joined)})
    model.get_layer("y").kernel.assign(kernel)
    converted = bs.convert(model, block_shape=4, measure=False)
    bs.export(converted, tmp_path / "saved")
    served = tf.saved_model.load(str(tmp_path / "saved"))
    x = {name: np.random.default_rng(0).standard_normal((3, 8)).astype("float32") for name in inputs}
    np.testing.assert_array_equal(served.serve(x)["y"], converted(x)["y"])
    assert set(served.signatures["serving_default"].structured_input_signature[1]) == {"left", "right"}


def test_training_of_a_loaded_saved_model_has_gradients(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(4)])
    model.layers[0].kernel.assign(np.where(np.arange(8) < 4, 1.0, 0.0) * np.ones((8, 1)))
    bs.export(bs.convert(model, block_shape=4, measure=False), tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(loaded.serve(np.ones((2, 8), "float32")))
    gradients = tape.gradient(y, loaded.trainable_variables)
    assert len(gradients) == 4
    assert all(g is not None for g in gradients)


@pytest.mark.parametrize("what", ["pruned", "layer", "not_built", "in_use", "no_model"])
def test_errors(what, pruned, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    calls = {
        "pruned": (lambda: bs.export(pruned, tmp_path / "s"), ValueError, r"still pruned.*convert\(model\)"),
        "layer": (lambda: bs.export(layers.Dense(3), tmp_path / "s"), TypeError, "takes a keras.Model"),
        "not_built": (lambda: bs.export(keras.Sequential([layers.Dense(3)]), tmp_path / "s"), ValueError, "not built"),
        "in_use": (lambda: bs.export(bs.convert(pruned, measure=False), tmp_path / "used"), ValueError, "in use"),
        "no_model": (lambda: bs.export("model", tmp_path / "s"), TypeError, "Keras 3"),
    }
    call, error, message = calls[what]
    with pytest.raises(error, match=message):
        call()
    assert not (tmp_path / "s").exists()
