"""What a block-sparse product costs beside the product: the op, the call, the conversion, the first time; and bytes."""

import statistics
import time

import numpy as np
import tensorflow as tf
from contestants import ours, stored_in, tf_matmul
from product_cases import Case, random_matrix, random_problem
from timing import Turns, empty_twin, seconds_of, variables

from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.custom_ops import block_sparse_matmul
from tf_blocksparse.storage import bsr_storage, csr_storage, dense_storage

TINY = Case("tiny", (16, 16), 0.0)


def op_overheads(threads, seconds):
    """Microseconds of ops on a matrix of 16x16 and one row, in a graph, and of what is subtracted from all times."""
    problem = random_problem(TINY, (16, 16), batch=1)
    turns = Turns([ours(problem), tf_matmul(problem)], empty_twin(variables(problem.inputs)), threads)
    sparse, dense = turns.run(seconds)
    return {
        "block-sparse op": sparse.median * 1e6,
        "tf.matmul": dense.median * 1e6,
        "call of a tf.function from Python": call_seconds(tf.constant(1.0)) * 1e6,
        "call and one round of the loop, subtracted": statistics.median(turns.call_seconds) * 1e6,
        "each further round of the loop, subtracted": statistics.median(turns.loop_seconds) * 1e6,
    }


def call_seconds(x, times=200):
    """Median seconds of the call of a `tf.function` of one small op."""
    function = tf.function(lambda x: x + x)
    function(x)
    return statistics.median(seconds_of(lambda _: function(x), 1) for _ in range(times))


def conversion_costs(case, block_shape, order, times=5):
    """Milliseconds of the conversion from dense, and of the op's first call and later ones, batch 1, eagerly."""
    matrix = random_matrix(case, block_shape)
    dense, block_mask = matrix.to_dense(), matrix.block_mask
    x = tf.constant(np.ones((1, case.shape[0]), np.float32))
    found = {"from_dense": [], "from_dense, mask given": [], "first call": [], "later call": []}

    def timed(name, function):
        start = time.perf_counter()
        result = function()
        found[name].append((time.perf_counter() - start) * 1e3)
        return result

    for _ in range(times):
        timed("from_dense", lambda: BsrMatrix.from_dense(dense, matrix.grid, order=order))
        timed("from_dense, mask given", lambda: BsrMatrix.from_dense(dense, matrix.grid, block_mask, order))
        # New tensors: the op keeps the index of those that it has seen.
        arrays = [tf.constant(a) for a in stored_in(matrix, order)]
        for name in ("first call", "later call", "later call"):
            timed(name, lambda a=arrays: block_sparse_matmul(x, *a, case.shape[1], gates=case.gates, order=order))
    return {name: statistics.median(values) for name, values in found.items()}


def storage_bytes(case, block_shape):
    """Bytes of the matrix dense, in CSR and in BSR, float32."""
    matrix = random_matrix(case, block_shape)
    nonzero_weights = int(np.count_nonzero(matrix.to_dense()))
    return {
        "dense": dense_storage(case.shape).total,
        "CSR": csr_storage(case.shape, nonzero_weights).total,
        "BSR": bsr_storage(matrix.grid, matrix.num_blocks).total,
    }
