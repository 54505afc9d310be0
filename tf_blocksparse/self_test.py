"""A quick test of the installed ops against plain computations, for `tf-blocksparse doctor`."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_blocksparse import custom_ops
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.quantize import dequantize_blocks, quantize_blocks

_LOW_PRECISION = (("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32"), ("int8", "int8"))

# By name: the op, its plain twin, and of how many gates and states.
_CELLS = {
    "SimpleRNN": (custom_ops.block_sparse_rnn, custom_ops.block_sparse_rnn_reference, 1, 1),
    "GRU": (custom_ops.block_sparse_gru, custom_ops.block_sparse_gru_reference, 3, 1),
    "LSTM": (custom_ops.block_sparse_lstm, custom_ops.block_sparse_lstm_reference, 4, 2),
}


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """How far an op was from its reference.

    Args:
        op: str, what was computed.
        error: largest difference, relative to the largest result; infinite if the op failed.
        allowed: what rounding explains.
        message: of the exception that the op failed with, or empty.
    """

    op: str
    error: float
    allowed: float
    message: str = ""

    @property
    def passed(self):
        """Whether the op can be trusted."""
        return self.error <= self.allowed


def self_test():
    """Runs every op once, on matrices with ragged edges and several blocks: list of `SelfTest`, in a second or so."""
    results = []
    for block_shape in ((4, 4), (16, 16), (3, 5)):
        name = "x".join(map(str, block_shape))
        results.append(_compare(f"product, {name} blocks", 1e-5, _product, block_shape))
        results.append(_compare(f"gradients, {name} blocks", 1e-5, _gradients, block_shape))
    results.append(_compare("look-up of rows", 0.0, _gather))
    for dtype, x_dtype in _LOW_PRECISION:
        results.append(_compare(f"product, {dtype} blocks and {x_dtype} inputs", 1e-5, _low_precision, dtype, x_dtype))
    for cell in _CELLS:
        results.append(_compare(f"{cell} over a sequence", 1e-4, _sequence, cell))
        results.append(_compare(f"{cell} over a sequence, int8 blocks", 1e-4, _low_precision_sequence, cell))
    results.append(_compare("product of chosen blocks", 1e-5, _chosen_blocks))
    results.append(_compare("choice of blocks", 1e-6, _choice))
    return results


def _compare(op, allowed, function, *arguments):
    try:
        pairs = [(np.asarray(a, "float64"), np.asarray(e, "float64")) for a, e in function(*arguments)]
    except (tf.errors.OpError, ValueError, TypeError, AttributeError) as error:
        return SelfTest(op, float("inf"), allowed, str(error))
    error = max(np.abs(a - e).max() / np.abs(e).max() for a, e in pairs)
    return SelfTest(op, float("inf") if np.isnan(error) else float(error), allowed)


def _matrix(block_shape, order):
    """A matrix for two gates, about half of its blocks stored, as a `BsrMatrix` and in full."""
    rng = np.random.default_rng(0)
    grid = BlockGrid((70, 84), block_shape, gates=1 if order == "row" else 2)
    kept = rng.random(grid.mask_shape) < 0.5
    w = rng.standard_normal(grid.shape).astype("float32") * np.asarray(grid.expand(kept))
    return BsrMatrix.from_dense(w, grid, kept, order), w


def _normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def _product(block_shape):
    m, w = _matrix(block_shape, "column")
    for rows in (1, 40):
        x, bias = _normal(rows, 70), _normal(84)
        options = dict(out_features=84, gates=2, bias=bias, activation="relu", order="column")
        y = custom_ops.block_sparse_matmul(x, m.blocks, m.indices, m.indptr, **options)
        yield y, np.maximum(x.astype("float64") @ w + bias, 0)


def _gradients(block_shape):
    m, w = _matrix(block_shape, "column")
    x, dy, blocks = tf.constant(_normal(40, 70)), _normal(40, 84), tf.constant(m.blocks)
    with tf.GradientTape() as tape:
        tape.watch([x, blocks])
        y = custom_ops.block_sparse_matmul(x, blocks, m.indices, m.indptr, out_features=84, gates=2, order="column")
        product = tf.reduce_sum(y * dy)
    dx, dblocks = tape.gradient(product, [x, blocks])
    yield dx, dy.astype("float64") @ w.T
    dw = (x.numpy().astype("float64").T @ dy).astype("float32")
    yield dblocks, BsrMatrix.from_dense(dw, m.grid, m.block_mask, "column").blocks


def _gather():
    m, w = _matrix((4, 4), "row")
    ids = np.array([0, 69, 7, 7])
    yield custom_ops.block_sparse_gather(ids, m.blocks, m.indices, m.indptr, 70, 84), w[ids]


def _low_precision(dtype, x_dtype):
    m, _ = _matrix((8, 8), "column")
    blocks, scales = quantize_blocks(m.blocks, m.indices, m.indptr, m.grid, dtype)
    options = dict(block_height=8, out_features=84, gates=2, x_dtype=x_dtype)
    for rows in (1, 40):
        arguments = (_normal(rows, 70), blocks, scales, m.indices, m.indptr)
        y = custom_ops.block_sparse_matmul_low_precision(*arguments, **options)
        yield y, custom_ops.block_sparse_matmul_low_precision_reference(*arguments, **options)


def _recurrent_matrices(gates):
    """Kernel `[14, gates * 10]` and recurrent kernel `[10, gates * 10]`, half of their blocks stored."""
    rng = np.random.default_rng(0)
    matrices = []
    for height in (14, 10):
        grid = BlockGrid((height, gates * 10), (4, 4), gates=gates)
        kept = rng.random(grid.mask_shape) < 0.5
        w = 0.3 * rng.standard_normal(grid.shape).astype("float32")
        matrices.append(BsrMatrix.from_dense(w, grid, kept, "column"))
    return matrices


def _sequence(cell):
    op, reference, gates, states = _CELLS[cell]
    matrices = [tuple(map(tf.constant, (m.blocks, m.indices, m.indptr))) for m in _recurrent_matrices(gates)]
    arguments = (_normal(3, 5, 14), *[0.3 * _normal(3, 10)] * states, *matrices)

    def results(function):
        blocks = [matrix[0] for matrix in matrices]
        with tf.GradientTape() as tape:
            tape.watch(blocks)
            outputs = function(*arguments)
            total = tf.reduce_sum(outputs[0] ** 2)
        return [*outputs, *tape.gradient(total, blocks)]

    yield from zip(results(op), results(reference), strict=True)


def _low_precision_sequence(cell):
    _, reference, gates, states = _CELLS[cell]
    matrices = _recurrent_matrices(gates)
    stored, widened = [], []
    for m in matrices:
        blocks, scales = quantize_blocks(m.blocks, m.indices, m.indptr, m.grid, "int8")
        stored.append((blocks, scales, m.indices, m.indptr))
        widened.append((dequantize_blocks(blocks, scales, m.indices, m.indptr, m.grid), m.indices, m.indptr))
    x, given = _normal(3, 5, 14), [0.3 * _normal(3, 10)] * states
    kind = {"SimpleRNN": "rnn", "GRU": "gru", "LSTM": "lstm"}[cell]
    outputs = custom_ops.block_sparse_sequence_low_precision(x, given, stored, cell=kind, block_height=4)
    yield outputs[0], reference(x, *given, *widened)[0]


def _chosen_blocks():
    blocks, gates = _normal(15, 8, 6), np.abs(_normal(4, 5))
    ids = np.random.default_rng(2).permuted(np.tile(np.arange(15, dtype="int32"), (4, 1)), axis=1)[:, :5]
    arguments = (_normal(4, 37), blocks, ids, gates)
    options = dict(in_features=37, out_features=17)
    y = custom_ops.dynamic_block_matmul(*arguments, **options)
    yield y, custom_ops.dynamic_block_matmul_reference(*arguments, **options)


def _choice():
    scores = _normal(6, 30)
    yield from zip(custom_ops.choose_blocks(scores, 7), custom_ops.choose_blocks_reference(scores, 7), strict=True)
