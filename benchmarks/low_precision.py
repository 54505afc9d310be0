"""Products with blocks of bfloat16 and int8 against those of float32, in turns in one process.

    python benchmarks/low_precision.py
    python benchmarks/low_precision.py --cases gru --blocks 32x32 --batches 1 --threads 1

The cases are those of `benchmarks/matmul.py`, as are the ways to time. "bfloat16 x float32" widens the blocks and keeps
x; "bfloat16 x bfloat16" and "int8 x int8" round x, too, which is part of the time. The error is the relative L2
difference from the product in float32, of normal weights and inputs.
"""

import argparse
import os
import sys

from matmul import integers, pairs, use_threads

KINDS = (("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"))
HEADER = (
    f"{'case':>8} {'blocks':>7} {'batch':>5} {'float32 us':>16}"
    + "".join(f" {' x '.join(kind):>30}" for kind in KINDS)
    + "   median (minimum); ratio to float32 of medians (minima); error"
)


def contestants(problem):
    """The product in float32, and one for each of `KINDS`."""
    import tensorflow as tf
    from contestants import ours, stored_in
    from timing import graph_contestant, variables

    from tf_blocksparse.custom_ops import block_sparse_matmul_low_precision
    from tf_blocksparse.quantize import quantize_blocks

    grid = problem.matrix.grid
    blocks, indices, indptr = stored_in(problem.matrix, "column")

    def low(dtype, x_dtype):
        stored, scales = quantize_blocks(blocks, indices, indptr, grid, dtype)
        held = [tf.Variable(array) for array in (stored, scales, indices, indptr)]

        def product(x):
            return block_sparse_matmul_low_precision(
                x, *held, block_height=grid.block_shape[0], out_features=grid.shape[1], gates=grid.gates,
                x_dtype=x_dtype,
            )  # fmt: skip

        fields = {"block_shape": grid.block_shape}
        return graph_contestant(f"{dtype} x {x_dtype}", "ours", product, variables(problem.inputs), **fields)

    return [ours(problem), *(low(*kind) for kind in KINDS)]


def row(problem, seconds, threads):
    """One line of the table."""
    import numpy as np
    from timing import Turns, empty_twin, variables

    rivals = contestants(problem)
    times = Turns(rivals, empty_twin(variables(problem.inputs)), threads).run(seconds)
    exact = rivals[0].result()
    cells = [f"{times[0].median * 1e6:8.1f} ({times[0].minimum * 1e6:5.1f})"]
    for rival, time in zip(rivals[1:], times[1:], strict=True):
        error = np.linalg.norm(rival.result() - exact) / np.linalg.norm(exact)
        ratio, best = times[0].median / time.median, times[0].minimum / time.minimum
        cells.append(f"{time.median * 1e6:8.1f} {ratio:6.2f} ({best:5.2f}) {error:7.0e}")
    return " ".join(cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", default="rnn,gru,lstm90")
    parser.add_argument("--blocks", type=pairs, default="16x16,32x32")
    parser.add_argument("--batches", type=integers, default="1,4,16")
    parser.add_argument("--threads", type=int, default=1, help="0: as many as there are cores")
    parser.add_argument("--seconds", type=float, default=2.0, help="of samples, for each line")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threads = use_threads(arguments.threads)
    import tensorflow as tf
    from machine import machine
    from product_cases import parse_case, random_problem

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    print(f"{machine()}, {threads} threads")
    print(HEADER, flush=True)
    for case in map(parse_case, arguments.cases.split(",")):
        for block_shape in arguments.blocks:
            for batch in arguments.batches:
                problem = random_problem(case, block_shape, batch)
                name = f"{block_shape[0]}x{block_shape[1]}"
                print(f"{case.name:>8} {name:>7} {batch:>5} {row(problem, arguments.seconds, threads)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
