"""`tf-blocksparse inspect`: numbers against NumPy, of all kinds of files."""

import json

import keras
import numpy as np

from cli_cases import error_of, run, run_json, small_model


def numpy_bytes(model):
    """Of all matrices, by the arrays themselves."""
    return sum(np.asarray(w).nbytes for w in model.weights if len(w.shape) == 2)


def test_keras_files(files):
    dense, pruned, fast = (run_json("inspect", files / f"{name}.keras") for name in ("dense", "pruned", "fast"))
    model = keras.models.load_model(files / "pruned.keras")
    kernel = np.asarray(model.get_layer("rnn").cell.kernel)
    for found in (dense, pruned, fast):
        assert found["kind"] == "keras" and len(found["weights"]) == 4
    assert not dense["needs_package"] and pruned["needs_package"] and fast["needs_package"]
    assert dense["totals"]["stored_bytes"] == pruned["totals"]["stored_bytes"] == numpy_bytes(model)
    (row,) = [w for w in pruned["weights"] if w["path"] == "rnn/kernel"]
    assert row["weight_sparsity"] == np.mean(kernel == 0)
    assert (row["block_shape"], row["grid"], row["num_blocks"], row["density"]) == ([4, 8], [4, 2], 2, 0.25)
    (row,) = [w for w in fast["weights"] if w["path"] == "rnn/kernel"]
    assert row["state"] == "block-sparse"
    assert row["stored_bytes"] == 4 * (2 * 4 * 8 + 2 + 3)  # two blocks, their rows, and where two columns begin
    assert fast["bytes_on_disk"] == (files / "fast.keras").stat().st_size


def test_saved_models(files, tmp_path):
    custom = run_json("inspect", files / "served" / "1")
    fast = run_json("inspect", files / "fast.keras")
    assert custom["kind"] == "saved_model" and custom["needs_op_library"]
    assert "BlockSparse>Gather" in custom["custom_ops"]
    without_notes = [{**w, "note": ""} for w in fast["weights"] if w["state"] == "block-sparse"]
    assert without_notes
    assert [w for w in custom["weights"] if w["state"] == "block-sparse"] == without_notes
    assert custom["signatures"]["serve"]["inputs"] == {"ids": ["int32", [None, None]]}
    small_model().export(tmp_path / "plain", verbose=False)
    plain = run_json("inspect", tmp_path / "plain")
    assert plain["custom_ops"] == [] and not plain["needs_op_library"]
    assert plain["totals"]["stored_bytes"] == numpy_bytes(small_model())


def test_tables_and_pictures(files, tmp_path):
    status, out, _ = run("inspect", files / "served" / "1", "--plot", tmp_path / "pictures")
    assert status == 0
    assert "needs the op library" in out.lower() and "serving_default" in out and "[?, ?, 10]" in out
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["masks.png", "output_connections.png", "sparsity_by_layer.png"]
    assert all((tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert "nothing to draw" in error_of("inspect", files / "dense.keras", "--plot", tmp_path / "none")
    found = run_json("inspect", files / "pruned.keras", "--plot", tmp_path / "more")
    assert len(found["pictures"]) == 3


def test_json_is_all_that_is_on_stdout(files, capfd):
    """Also of what is printed past Python."""
    from tf_blocksparse_cli.main import main

    assert main(["inspect", str(files / "fast.keras"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["kind"] == "keras"
