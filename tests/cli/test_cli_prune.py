"""`tf-blocksparse prune`: the file holds the zeros that NumPy counts, and trains on with them."""

import keras
import numpy as np

from cli_cases import error_of, run, run_json
from tf_blocksparse.pruning import pruned_weights


def blocks_of(w, height, width):
    """Whether each block of a matrix has a non-zero element, by NumPy alone; sides must divide."""
    rows, cols = w.shape
    return (w.reshape(rows // height, height, cols // width, width) != 0).any(axis=(1, 3))


def test_the_zeros_of_the_file(files):
    before, after = (keras.models.load_model(files / f"{name}.keras") for name in ("dense", "pruned"))
    for layer in ("words", "rnn"):
        for old, new in zip(before.get_layer(layer).weights, after.get_layer(layer).weights, strict=True):
            old, new = np.asarray(old), np.asarray(new)
            if old.ndim == 1:
                np.testing.assert_array_equal(old, new)
                continue
            live = blocks_of(new, 4, 8)
            assert live.mean() == 0.25
            np.testing.assert_array_equal(new[new != 0], old[new != 0])
            scores = np.abs(old).reshape(live.shape[0], 4, live.shape[1], 8).max(axis=(1, 3))
            assert scores[live].min() > scores[~live].max()
    assert len(pruned_weights(after)) == 4


def test_selection_stripping_and_the_report(files, tmp_path):
    out = tmp_path / "plain.keras"
    options = (
        "--target",
        "0.5",
        "--block-shape",
        "4",
        "--include",
        "rnn",
        "--exclude",
        "*/recurrent_kernel",
        "--strip",
    )
    report = run_json("prune", files / "dense.keras", out, *options)
    rows = {w["path"]: w for w in report["weights"]}
    model = keras.models.load_model(out)
    assert not pruned_weights(model)
    assert np.mean(blocks_of(np.asarray(model.get_layer("rnn").cell.kernel), 4, 4)) == 0.5
    assert rows["rnn/kernel"]["weight_sparsity"] == 0.5
    assert rows["words/embeddings"]["weight_sparsity"] == rows["rnn/recurrent_kernel"]["weight_sparsity"] == 0.0
    assert "lost accuracy" in report["warning"] and "--strip" in report["warning"]


def test_what_people_read(files, tmp_path):
    status, out, _ = run("prune", files / "dense.keras", tmp_path / "p.keras", "--target", "0.5", "--ranking", "global")
    assert status == 0
    assert "rnn/recurrent_kernel" in out and "4 x 4" in out
    assert f"Wrote {tmp_path / 'p.keras'}" in out.replace("\n", " ") and "Fine-tune it" in out


def test_errors(files, tmp_path):
    out = tmp_path / "x.keras"
    assert "for 90 % write 0.9" in error_of("prune", files / "dense.keras", out, "--target", "90", status=2)
    assert "--target" in error_of("prune", files / "dense.keras", out, status=2)
    assert "at least 1" in error_of(
        "prune", files / "dense.keras", out, "--target", ".5", "--block-shape", "0", status=2
    )
    message = error_of("prune", files / "dense.keras", out, "--target", ".5", "--block-shape", "1", "2", "3", status=2)
    assert "a height and a width" in message
    assert "nothing to prune" in error_of("prune", files / "dense.keras", out, "--target", ".5", "--include", "none*")
    assert "is pruned already" in error_of("prune", files / "pruned.keras", out, "--target", ".5")
    assert not out.exists() and not list(tmp_path.iterdir())
