"""The tests and a benchmark on a GPU, and a report to send back: `make gpu-check`.

    python benchmarks/gpu_check.py --find    # exit status 1: no GPU
    python benchmarks/gpu_check.py           # exit status 0: tests passed on a GPU, and the benchmark ran

The rivals: `tf.matmul` with the dense matrix, which is cuBLAS, with and without TF32 and in float16 and bfloat16;
`tf.sparse.sparse_dense_matmul`; and cuSPARSE's product of blocks, or the reason why it is not among them.
"""

import argparse
import glob
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
REPORT = ROOT / "build" / "gpu-report.json"
TESTS = [ROOT / "tests" / "custom_ops" / f"test_gpu{name}.py" for name in ("", "_dynamic", "_rnn")]
# in, out, block shape, density, batch
CASES = [
    (n, n, block, density, batch)
    for n in (1024, 4096)
    for block in ((4, 4), (16, 16), (32, 32), (64, 64))
    for density in (0.05, 0.2)
    for batch in (1, 64, 4096)
]


def find():
    """What `nvidia-smi` says of the GPUs, without TensorFlow; None if there is none."""
    if not glob.glob("/dev/nvidia[0-9]*") and not glob.glob("/dev/dxg"):
        return None
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = "--query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm"
    result = subprocess.run([command, query, "--format=csv,noheader"], capture_output=True, text=True)
    return result.stdout.strip() or None if result.returncode == 0 else None


class Counter:
    """Counts what pytest ran."""

    def __init__(self):
        self.outcomes = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] = self.outcomes.get(report.outcome, 0) + 1


def run_tests():
    """Outcomes and how many there were of each."""
    import pytest

    counter = Counter()
    pytest.main(["-q", "-x", *map(str, TESTS)], plugins=[counter])
    return counter.outcomes


def seconds(function, at_least=0.2):
    """Median time of a call, all of whose work the device has finished: many calls are waited for at once."""
    function().numpy()
    rounds, samples = 4, []
    while len(samples) < 7:
        start = time.perf_counter()
        for _ in range(rounds):
            y = function()
        y.numpy()
        taken = time.perf_counter() - start
        if taken < at_least / 7 and rounds < 10000:
            rounds *= 2
            continue
        samples.append(taken / rounds)
    return statistics.median(samples)


def contestants(x, w, n_out, dtype):
    """`{name: function}`; each returns one number, so that fetching it costs nothing."""
    import tensorflow as tf

    from tf_blocksparse.custom_ops import block_sparse_matmul

    x, blocks, dense = (tf.cast(a, dtype) for a in (x, w.data, w.toarray()))
    indices, indptr = tf.constant(w.indices), tf.constant(w.indptr)
    flat = {
        "block-sparse": lambda: block_sparse_matmul(x, blocks, indices, indptr, n_out),
        "dense": lambda: tf.matmul(x, dense),
    }
    scalar = w.tocoo()
    if dtype == "float32" and scalar.nnz < 2_000_000:
        places = list(zip(scalar.col, scalar.row, strict=True))
        sparse = tf.sparse.reorder(tf.SparseTensor(places, scalar.data, dense.shape[::-1]))
        flat["sparse"] = lambda: tf.sparse.sparse_dense_matmul(sparse, x, adjoint_b=True)
    return {name: tf.function(lambda f=f: f()[0, 0]) for name, f in flat.items()}


def of_cusparse(x, w):
    """Seconds of cuSPARSE's product and its largest error, or why there are none."""
    import cusparse

    try:
        product = cusparse.BsrProduct(*cusparse.find(), x, w)
        taken = product.seconds(time.perf_counter, rounds=20)
        error = float(abs(product.result() - x @ w.toarray()).max())
        product.close()
    except cusparse.Missing as reason:
        return {"absent": str(reason)}
    return {"seconds": taken, "largest error": error}


def benchmark():
    """A dict for each case: its sizes and the seconds of each contestant, with TF32 and without."""
    import numpy as np
    import scipy.sparse
    import tensorflow as tf

    rng = np.random.default_rng(0)
    results = []
    for n_in, n_out, (height, width), density, batch in CASES:
        kept = rng.random((n_in // height, n_out // width)) < density
        dense = np.kron(kept, np.ones((height, width))) * rng.standard_normal((n_in, n_out))
        w = scipy.sparse.bsr_matrix(dense.astype(np.float32), blocksize=(height, width))
        w.eliminate_zeros()
        x = tf.constant(rng.standard_normal((batch, n_in)).astype(np.float32))
        case = {"in": n_in, "out": n_out, "block": [height, width], "density": density, "batch": batch}
        for dtype, tf32 in (("float32", False), ("float32", True), ("float16", False), ("bfloat16", False)):
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
            for name, function in contestants(x, w, n_out, dtype).items():
                case[f"{name} {'tf32' if tf32 else dtype}"] = seconds(function)
        case["cusparse bsr float32"] = of_cusparse(x.numpy(), w)
        results.append(case)
        print(case, flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find", action="store_true")
    only_find = parser.parse_args().find
    gpus = find()
    if gpus is None:
        sys.exit("no GPU found")
    print(gpus)
    if only_find:
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        sys.exit("no GPU found by TensorFlow: pip install 'tensorflow[and-cuda]==2.21.*'")
    outcomes = run_tests()
    report = {
        "gpus": gpus,
        "tensorflow": tf.__version__,
        "build": dict(tf.sysconfig.get_build_info()),
        "tests": outcomes,
    }
    if outcomes.get("passed") and not outcomes.get("failed"):
        with tf.device("/GPU:0"):
            report["seconds"] = benchmark()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1, default=str))
    print(f"\n{outcomes}\nThe report to send back: {REPORT}")
    sys.exit("seconds" not in report)


if __name__ == "__main__":
    main()
