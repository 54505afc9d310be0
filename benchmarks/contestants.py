"""Who takes part: the block-sparse op, the dense products and the sparse ones that a user could take instead.

Every rival gets its inputs in the layout that it likes, prepared in advance: sparse ones have `W^T x` with `x`
`[in, batch]`, where libraries have the product of a sparse matrix on the left only. Rivals that know no ragged
blocks multiply a padded matrix.
"""

import functools
import importlib.metadata
import importlib.util
import warnings

import mkl_products
import numpy as np
import tensorflow as tf
from timing import graph_contestant, python_contestant, variables

from tf_blocksparse.bsr import pattern
from tf_blocksparse.custom_ops import block_sparse_matmul

OURS = "block-sparse"
BASELINE = ("tf.matmul", "NumPy")  # the dense products that count: what TensorFlow and Keras's users have already


class Unavailable(Exception):
    """A contestant that cannot take part; says why."""


def ours(problem, order="column"):
    multiply, blocks = block_sparse_product(problem.matrix, order)
    product = functools.partial(multiply, blocks=blocks)
    inputs = variables(problem.inputs)
    return graph_contestant(OURS, "ours", product, inputs, block_shape=problem.matrix.grid.block_shape)


def block_sparse_product(matrix, order):
    """The op on a `BsrMatrix`, as layers call it: `(function of x and blocks, variable of the blocks)`."""
    blocks, indices, indptr = variables(stored_in(matrix, order))
    grid = matrix.grid

    def multiply(x, blocks):
        sizes = {"out_features": grid.shape[1], "gates": grid.gates}
        return block_sparse_matmul(x, blocks, indices, indptr, order=order, **sizes)

    return multiply, blocks


def stored_in(matrix, order):
    """`(blocks, indices, indptr)` of a `BsrMatrix` that is stored by row, sorted by block row or by block column."""
    if order == "row":
        return matrix.blocks, matrix.indices, matrix.indptr
    block_mask = matrix.block_mask
    place = np.zeros(block_mask.shape, np.int64)  # of each block among those stored by row
    place[block_mask] = np.arange(matrix.num_blocks)
    return matrix.blocks[place.T[block_mask.T]], *pattern(block_mask, order)


def tf_matmul(problem):
    w = tf.Variable(problem.dense)
    return graph_contestant("tf.matmul", "dense", lambda x: tf.matmul(x, w), variables(problem.inputs))


def numpy_matmul(problem):
    w = problem.dense
    return python_contestant("NumPy", "dense", lambda x: x @ w, problem.inputs, own_threads=True)


def torch_mm(problem):
    torch = _torch()
    w = torch.from_numpy(problem.dense)
    inputs = [torch.from_numpy(x) for x in problem.inputs]
    return python_contestant(
        "torch mm", "dense", lambda x: torch.mm(x, w), inputs,
        result=lambda: torch.mm(inputs[0], w).numpy(), own_threads=True,
    )  # fmt: skip


def mkl_sgemm(problem):
    product = _with_mkl(lambda: mkl_products.dense_product(problem.dense))
    return python_contestant("MKL sgemm", "dense", product, problem.inputs, own_threads=True)


def scipy_bsr(problem):
    w, inputs = _transposed(problem)
    return _left_contestant("SciPy BSR", problem, w.__matmul__, inputs)


def torch_bsr(problem):
    torch = _torch()
    w, inputs = _transposed(problem)
    inputs = [torch.from_numpy(x) for x in inputs]
    parts = (torch.from_numpy(np.ascontiguousarray(a)) for a in (w.indptr, w.indices, w.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its BSR tensors beta
        matrix = torch.sparse_bsr_tensor(*parts, size=w.shape, check_invariants=False)
    try:
        torch.mm(matrix, inputs[0])
    except RuntimeError as error:
        raise Unavailable(str(error).splitlines()[0]) from error
    return _left_contestant("torch BSR", problem, lambda x: torch.mm(matrix, x), inputs, own_threads=True)


def mkl_bsr(problem):
    w, inputs = _transposed(problem)
    product = _with_mkl(lambda: mkl_products.bsr_product(w))
    return _left_contestant("MKL BSR", problem, product, inputs, own_threads=True)


def tf_csr(problem):
    dense = problem.dense.T
    places = np.argwhere(dense)
    matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.constant(places, tf.int64),
        values=tf.constant(dense[tuple(places.T)]),
        dense_shape=tf.constant(dense.shape, tf.int64),
    )
    inputs = [tf.constant(np.ascontiguousarray(x.T)) for x in problem.inputs]

    # Not in a graph: one that captures such a matrix does not know its shape and refuses the product.
    def product(x):
        return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=x)

    return python_contestant(
        "TF CSR", "sparse", product, inputs,
        result=lambda: product(inputs[0]).numpy().T, block_shape=problem.matrix.grid.block_shape,
    )  # fmt: skip


DENSE = (tf_matmul, numpy_matmul, torch_mm, mkl_sgemm)
SPARSE = (scipy_bsr, tf_csr, torch_bsr, mkl_bsr)
NAMES = {
    tf_matmul: "tf.matmul", numpy_matmul: "NumPy", torch_mm: "torch mm", mkl_sgemm: "MKL sgemm",
    scipy_bsr: "SciPy BSR", tf_csr: "TF CSR", torch_bsr: "torch BSR", mkl_bsr: "MKL BSR",
}  # fmt: skip


def gather(problems, order="column"):
    """Contestants of problems that differ in their blocks only; dense ones take part once.

    Args:
        problems: list of `Problem`.
        order: "row" or "column", in which the block-sparse op has its blocks.

    Returns:
        `(contestants, unavailable)`: a list, and a dict of the reason of each one that cannot take part, by
        `(name, block_shape)`.
    """
    makers = [(maker, problems[0]) for maker in DENSE]
    makers += [(maker, problem) for problem in problems for maker in SPARSE]
    contestants, unavailable = [ours(problem, order) for problem in problems], {}
    for maker, problem in makers:
        try:
            contestants.append(maker(problem))
        except Unavailable as reason:
            block_shape = problem.matrix.grid.block_shape if maker in SPARSE else None
            unavailable[NAMES[maker], block_shape] = str(reason)
    return contestants, unavailable


def _torch():
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("not installed: pip install torch")
    import torch

    return torch


def _with_mkl(make):
    try:
        return make()
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable("not installed: pip install mkl") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise Unavailable(str(error)) from error


def _transposed(problem):
    """`W^T` as a `scipy.sparse.bsr_array`, edge blocks made whole, and inputs `[in, batch]` padded to fit."""
    if importlib.util.find_spec("scipy") is None:
        raise Unavailable("not installed: pip install scipy")
    from scipy import sparse

    matrix = problem.matrix
    height, width = matrix.grid.block_shape
    shape = (matrix.grid.rows * height, matrix.grid.cols * width)
    w = sparse.bsr_array((matrix.blocks, matrix.indices, matrix.indptr), shape=shape).T
    w.sort_indices()
    padding = ((0, 0), (0, shape[0] - matrix.grid.shape[0]))
    return w, [np.ascontiguousarray(np.pad(x, padding).T) for x in problem.inputs]


def _left_contestant(name, problem, product, inputs, **fields):
    """A contestant whose product is `W^T x`, of the padded matrix."""
    grid = problem.matrix.grid

    def result():
        y = np.asarray(product(inputs[0])).T  # [batch, padded out]
        return y.reshape(len(y), grid.gates, -1)[:, :, : grid.gate_width].reshape(len(y), -1)

    return python_contestant(name, "sparse", product, inputs, result, block_shape=grid.block_shape, **fields)
