"""The benchmark of products: all contestants make the same product, as often as they say, and what is made of it."""

import collections
import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from helpers import ROOT, assert_close

# Blocks of 8x8 divide its gates' 32 columns and its 64 rows; those of 12x5 divide neither.
TINY = "64x96@0.5/3"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def tiny_problem(block_shape, batch=5):
    from product_cases import parse_case, random_problem

    problem = random_problem(parse_case(TINY), block_shape, batch)
    assert problem.dense.shape == (64, 96)  # made now: some tests enter a graph, where it cannot be
    return problem


@pytest.mark.parametrize("block_shape", [(8, 8), (12, 5)])
@pytest.mark.parametrize("order", ["row", "column"])
def test_contestants_make_the_same_product(block_shape, order):
    import contestants

    problem = tiny_problem(block_shape)
    found, unavailable = contestants.gather([problem], order)
    expected = problem.inputs[0].astype(np.float64) @ problem.dense.astype(np.float64)
    for contestant in found:
        contestant.call(2)
        assert_close(contestant.result(), expected, length=64, scale=4)
    names = [contestant.name for contestant in found]
    assert {contestants.OURS, *contestants.BASELINE, "SciPy BSR", "TF CSR"} <= set(names)
    missing = {name for name, _ in unavailable}
    assert sorted([*names, *missing]) == sorted([contestants.OURS, *contestants.NAMES.values()])
    assert all(unavailable.values())


@pytest.mark.parametrize("order", ["row", "column"])
def test_gradient_contestants_make_the_gradients(order):
    from gradient_contestants import block_gradients, x_gradients

    from tf_blocksparse.bsr import BsrMatrix

    problem = tiny_problem((12, 5))
    x, dy, w = (a.astype(np.float64) for a in (problem.inputs[0], problem.output_gradients[0], problem.dense))
    for contestant in x_gradients(problem, order):
        assert_close(contestant.result(), dy @ w.T, length=96, scale=4)
    ours, *dense = block_gradients(problem, order)
    for contestant in dense:
        assert_close(contestant.result(), x.T @ dy, length=5, scale=4)
    matrix = problem.matrix
    expected = BsrMatrix.from_dense(x.T @ dy, matrix.grid, matrix.block_mask, order)
    assert_close(ours.result(), expected.blocks, length=5, scale=4)


