"""`tf-blocksparse bench`: what it times, and of which model; no times are asserted."""

import keras
import numpy as np
from keras import layers

from cli_cases import error_of, run, run_json

FAST = ("--batch", "2", "--steps", "3", "--seconds", "0.001")


def test_a_pruned_model(files):
    found = run_json("bench", files / "pruned.keras", *FAST)
    rows = found["rows"]
    assert rows[0]["what"] == "model"
    assert {row["what"] for row in rows} == {"model", "words", "rnn", "out"}
    assert all(row["batch_size"] == 2 and row["dense"]["median"] >= row["dense"]["minimum"] > 0 for row in rows)
    model = keras.models.load_model(files / "pruned.keras")
    assert found["bytes_dense"] == sum(np.asarray(w).nbytes for w in model.weights)


def test_a_dense_model_with_a_target(tmp_path):
    keras.Sequential([keras.Input((64,)), layers.Dense(512, name="big")]).save(tmp_path / "m.keras")
    before = (tmp_path / "m.keras").read_bytes()
    status, out, err = run("bench", tmp_path / "m.keras", "--target", "0.95", "--block-shape", "16", "16", *FAST)
    assert status == 0, err
    assert "big" in out and "times as fast" in out and "Weights take 133,120 bytes" in out
    assert (tmp_path / "m.keras").read_bytes() == before


def test_errors(files):
    assert "block-sparse already" in error_of("bench", files / "fast.keras", *FAST)
    assert "Prune first" in error_of("bench", files / "dense.keras", *FAST)
    assert "above 0" in error_of("bench", files / "dense.keras", "--seconds", "0", status=2)
