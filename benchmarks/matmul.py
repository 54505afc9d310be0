"""Block-sparse product against the dense ones, interleaved in one process.

    python benchmarks/matmul.py
    python benchmarks/matmul.py --shapes 1760x1760 --blocks 16x16 --batches 1,64 --seconds 1

Each row is one matrix and batch: the median time of `block_sparse_matmul` and of `tf.matmul`, each
within a `tf.function`, and of NumPy, taken in turns so that a disturbance of the machine meets all
alike. The functions repeat the product on inputs that differ, inside the graph: one call of a
`tf.function` from Python costs more than a small product.
"""

import argparse
import platform
import time

import numpy as np
import tensorflow as tf

from tf_blocksparse.custom_ops import block_sparse_matmul


def random_blocks(rng, shape, block_shape, density):
    """Blocks, indices and indptr of a random matrix, with an exact number of blocks."""
    height, width = block_shape
    rows, columns = -(-shape[0] // height), -(-shape[1] // width)
    kept = rng.permutation(rows * columns)[: round(rows * columns * density)]
    mask = np.zeros(rows * columns, bool)
    mask[kept] = True
    mask = mask.reshape(rows, columns)
    indptr = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    blocks = rng.standard_normal([len(kept), height, width]).astype(np.float32)
    return blocks, np.nonzero(mask)[1].astype(np.int32), indptr


def repeated(product, inputs):
    """A function of one call that makes all products, one after another."""

    @tf.function
    def function():
        done = []
        for x in inputs:
            with tf.control_dependencies(done[-1:]):
                done.append(product(tf.identity(x)))
        return [y[0, 0] for y in done]

    return function


def interleaved(contestants, seconds):
    """Samples of each contestant's time, in turns, until the time is up."""
    samples = {name: [] for name in contestants}
    for function in contestants.values():
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[next(iter(samples))]) < 5:
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            samples[name].append(time.perf_counter() - start)
    return samples


def measure(shape, block_shape, density, batch, seconds):
    """Microseconds of one product: (median, minimum) of each contestant."""
    rng = np.random.default_rng(0)
    blocks, indices, indptr = (tf.Variable(a) for a in random_blocks(rng, shape, block_shape, density))
    dense_numpy = rng.standard_normal(shape).astype(np.float32)
    dense = tf.Variable(dense_numpy)
    repeats = max(2, min(20, 256 // batch))
    arrays = [rng.standard_normal([batch, shape[0]]).astype(np.float32) for _ in range(repeats)]
    inputs = [tf.constant(x) for x in arrays]

    def sparse_product(x):
        return block_sparse_matmul(x, blocks, indices, indptr, out_features=shape[1])

    contestants = {
        "sparse": repeated(sparse_product, inputs),
        "tf": repeated(lambda x: tf.matmul(x, dense), inputs),
        "numpy": lambda: [x @ dense_numpy for x in arrays],
    }
    samples = interleaved(contestants, seconds)
    scale = 1e6 / repeats
    return {name: (np.median(t) * scale, np.min(t) * scale) for name, t in samples.items()}


def pairs(text):
    """[(1760, 1760)] of "1760x1760"."""
    return [tuple(int(n) for n in item.split("x")) for item in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=pairs, default="1760x1760,1500x6000")
    parser.add_argument("--blocks", type=pairs, default="4x4,8x8,16x16")
    parser.add_argument("--batches", default="1,4,16,64,256")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as TensorFlow takes")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, TensorFlow {tf.__version__}, ", end="")
    print(f"NumPy {np.__version__}, sparsity {arguments.sparsity}, threads {arguments.threads}")
    print("median (minimum) in microseconds; ratios of medians (of minima) to the sparse product")
    print(f"{'matrix':>10} {'block':>6} {'batch':>5} {'sparse':>16} {'tf.matmul':>18}", end="")
    print(f" {'NumPy':>18} {'tf/sparse':>14} {'NumPy/sparse':>14}")
    for shape in arguments.shapes:
        for block in arguments.blocks:
            for batch in map(int, arguments.batches.split(",")):
                times = measure(shape, block, 1 - arguments.sparsity, batch, arguments.seconds)
                sparse, dense, numpy = times["sparse"], times["tf"], times["numpy"]
                print(
                    f"{shape[0]}x{shape[1]:<5} {block[0]:>3}x{block[1]:<2} {batch:>5}"
                    f" {sparse[0]:>8.1f} ({sparse[1]:5.1f}) {dense[0]:>8.1f} ({dense[1]:7.1f})"
                    f" {numpy[0]:>8.1f} ({numpy[1]:7.1f})"
                    f" {dense[0] / sparse[0]:>6.1f} ({dense[1] / sparse[1]:4.1f})"
                    f" {numpy[0] / sparse[0]:>6.1f} ({numpy[1] / sparse[1]:4.1f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
