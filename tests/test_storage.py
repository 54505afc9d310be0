import numpy as np
import pytest
import scipy.sparse

from helpers import random_block_sparse
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.storage import bsr_storage, csr_storage, dense_storage


@pytest.mark.parametrize("block,most", [(4, 0.0625), (16, 0.01)])
def test_overhead_of_indices_is_the_papers(block, most):
    """[BSR] section 5, with indices of 16 bits: 4x4 blocks 6.25 %, 16x16 below 1 %, CSR 100 % and more."""
    grid = BlockGrid((1760, 1760), block)
    kept = grid.num_blocks // 10
    storage = bsr_storage(grid, kept, bits=16)
    assert storage.indices / storage.data == 1 / block**2 <= most
    assert csr_storage(grid.shape, kept * block**2, bits=16).overhead >= 1.0


@pytest.mark.parametrize("shape,block", [((64, 96), (4, 8)), ((64, 96), (16, 16)), ((300, 200), (1, 1))])
def test_32_bit_bytes_are_scipys(shape, block):
    grid = BlockGrid(shape, block)
    w, _ = random_block_sparse(np.random.default_rng(0), grid, 0.2)
    w[w != 0] += np.sign(w[w != 0])  # no zero within a block
    csr, bsr = scipy.sparse.csr_array(w), scipy.sparse.bsr_array(w, blocksize=block)
    for ours, theirs in [
        (csr_storage(shape, np.count_nonzero(w)), csr),
        (bsr_storage(grid, int(grid.nonzero_blocks(w).sum())), bsr),
    ]:
        assert (ours.data, ours.indices, ours.indptr) == (
            theirs.data.nbytes,
            theirs.indices.nbytes,
            theirs.indptr.nbytes,
        )
    assert dense_storage(shape).total == w.nbytes


def test_edge_blocks_are_stored_in_full():
    assert bsr_storage(BlockGrid((5, 7), (4, 4)), num_blocks=3).data == 3 * 16 * 4


@pytest.mark.parametrize("entries,indptr", [(65535, 2), (65536, 4)])
def test_16_bit_indices_only_where_they_hold_the_largest(entries, indptr):
    storage = csr_storage((10, 65536), entries, bits=16)
    assert storage.indices == 2 * entries  # columns go to 65535
    assert storage.indptr == 11 * indptr
    assert csr_storage((10, 65537), entries, bits=16).indices == 4 * entries


def test_bits():
    with pytest.raises(ValueError, match="bits=8"):
        dense_storage((4, 4), bits=8)
