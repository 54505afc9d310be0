"""The benchmark of recurrent layers: ratios are of what it says, and a small run writes its numbers."""

import json
import subprocess
import sys

import pytest

from helpers import ROOT


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_ratios_are_to_the_fastest_dense_layer_in_float32_without_the_call():
    from sequences import row_of

    samples = {
        "block-sparse": [0.003, 0.002, 0.004],
        "ours int8": [0.002, 0.002, 0.002],
        "a call": [0.001, 0.001, 0.001],
        "keras": [0.041, 0.031, 0.041],
        "loop": [0.021, 0.011, 0.021],
        "torch": [0.030, 0.025, 0.030],
        "torch int8": [0.001, 0.001, 0.001],
    }
    row = row_of("lstm8", (4, 4), 1, samples)
    assert row["best_dense"] == "loop"
    assert row["ratio"] == pytest.approx({"block-sparse": 20 / 2, "ours int8": 20 / 1})
    assert row["ratio_minima"] == pytest.approx({"block-sparse": 10 / 1, "ours int8": 10 / 1})
    assert row["milliseconds"]["torch"] == pytest.approx(30) and row["milliseconds"]["keras"] == pytest.approx(40)


def test_what_is_no_longer_than_a_call_is_not_taken_for_nothing():
    from sequences import without_call

    assert without_call({"a call": 1.0, "block-sparse": 0.9, "torch": 0.5}) == {
        "a call": 1.0,
        "block-sparse": pytest.approx(0.1),
        "torch": 0.5,
    }


def test_a_small_run_writes_its_numbers(tmp_path):
    script, path = ROOT / "benchmarks" / "sequences.py", tmp_path / "new" / "out.json"
    small = "--layers gru24 --blocks 4x8 --batches 1 --steps 3 --without keras,xla,torch --threads 1 --seconds 0.02"
    command = [sys.executable, script, *small.split(), "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(path.read_text())
    (row,) = results["rows"]
    assert set(row["ratio"]) == {"block-sparse", "ours bfloat16", "ours int8"} and row["best_dense"] == "loop"
    assert [step["dtype"] for step in results["streaming"]] == ["float32", "bfloat16", "int8"]
    assert all(step["call"] > 0 for step in results["streaming"])
