"""What several tests need: tolerances, oracles, fresh processes."""

import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def assert_close(actual, expected, length, scale=1.0):
    """Asserts float32 results that are sums over `length` products of size `scale`."""
    tolerance = 8 * np.finfo("float32").eps * np.sqrt(length) * scale
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-5, atol=tolerance)


def loop_blocks(grid):
    """Yields `(i, j, row slice, column slice)` of every block, by plain counting."""
    height, width = grid.block_shape
    j = 0
    for gate in range(grid.gates):
        first, last = gate * grid.gate_width, (gate + 1) * grid.gate_width
        for left in range(first, last, width):
            for i, top in enumerate(range(0, grid.shape[0], height)):
                rows = slice(top, min(top + height, grid.shape[0]))
                yield i, j, rows, slice(left, min(left + width, last))
            j += 1


def random_block_sparse(rng, grid, density):
    """A float32 matrix whose blocks are zero but for a share of `density`, and its block mask."""
    w = rng.standard_normal(grid.shape).astype("float32")
    block_mask = rng.random(grid.mask_shape) < density
    for i, j, rows, cols in loop_blocks(grid):
        if not block_mask[i, j]:
            w[rows, cols] = 0
    return w, block_mask


def run_python(code, *arguments, timeout=300, **environment):
    """Runs `code` in a fresh process outside the repository; returns what it printed; raises if it failed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=os.path.dirname(sys.executable),
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
    )
    if result.returncode:
        raise AssertionError(f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout
