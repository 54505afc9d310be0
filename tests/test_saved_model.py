"""SavedModels read from their files: the numbers of the models that they were made of."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_blocksparse as bs
from export_cases import bfloat16, converted, dynamic_layers, int8, nothing_converted, strings
from helpers import loop_blocks
from tf_blocksparse.blocks import BlockGrid

GRIDS = "assets.extra/tf_blocksparse.json"


def block_sparse_rows(report):
    """What must not depend on where a weight was read: notes tell what was measured."""
    rows = [dataclasses.replace(w, note="") for w in report.weights if w.state == "block-sparse"]
    return {row.path: row for row in rows}


def words():
    """Look-ups and products, in a recurrent layer within another and in one alone."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Bidirectional(layers.SimpleRNN(12, return_sequences=True))(layers.Embedding(30, 16)(ids))
    return converted(keras.Model(ids, layers.Dense(6)(x))), None


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """`(model, path with custom ops, path without)`."""
    model, _ = words()
    path = tmp_path_factory.mktemp("exports")
    twice = (lambda x: 2.0 * x, [tf.TensorSpec([3])])
    bs.export(model, path / "custom", signatures={"serve": model, "twice": twice})
    return model, path / "custom", bs.export(model, path / "portable", portable=True)


@pytest.mark.parametrize(
    "case, portable",
    [(int8, False), (bfloat16, False), (bfloat16, True), (strings, False)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_weights_are_those_of_the_model(case, portable, tmp_path):
    model, _ = case()
    bs.export(model, tmp_path / "1", portable=portable)
    report = bs.report(tmp_path / "1")
    expected = block_sparse_rows(bs.report(model))
    assert expected and block_sparse_rows(report) == expected
    assert report.stored_bytes == bs.report(model).stored_bytes
    assert report.name == str(tmp_path / "1") and "block-sparse" in str(report)


def test_numbers_that_numpy_counts(tmp_path):
    model = keras.Sequential([keras.Input((10,)), layers.Dense(14, name="a"), layers.Dense(6, name="b")])
    bs.prune_once(model, 0.5, (4, 4))
    bs.strip_pruning(model)
    w = model.get_layer("a").kernel.numpy()
    live = sum(w[rows, cols].any() for *_, rows, cols in loop_blocks(BlockGrid((10, 14), (4, 4))))
    bs.export(bs.convert(model, block_shape=4, min_sparsity=0.1), tmp_path / "1")
    contents = bs.saved_model_contents(tmp_path / "1")
    (a,) = [stored for stored in contents.weights if stored.path == "a/kernel"]
    np.testing.assert_array_equal(a.matrix, w)
    assert a.bsr.num_blocks == live == 6
    assert a.stored_bytes == 4 * (live * 16 + live + 4 + 1)  # blocks, indices, indptr of four block columns
    (row,) = [row for row in bs.report(tmp_path / "1").weights if row.path == "a/kernel"]
    assert (row.num_blocks, row.grid, row.matrix_shape) == (6, (3, 4), (10, 14))
    assert row.weight_sparsity == np.mean(w == 0)


def test_signatures_and_ops(exports):
    model, *paths = exports
    custom, portable = map(bs.saved_model_contents, paths)
    for contents in (custom, portable):
        assert block_sparse_rows(bs.report(contents.path)) == block_sparse_rows(bs.report(model))
    assert "BlockSparse>Gather" in custom.custom_ops and custom.needs_op_library
    assert portable.custom_ops == () and not portable.needs_op_library
    assert custom.tensorflow_version == tf.__version__
    assert set(custom.signatures) == {"serve", "serving_default", "twice"}
    assert custom.signatures["serve"] == {
        "inputs": {"ids": ("int32", [None, None])},
        "outputs": {"output_0": ("float32", [None, None, 6])},
    }
    assert custom.signatures["twice"]["outputs"]["output_0"] == ("float32", [3])
    assert custom.bytes_on_disk == sum(f.stat().st_size for f in paths[0].rglob("*") if f.is_file())


@pytest.mark.parametrize("case", [words, int8], ids=lambda case: case.__name__)
def test_block_sparse_models_that_keras_exported(case, tmp_path):
    """There the grid is not written down, but for whole blocks it follows from the variables."""
    model, _ = case()
    model.export(tmp_path / "1", verbose=False)
    assert not (tmp_path / "1" / GRIDS).exists()
    stored = {w.path: w for w in bs.saved_model_contents(tmp_path / "1").weights if w.bsr is not None}
    expected = block_sparse_rows(bs.report(model))
    assert len(stored) == len(expected)
    for path, row in expected.items():
        weight = next(w for name, w in stored.items() if _same(name, path))
        assert "the SavedModel does not say it" in weight.note
        assert (weight.bsr.num_blocks, weight.bsr.grid.block_shape) == (row.num_blocks, row.block_shape)
        assert np.count_nonzero(weight.matrix) == round((1 - row.weight_sparsity) * np.prod(row.shape))


def _same(name, path):
    """Whether a variable of Keras, as in `"lstm/lstm_cell/kernel"`, is the weight `"lstm/kernel"`."""
    parts = name.split("/")
    return "/".join(part for part in parts if "cell" not in part) == path


def test_plain_models_of_keras_and_of_tensorflow(tmp_path):
    model, _ = nothing_converted()
    kernel = model.layers[0].kernel.numpy()
    model.export(tmp_path / "keras", verbose=False)
    module = tf.Module()
    module.w = tf.Variable(np.diag([1.0, 2.0, 0.0]).astype("float32"), name="w")
    module.b = tf.Variable([1.0, 2.0], name="b")
    module.f = tf.function(lambda x: x @ module.w, [tf.TensorSpec([None, 3])])
    tf.saved_model.save(module, str(tmp_path / "module"))
    (row,) = bs.report(tmp_path / "keras").weights  # each variable once, and no vector
    assert (row.state, row.shape, row.dense_bytes) == ("dense", (5, 4), 80)
    np.testing.assert_array_equal(bs.saved_model_contents(tmp_path / "keras").weights[0].matrix, kernel)
    (row,) = bs.report(str(tmp_path / "module")).weights
    assert (row.path, row.weight_sparsity, row.block_shape) == ("w", 7 / 9, None)
    assert bs.saved_model_contents(tmp_path / "module").custom_ops == ()


def test_pictures_and_output_connections(exports):
    model, path, _ = exports
    expected, found = bs.output_connections(model), bs.output_connections(path)
    assert expected.keys() == found.keys()
    for weight, counts in expected.items():
        np.testing.assert_array_equal(found[weight], counts)
    assert len(bs.plots.plot_pruning(path).axes) >= len(expected)
    bars = bs.plots.plot_sparsity_by_layer({"model": model, "saved": path}).axes[0]
    heights = [[bar.get_height() for bar in container] for container in bars.containers]
    np.testing.assert_array_equal(*heights)
    assert bs.plots.plot_output_connections(path).axes[0].get_legend_handles_labels()[1][0].count("of ") == 1


def test_layers_that_choose_blocks_are_there_as_they_are_stored(tmp_path):
    model, _ = dynamic_layers()
    bs.export(model, tmp_path / "1")
    assert bs.report(tmp_path / "1").stored_bytes == bs.report(model).stored_bytes


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no SavedModel: there is no saved_model.pb in it"):
        bs.report(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff nonsense")
    with pytest.raises(ValueError, match="cannot be read as a SavedModel"):
        bs.saved_model_contents(tmp_path)
    with pytest.raises(TypeError, match="a Keras model or layer, or the path of a SavedModel. Received: 3"):
        bs.report(3)


@pytest.mark.parametrize("spoil", [{"shape": [4, 4]}, {"block_shape": [3, 3]}, {"order": "row"}, {"gates": 7}])
def test_grids_that_do_not_fit_the_variables(spoil, exports, tmp_path):
    shutil.copytree(exports[1], tmp_path / "1")
    grids = json.loads((tmp_path / "1" / GRIDS).read_text())
    for entry in grids.values():
        entry.update(spoil)
    (tmp_path / "1" / GRIDS).write_text(json.dumps(grids))
    with pytest.raises(ValueError, match="cannot be read as a SavedModel"):
        bs.report(tmp_path / "1")
