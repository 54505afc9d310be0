"""The arithmetic of the pruning benchmarks, and one small run of the cheaper of them."""

import json
import sys

import numpy as np
import pytest

from helpers import ROOT


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_block_max_pads_at_the_end():
    from pruning_sides import block_max

    w = np.zeros([10, 6], "float32")
    w[3, 0], w[9, 5] = -5, 2
    np.testing.assert_array_equal(block_max(w), [[5, 0], [0, 0], [0, 2]])


def test_wrongly_dropped_counts_blocks_above_the_ones_that_should_go():
    from pruning_vs_tfmot import wrongly_dropped

    w = np.kron(np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones([4, 4]))
    assert wrongly_dropped(w, np.array([[False, False], [True, True]])) == (0, 2)
    assert wrongly_dropped(w, np.array([[False, True], [True, False]])) == (1, 2)
    assert wrongly_dropped(w, np.ones([2, 2], bool)) == (0, 0)


def test_wrongly_dropped_takes_any_of_equal_blocks():
    from pruning_vs_tfmot import wrongly_dropped

    assert wrongly_dropped(np.ones([8, 8]), np.array([[True, False], [True, True]])) == (0, 1)


def test_leak_and_zero_share_look_at_dropped_blocks_only():
    from pruning_vs_tfmot import leak, zero_share

    w = np.kron(np.array([[0.0, 2.0], [-3.0, 0.0]]), np.ones([4, 4]))
    mask = np.array([[False, True], [False, True]])
    assert leak(w, mask) == 3
    assert leak(w, np.ones([2, 2], bool)) == 0
    assert zero_share({"w": w}, {"w": mask}) == 0.5


def test_overhead_of_a_small_model(monkeypatch, tmp_path, capsys):
    import pruning_overhead

    small = "--units 8 --inputs 8 --classes 12 --batch 4 --time 3 --steps 12 --frequency 5 --updates 2"
    monkeypatch.setattr(sys, "argv", ["pruning_overhead.py", *small.split(), "--json", str(tmp_path / "out.json")])
    pruning_overhead.main()
    assert "pruned - dense" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["ordinary steps"], found["update steps"]) == (9, 5)  # steps 5 to 16, and two updates more
    assert all(sparsity > 0.5 for sparsity in found["sparsity"].values())
    low, high = found["differences"]["interval %"]
    assert low <= found["differences"]["%"] <= high
