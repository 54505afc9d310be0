"""`tf-blocksparse convert` and `export`: files that compute what the model does."""

import keras
import numpy as np
import tensorflow as tf

from cli_cases import error_of, run_json

IDS = np.arange(12).reshape(2, 6).astype("int32")


def outputs(path):
    return np.asarray(keras.models.load_model(path)(IDS))


def test_the_outputs_stay(files, tmp_path):
    expected = outputs(files / "pruned.keras")
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(outputs(files / "fast.keras"), expected, atol=1e-6)
    served = tf.saved_model.load(str(files / "served" / "1"))
    np.testing.assert_allclose(served.serve(tf.constant(IDS)), expected, atol=1e-6)


def test_convert_options(files, tmp_path):
    np.save(tmp_path / "ids.npy", IDS)
    options = (
        "--dtype",
        "int8",
        "--block-shape",
        "4",
        "4",
        "--min-sparsity",
        "0",
        "--calibration",
        tmp_path / "ids.npy",
    )
    found = run_json("convert", files / "pruned.keras", tmp_path / "int8.keras", *options)
    rows = {w["path"]: w for w in found["weights"]}
    assert rows["rnn/kernel"]["stored_dtype"] == "int8" and rows["rnn/kernel"]["block_shape"] == [4, 4]
    assert rows["words/embeddings"]["stored_dtype"] == "float32"
    (difference,) = found["differences"]
    largest = np.abs(outputs(tmp_path / "int8.keras") - outputs(files / "pruned.keras")).max()
    np.testing.assert_allclose(difference["largest"], largest, rtol=1e-3)
    assert found["bytes_on_disk"] == (tmp_path / "int8.keras").stat().st_size


def test_measured(files, tmp_path):
    found = run_json("convert", files / "pruned.keras", tmp_path / "fast.keras", "--batch", "2", "--steps", "3")
    notes = {w["path"]: w["note"] for w in found["weights"]}
    assert "measured" in notes["rnn/kernel"] and "at batch 2" in notes["rnn/kernel"]  # whether it gained or not


def test_portable_streams(files, tmp_path):
    found = run_json("export", files / "fast.keras", tmp_path / "s" / "2", "--portable", "--streaming", "--warmup")
    assert not found["needs_op_library"] and found["custom_ops"] == []
    assert set(found["signatures"]) == {"serve", "step", "serving_default"}
    assert "rnn_state_0" in found["signatures"]["step"]["inputs"]
    assert (tmp_path / "s" / "2" / "assets.extra" / "tf_serving_warmup_requests").exists()
    served = tf.saved_model.load(str(tmp_path / "s" / "2"))
    np.testing.assert_allclose(served.serve(tf.constant(IDS)), outputs(files / "fast.keras"), atol=1e-5)
    arguments = ("export", files / "fast.keras", tmp_path / "s" / "2")
    assert "is there already" in error_of(*arguments)
    found = run_json(*arguments, "--force")
    assert found["needs_op_library"] and set(found["signatures"]) == {"serve", "serving_default"}
    assert not (tmp_path / "s" / "2" / "assets.extra" / "tf_serving_warmup_requests").exists()


def test_errors(files, tmp_path):
    assert "Nothing in 'small' can be converted" in error_of("convert", files / "dense.keras", tmp_path / "x.keras")
    assert "tf-blocksparse convert" in error_of("export", files / "pruned.keras", tmp_path / "1")
    message = error_of("convert", files / "pruned.keras", tmp_path / "x.keras", "--product-dtype", "int8")
    assert "`product_dtype` must be" in message
    message = error_of("convert", files / "pruned.keras", tmp_path / "x.keras", "--dtype", "int4", status=2)
    assert "invalid choice: 'int4'" in message
    (tmp_path / "bad.npy").write_bytes(b"no array")
    message = error_of("convert", files / "pruned.keras", tmp_path / "x.keras", "--calibration", tmp_path / "bad.npy")
    assert "bad.npy cannot be read" in message
    assert not (tmp_path / "x.keras").exists() and not (tmp_path / "1").exists()
