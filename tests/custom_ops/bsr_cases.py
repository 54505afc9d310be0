"""Random block-sparse matrices for the tests of the ops, made and read with NumPy alone."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Bsr:
    """A matrix in block compressed sparse row format; elements outside of the matrix are NaN."""

    in_features: int
    out_features: int
    gates: int
    blocks: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    order: str = "row"

    def _elements(self):
        """Slices of the dense matrix and of the stored blocks, for each block."""
        _, height, width = self.blocks.shape
        gate_features = self.out_features // self.gates
        gate_columns = -(-gate_features // width)
        for line in range(len(self.indptr) - 1):
            for k in range(self.indptr[line], self.indptr[line + 1]):
                i, column = (line, int(self.indices[k])) if self.order == "row" else (int(self.indices[k]), line)
                gate, j = divmod(column, gate_columns)
                rows = min(height, self.in_features - i * height)
                columns = min(width, gate_features - j * width)
                first = gate * gate_features + j * width
                yield k, slice(i * height, i * height + rows), slice(first, first + columns)

    def dense(self, dtype=np.float64):
        """The matrix."""
        w = np.zeros([self.in_features, self.out_features], dtype)
        for k, rows, columns in self._elements():
            w[rows, columns] = self.blocks[k, : rows.stop - rows.start, : columns.stop - columns.start]
        return w

    def stored(self, dense):
        """The elements of a dense matrix at the stored blocks' places, zero outside of it."""
        blocks = np.zeros(self.blocks.shape, dense.dtype)
        for k, rows, columns in self._elements():
            blocks[k, : rows.stop - rows.start, : columns.stop - columns.start] = dense[rows, columns]
        return blocks

    @property
    def layout(self):
        """How the ops are told to read the arrays."""
        return {"out_features": self.out_features, "gates": self.gates, "order": self.order}

    @property
    def arrays(self):
        """What the ops take."""
        return self.blocks, self.indices, self.indptr


def random_bsr(in_features, out_features, block_shape, density=0.4, gates=1, seed=0, order="row"):
    """A matrix with about `density` of its blocks."""
    rng = np.random.default_rng(seed)
    height, width = block_shape
    grid_rows = -(-in_features // height)
    gate_features = out_features // gates
    grid_columns = gates * -(-gate_features // width)
    mask = rng.random([grid_rows, grid_columns]) < density
    mask = mask if order == "row" else mask.T
    indptr = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    indices = np.nonzero(mask)[1].astype(np.int32)
    blocks = rng.standard_normal([len(indices), height, width]).astype(np.float32)
    w = Bsr(in_features, out_features, gates, blocks, indices, indptr, order)
    inside = w.stored(np.ones([in_features, out_features]))
    w.blocks[inside == 0] = np.nan
    return w


def tolerance(dtype, terms, scale=1.0):
    """Largest error allowed of a sum of `terms` products of size about `scale`.

    Rounding errors of the additions are independent: they grow as the square root of the terms.
    """
    return 8 * np.finfo(dtype).eps * np.sqrt(max(terms, 1)) * scale


def assert_close(actual, expected, terms, scale=1.0):
    """Compares with a float64 result; NaN anywhere fails."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error = np.abs(actual.astype(np.float64) - expected)
    # A result's own rounding is relative to it, the sum's to the size of its terms.
    allowed = tolerance(actual.dtype, terms, scale) * (1 + np.abs(expected))
    assert np.all(error <= allowed), f"error {np.nanmax(error)}, allowed {allowed.min()}"
