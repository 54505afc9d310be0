import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import loop_blocks
from tf_blocksparse import blocks
from tf_blocksparse.blocks import BlockGrid

grids = st.builds(
    lambda rows, gate_width, height, width, gates: BlockGrid((rows, gates * gate_width), (height, width), gates),
    *[st.integers(1, 13), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)],
)


@given(grids, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_scores_and_expand_agree_with_plain_loops(grid, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(grid.shape).astype("float32")
    block_mask = rng.random(grid.mask_shape) < 0.5
    expanded = np.zeros(grid.shape, bool)
    expected = {score: np.zeros(grid.mask_shape) for score in blocks.SCORES}
    sizes = np.zeros(grid.mask_shape, int)
    for i, j, rows, cols in loop_blocks(grid):
        block = w[rows, cols].astype("float64")
        expanded[rows, cols] = block_mask[i, j]
        sizes[i, j] = block.size
        expected["max"][i, j] = np.abs(block).max()
        expected["mean"][i, j] = np.abs(block).mean()
        expected["l2"][i, j] = np.sqrt((block**2).sum())
    np.testing.assert_array_equal(grid.block_sizes(), sizes)
    np.testing.assert_array_equal(np.asarray(grid.expand(block_mask)), expanded)
    np.testing.assert_array_equal(grid.nonzero_blocks(np.where(expanded, w, 0)), block_mask)
    for score, values in expected.items():
        np.testing.assert_allclose(np.asarray(grid.scores(w, score)), values, rtol=1e-5)


@given(grids)
@settings(max_examples=30, deadline=None)
def test_blocks_put_together_are_the_matrix_again(grid):
    w = np.arange(np.prod(grid.shape), dtype="float32").reshape(grid.shape)
    np.testing.assert_array_equal(np.asarray(grid.from_blocks(grid.to_blocks(w))), w)


def test_no_block_spans_two_gates():
    grid = BlockGrid((4, 4 * 9), (4, 4), gates=4)
    assert grid.mask_shape == (1, 12)
    w = np.zeros(grid.shape, "float32")
    w[0, 8] = 1.0  # last column of the first gate
    w[0, 9] = 2.0  # first column of the second
    assert np.flatnonzero(grid.nonzero_blocks(w)).tolist() == [2, 3]


def test_density_and_sparsity_are_fractions_of_blocks():
    block_mask = np.array([[True, False], [False, False]])
    assert blocks.density(block_mask) == 0.25
    assert blocks.sparsity(block_mask) == 0.75


@pytest.mark.parametrize("bad", [0, -4, (4, 0), (1, 2, 3), (4,), 2.5, "4x4", None, True, (4.0, 4)])
def test_bad_block_shapes(bad):
    with pytest.raises(ValueError, match=r"block_shape.*Received.*Example"):
        BlockGrid((8, 8), bad)


def test_bad_grids():
    with pytest.raises(ValueError, match=r"gates=3 for a matrix of shape \(4, 8\)"):
        BlockGrid((4, 8), 2, gates=3)
    with pytest.raises(ValueError, match="matrix"):
        BlockGrid((4, 8, 2), 2)
    with pytest.raises(ValueError, match=r"score='min'"):
        BlockGrid((4, 8), 2).scores(np.zeros((4, 8)), "min")
