"""The benchmark of dynamic layers: its layers are what they say, and a small run writes its numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT, assert_close


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_layer_multiplies_by_the_blocks_that_it_chooses():
    from dynamic import Layer

    random = np.random.default_rng(0)
    layer = Layer((64, 96), (16, 32), "float32", 0.75, 0.25, random)
    x = random.standard_normal((5, 64), np.float32)
    block_ids, block_gates = (t.numpy() for t in layer.choose(x))
    assert block_ids.shape == (5, 3) and np.all(block_gates > 0)
    np.testing.assert_allclose(block_gates.sum(1), np.full(5, 12), rtol=1e-5)  # a mean of 1 over all blocks
    gates = np.zeros([5, 12])
    np.put_along_axis(gates, block_ids, block_gates, axis=1)
    blocks = layer.layer.kernel.numpy().astype(np.float64).reshape(4, 3, 16, 32)
    expected = np.einsum("erh,rchw,erc->ecw", x.reshape(5, 4, 16), blocks, gates.reshape(5, 4, 3)).reshape(5, 96)
    assert_close(layer(x), expected, length=64, scale=8)
    np.testing.assert_allclose(layer.multiply(x, block_ids, block_gates), layer(x), rtol=1e-6, atol=1e-5)
    assert layer.share_read(x) == len(np.unique(block_ids)) / 12


def test_a_small_run_writes_its_numbers(tmp_path):
    script = ROOT / "benchmarks" / "dynamic.py"
    small = "--shapes 64x96 --blocks 16x32 --sparsities 0.5,0.9 --batches 3 --gates 0.25 --threads 1".split()
    path = tmp_path / "new" / "out.json"
    command = [sys.executable, script, *small, "--seconds", "0.02", "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [row["dtype"] for row in rows] == ["float32"] * 2 + ["bfloat16"] * 2 + ["int8"] * 2
    assert len([line for line in done.stdout.splitlines() if "64x96" in line]) == 6
    for row in rows:
        assert row["k"] == round((1 - row["sparsity"]) * row["num_blocks"])
        assert 0 < row["share_read"] <= 1
        best = min(row["times"][name]["median"] for name in ("tf.matmul", "NumPy"))
        assert row["ratio"] == pytest.approx(best / row["times"]["layer"]["median"])
