"""Bytes of a matrix in the sparse formats that [BSR] compares: CSR and BSR, laid out as in SciPy.

Both hold three arrays ([BSR] section 5 and Table 6; SciPy's `csr_array` and `bsr_array`):

- `data`: the values; CSR has one for each non-zero weight, BSR whole blocks, with the padding of edge blocks.
- `indices`: the column of each value, or the block column of each block.
- `indptr`: for each row, or block row, where it starts in `indices`; and where the last one ends.

With 16-bit values indices are 16-bit, too, as the paper has them: `uint16` where the largest entry of the array is at
most 65535, else `int32`, for `indices` and `indptr` each. With 32-bit values both are `int32`, or `int64` when the
largest entry needs it.

>>> from tf_blocksparse.blocks import BlockGrid
>>> grid = BlockGrid((1760, 1760), 4)
>>> round(bsr_storage(grid, num_blocks=19360, bits=16).overhead, 3)  # in 4 x 4 blocks, 90 % of them zero
0.064
>>> round(csr_storage((1760, 1760), nonzero_weights=19360 * 16, bits=16).overhead, 3)
1.011
"""

import dataclasses

BITS = (16, 32)


@dataclasses.dataclass(frozen=True)
class Storage:
    """Bytes of a matrix, by what they hold.

    Attributes:
        data: int, bytes of the values.
        indices: int, bytes of the columns; 0 for a dense matrix.
        indptr: int, bytes of where rows start; 0 for a dense matrix.
    """

    data: int
    indices: int = 0
    indptr: int = 0

    @property
    def total(self):
        """All bytes: int."""
        return self.data + self.indices + self.indptr

    @property
    def overhead(self):
        """Bytes of indices for each byte of values ([BSR] section 5): float; 0.0 if there are no values."""
        return (self.indices + self.indptr) / self.data if self.data else 0.0


def dense_storage(shape, bits=32):
    """`Storage` of a dense matrix `[in, out]`.

    Args:
        shape: `(in, out)`.
        bits: 16 or 32, of a value.
    """
    return Storage(shape[0] * shape[1] * _value_bytes(bits))


def csr_storage(shape, nonzero_weights, bits=32):
    """`Storage` of a matrix `[in, out]` in compressed sparse rows.

    Args:
        shape: `(in, out)`.
        nonzero_weights: int, weights that are not zero.
        bits: 16 or 32, of a value.
    """
    rows, cols = shape
    return _storage(rows, cols, nonzero_weights, nonzero_weights, bits)


def bsr_storage(grid, num_blocks, bits=32):
    """`Storage` of a matrix in block compressed sparse rows; edge blocks are stored in full.

    Args:
        grid: the `BlockGrid` of the matrix.
        num_blocks: int, blocks that are kept.
        bits: 16 or 32, of a value.
    """
    height, width = grid.block_shape
    return _storage(grid.rows, grid.cols, num_blocks, num_blocks * height * width, bits)


def _storage(rows, cols, entries, values, bits):
    return Storage(
        data=values * _value_bytes(bits),
        indices=entries * _index_bytes(cols - 1, bits),
        indptr=(rows + 1) * _index_bytes(entries, bits),
    )


def _value_bytes(bits):
    if bits not in BITS:
        raise ValueError(f"`bits` of a value must be one of {BITS}. Received: bits={bits!r}.")
    return bits // 8


def _index_bytes(largest, bits):
    """Bytes of an index type that holds `largest`."""
    if bits == 16 and largest < 2**16:
        return 2
    return 4 if largest < 2**31 else 8
