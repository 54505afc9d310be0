"""A quick test of the installed ops against plain computations, for `tf-blocksparse doctor`."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_blocksparse import custom_ops
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.quantize import quantize_blocks

_LOW_PRECISION = (("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32"), ("int8", "int8"))


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
