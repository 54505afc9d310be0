import numpy as np
import pytest
import scipy.sparse

from helpers import random_block_sparse
from tf_blocksparse.block_pattern import best_block_shape
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.bsr import BsrMatrix

CASES = [
    BlockGrid((8, 12), (4, 4)),
    BlockGrid((7, 10), (4, 4)),
    BlockGrid((5, 36), (2, 4), gates=4),
    BlockGrid((3, 3), (8, 8)),
    BlockGrid((9, 6), (1, 16), gates=2),
]


@pytest.mark.parametrize("grid", CASES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("order", ["row", "column"])
def test_round_trip(grid, density, order):
    w, block_mask = random_block_sparse(np.random.default_rng(0), grid, density)
    matrix = BsrMatrix.from_dense(w, grid, order=order)
    np.testing.assert_array_equal(matrix.to_dense(), w)
    np.testing.assert_array_equal(matrix.block_mask, block_mask)
    assert matrix.num_blocks == block_mask.sum()
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32


def test_column_order_is_that_of_the_transpose():
    grid = BlockGrid((16, 24), (4, 8))
    w, _ = random_block_sparse(np.random.default_rng(1), grid, 0.4)
    ours, theirs = BsrMatrix.from_dense(w, grid, order="column"), scipy.sparse.bsr_matrix(w.T, blocksize=(8, 4))
    theirs.sort_indices()
    np.testing.assert_array_equal(ours.blocks, theirs.data.transpose(0, 2, 1))
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)


def test_order_is_scipys():
    grid = BlockGrid((16, 24), (4, 8))
    w, _ = random_block_sparse(np.random.default_rng(1), grid, 0.4)
    ours, theirs = BsrMatrix.from_dense(w, grid), scipy.sparse.bsr_matrix(w, blocksize=(4, 8))
    theirs.sort_indices()
    np.testing.assert_array_equal(ours.blocks, theirs.data)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)


def test_a_mask_may_keep_blocks_of_zeros():
    grid = BlockGrid((4, 4), (2, 2))
    matrix = BsrMatrix.from_dense(np.zeros((4, 4)), grid, np.ones((2, 2), bool))
    assert matrix.num_blocks == 4


def test_parts_that_do_not_fit():
    grid = BlockGrid((4, 4), (2, 2))
    with pytest.raises(ValueError, match=r"Expected a matrix of shape \(4, 4\)"):
        BsrMatrix.from_dense(np.zeros((4, 5)), grid)
    with pytest.raises(ValueError, match="do not fit the grid"):
        BsrMatrix(grid, np.zeros((1, 2, 3)), np.zeros(1, "int32"), np.zeros(3, "int32"))


@pytest.mark.parametrize("block_shape", [(4, 4), (12, 2), (8, 8), (16, 16), (1, 16), (16, 1), (32, 32)])
def test_block_shape_is_found_in_the_zeros(block_shape):
    rng = np.random.default_rng(2)
    pairs = [
        (random_block_sparse(rng, BlockGrid((100, 4 * 50), block_shape, 4), 0.15)[0], 4),
        (random_block_sparse(rng, BlockGrid((130, 128), block_shape), 0.15)[0], 1),
    ]
    assert best_block_shape(pairs) == block_shape
