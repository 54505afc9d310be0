"""Block-sparse products against dense and sparse ones, in turns in one process.

    python benchmarks/matmul.py
    python benchmarks/matmul.py --cases rnn,lstm90 --blocks 16x16,8x8 --batches 1,64 --threads 1 --gradients
    python benchmarks/matmul.py --cases 1024x4096@0.9/4 --json new.json --compare old.json

The cases are those of the papers: "rnn" (1760x1760, 90 % zero), "gru" (2560x7680, 95 %), "lstm65", "lstm83" and
"lstm90" (1500x6000), or any INxOUT@SPARSITY, with /GATES.

Contestants: `block_sparse_matmul`; `tf.matmul` and NumPy, the better of which is what counts; SciPy's BSR and
TensorFlow's own CSR matrices; PyTorch's dense and BSR products where `torch` is installed, and MKL's where `mkl` is.
Those of TensorFlow run in a loop inside of a `tf.function`; what the loop and the call cost is measured and
subtracted. The others run in a loop of Python. All weights are hot: each product finds its own where the last one
left them. A sparse rival more than 20 times slower than the block-sparse product gets two samples only.

"% roof" is the share of what the machine can do: the longer of the times that the multiply-adds need at the measured
peak and that reading the blocks once needs at the measured bandwidth for their size, by the time of the product. The
peak is measured anew for each case and batch, since clocks change.
"""

import argparse
import json
import os
import pathlib
import sys

# No NumPy here, nor what imports it: its threads are set by the environment, before.

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# They make OpenBLAS take slower kernels than those for the processor.
OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def use_threads(threads):
    """Sets the environment of libraries that are not loaded yet; returns the number, for 0 that of all cores."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or available
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    for variable in OVERRIDES:
        os.environ.pop(variable, None)
    return threads


def pairs(text):
    """[(16, 16), (4, 4)] of "16x16,4x4"."""
    return [tuple(int(n) for n in item.split("x")) for item in text.split(",")]


def integers(text):
    """[1, 64] of "1,64"."""
    return [int(item) for item in text.split(",")]


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", default="rnn,gru,lstm65,lstm83,lstm90")
    parser.add_argument("--blocks", type=pairs, default="4x4,16x16")
    parser.add_argument("--batches", type=integers, default="1,4,8,16,32,64,128,256")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--seconds", type=float, default=4.0, help="of samples, for each case and batch")
    parser.add_argument("--order", choices=("column", "row"), default="column", help="of the stored blocks")
    parser.add_argument("--gradients", action="store_true", help="those of the first case, too")
    parser.add_argument("--gradient-batches", type=integers, default="64,2048")
    parser.add_argument("--json", type=pathlib.Path, help="file for all numbers")
    parser.add_argument("--markdown", type=pathlib.Path, help="file for tables")
    parser.add_argument("--plot", type=pathlib.Path, help="file for a picture")
    parser.add_argument("--compare", type=pathlib.Path, help="numbers of an earlier run; see benchmarks/compare.py")
    parser.add_argument("--tolerance", type=float, default=0.25, help="fall of a ratio to dense that is an error")
    return parser.parse_args(argv)


def write(path, save):
    """Calls `save(path)`, in a directory that exists."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path)
        print(f"wrote {path}")


def main(argv=None):
    arguments = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threads = use_threads(arguments.threads)
    import product_run
    import tables
    from compare import report
    from product_cases import parse_case

    settings = product_run.Settings(
        cases=[parse_case(text) for text in arguments.cases.split(",")],
        blocks=arguments.blocks,
        batches=arguments.batches,
        threads=threads,
        seconds=arguments.seconds,
        gradients=arguments.gradients,
        gradient_batches=arguments.gradient_batches,
        order=arguments.order,
    )
    old = json.loads(arguments.compare.read_text()) if arguments.compare else None
    print(f"{product_run.machine()}, {threads} threads, blocks stored by {arguments.order}")
    print("microseconds of a product: median (minimum); ratios of medians (minima) to the block-sparse product")
    print(tables.HEADER, flush=True)
    results = product_run.run(settings, lambda row: print(tables.line(row), flush=True), print)
    print(*tables.left_out(results["rows"]), *tables.costs(results), sep="\n")
    write(arguments.json, lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
    write(arguments.markdown, lambda path: path.write_text(tables.markdown(results)))
    write(arguments.plot, lambda path: tables.plot(results, path))
    return report(old, results, arguments.tolerance) if old else 0


if __name__ == "__main__":
    sys.exit(main())