def executed_ops(make, rounds):
    """How often each kind of op ran in one call of the contestant that `make` makes."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        total = make().call(rounds)
        session.run(tf.compat.v1.global_variables_initializer())
        metadata = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        session.run(total, options=options, run_metadata=metadata)
    labels = [node.timeline_label for device in metadata.step_stats.dev_stats for node in device.node_stats]
    return collections.Counter(label.split(" = ")[-1].split("(")[0] for label in labels)


def test_loops_make_all_their_products():
    from contestants import ours, tf_matmul

    problem = tiny_problem((8, 8))
    assert executed_ops(lambda: ours(problem), 7)["BlockSparse>MatMul"] == 14  # of two inputs
    counts = executed_ops(lambda: tf_matmul(problem), 7)
    assert counts["MatMul"] + counts["_MklMatMul"] == 14  # the latter with oneDNN


def test_gradients_are_timed_without_the_product():
    from gradient_contestants import block_gradients, x_gradients

    problem = tiny_problem((8, 8))
    counts = executed_ops(lambda: x_gradients(problem)[0], 3)
    assert (counts["BlockSparse>MatMulGradX"], counts["BlockSparse>MatMul"]) == (6, 0)
    counts = executed_ops(lambda: block_gradients(problem)[0], 3)
    assert (counts["BlockSparse>MatMulGradBlocks"], counts["BlockSparse>MatMul"]) == (6, 0)


def test_loop_adds_up_what_it_multiplies():
    from contestants import ours

    problem = tiny_problem((8, 8))
    expected = 3 * sum((x @ problem.dense)[0, 0] for x in problem.inputs)
    np.testing.assert_allclose(ours(problem).call(3), expected, rtol=1e-4)


def test_cases_have_the_sparsity_of_their_name():
    from product_cases import parse_case, random_matrix

    matrix = random_matrix(parse_case("100x60@0.75/3"), (10, 5))
    assert (matrix.grid.gates, matrix.grid.mask_shape) == (3, (10, 12))
    assert matrix.num_blocks == 30
    assert parse_case("gru").shape == (2560, 7680)
    with pytest.raises(ValueError, match="1024x4096@0.9/4.*Received: 'lstm'"):
        parse_case("lstm")


class Clock:
    """Time that passes only when a contestant spends it."""

    def __init__(self, monkeypatch):
        import timing

        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "sleep", self.spend)

    def spend(self, seconds):
        self.now += seconds

    def contestant(self, kind, start, each, **fields):
        """Takes `start` seconds a call and `each` for a round of two products."""
        from timing import Contestant

        return Contestant("", kind, lambda rounds: self.spend(start + rounds * each), None, 2, **fields)


def test_turns_subtract_the_call_and_the_loop_and_spare_slow_rivals(monkeypatch):
    from timing import SLOW_SAMPLES, Turns

    clock = Clock(monkeypatch)
    twin = clock.contestant("empty", 2e-3, 1e-4)
    ours = clock.contestant("ours", 2e-3, 1e-4 + 2 * 3e-4, in_graph=True)
    dense = clock.contestant("dense", 0, 2 * 5.0, own_threads=True)
    slow = clock.contestant("sparse", 0, 2 * 9e-3, own_threads=True)  # 30 times as slow
    times = Turns([ours, dense, slow], twin, threads=2).run(seconds=100)
    np.testing.assert_allclose([t.median for t in times], [3e-4, 5.0, 9e-3], rtol=1e-9)
    np.testing.assert_allclose([t.minimum for t in times], [3e-4, 5.0, 9e-3], rtol=1e-9)
    assert times[2].samples == SLOW_SAMPLES < times[1].samples == times[0].samples


def test_share_of_the_roofline_is_that_of_the_nearer_limit():
    from roofline import share

    assert share(1.0, flops=50e9, size=1e9, gflops=100, gbytes=10) == pytest.approx(0.5)
    assert share(1.0, flops=5e9, size=8e9, gflops=100, gbytes=10) == pytest.approx(0.8)


def test_a_busy_machine_is_named():
    from product_run import _warn_of_company

    said = []
    peaks = [{"isa": "avx2", "threads": 1, "gflops": 50.0}, {"isa": "avx2", "threads": 2, "gflops": 95.0}]
    _warn_of_company({"fma": peaks}, 2, said.append)
    assert not said
    peaks[1]["gflops"] = 60.0
    _warn_of_company({"fma": peaks}, 2, said.append)
    assert "2 threads are only 1.2 times as fast as one" in said[0]


def test_threads_are_set_and_overrides_dropped(monkeypatch):
    import matmul

    environment = {"OPENBLAS_CORETYPE": "Haswell", "HOME": "/"}
    monkeypatch.setattr(matmul.os, "environ", environment)
    assert matmul.use_threads(3) == 3
    assert environment == {"HOME": "/", **dict.fromkeys(matmul.THREAD_VARIABLES, "3")}
    assert matmul.use_threads(0) >= 1


def a_run(ratio=8.0, share=0.6, gflops=100.0):
    row = {"kind": "product", "case": "rnn", "sparsity": 0.9, "block_shape": [4, 4]}
    peaks = {"gflops_peak": gflops, "gbytes_peak": 20.0}
    rows = [{**row, **peaks, "batch": batch, "ratio_dense": ratio, "roofline_share": share} for batch in (1, 4)]
    return {"machine": "m", "threads": 2, "versions": {"tensorflow": "2.21"}, "rows": rows}


def test_compare_fails_when_a_ratio_falls(capsys):
    from compare import changes, report

    old, new = a_run(), a_run(gflops=150.0)
    new["rows"][1].update(ratio_dense=5.0, roofline_share=0.35)
    assert [row["mark"] for row in changes(old, new)] == ["", "slower"]
    assert report(old, new, tolerance=0.25) == 1
    assert report(old, new, tolerance=0.4) == 0
    assert "multiply-adds 1.50, reading 1.00" in capsys.readouterr().out


def test_compare_tells_a_faster_dense_product_from_a_slower_sparse_one():
    from compare import changes

    old, new = a_run(), a_run(ratio=7.0, share=0.59)
    assert {row["mark"] for row in changes(old, new)} == {"dense is faster"}
    for row in new["rows"]:
        row["roofline_share"] = None
    assert {row["mark"] for row in changes(old, new)} == {"slower"}
    assert {row["mark"] for row in changes(old, a_run(ratio=7.5, share=0.3))} == {""}


def test_compare_refuses_runs_without_a_common_row():
    from compare import changes

    other = a_run()
    for row in other["rows"]:
        row["case"] = "gru"
    with pytest.raises(ValueError, match="no case, block shape and batch in common"):
        changes(a_run(), other)


ROW_FIELDS = {
    "kind", "case", "title", "sparsity", "block_shape", "num_blocks", "batch", "flops", "weight_bytes",
    "microseconds", "times", "unavailable", "best_dense", "ratio_dense", "ratio_dense_minima", "best_sparse",
    "ratio_sparse", "gflops_peak", "gbytes_peak", "roofline_share",
}  # fmt: skip


def test_a_small_run_writes_numbers_tables_and_a_picture(tmp_path, capsys):
    script = ROOT / "benchmarks" / "matmul.py"
    small = f"--cases {TINY} --blocks 8x8,12x5 --batches 1,3 --seconds 0.02 --threads 1 --gradients".split()
    files = [tmp_path / "new" / name for name in ("out.json", "out.md", "out.png")]
    outputs = ["--json", files[0], "--markdown", files[1], "--plot", files[2]]
    command = [sys.executable, script, *small, "--gradient-batches", "2", *outputs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(files[0].read_text())
    kinds = collections.Counter(row["kind"] for row in results["rows"])
    assert kinds == {"product": 4, "x gradient": 2, "block gradient": 2}
    assert len([line for line in done.stdout.splitlines() if "64x96@0.5" in line]) >= 8
    for row in results["rows"]:
        assert row.keys() == ROW_FIELDS
        assert row["flops"] == 2 * row["num_blocks"] * np.prod(row["block_shape"]) * row["batch"]
        assert row["ratio_dense"] == pytest.approx(row["times"][row["best_dense"]]["median"] / row["microseconds"])
        assert row["roofline_share"] > 0
    assert {item["threads"] for item in results["roofline"]["fma"]} == {1}
    assert [item["dense"] for item in results["storage"]] == [64 * 96 * 4] * 2
    assert len(results["conversion"]) == 2
    assert all(value >= 0 for value in results["overheads"].values())
    assert files[1].read_text().count("| 8x8 |") == 3
    assert files[2].read_bytes().startswith(b"\x89PNG")
    _compare_files(files[0], results, capsys)


def _compare_files(path, results, capsys):
    """`compare.py` on the run and itself, and on the run and a slower one."""
    import compare

    slower = copy.deepcopy(results)
    slower["rows"][0]["ratio_dense"] *= 0.5
    other = path.with_name("slower.json")
    other.write_text(json.dumps(slower))
    assert compare.main([str(path), str(path)]) == 0
    assert compare.main([str(path), str(other)]) == 1
    assert "8 rows; 1 fell by more than 25%" in capsys.readouterr().out
