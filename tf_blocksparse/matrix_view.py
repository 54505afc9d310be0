"""How a weight of any rank is seen as the matrix `[in, out]` that its layer multiplies by.

>>> MatrixView().matrix_shape((3, 3, 16, 32))  # the kernel of a convolution
(144, 32)
>>> MatrixView(in_axes=(0,), out_axes=(1, 2)).matrix_shape((64, 8, 16))  # a projection to 8 heads of 16
(64, 128)
"""

import dataclasses
import math

import numpy as np
from keras import ops

from tf_blocksparse.blocks import BlockGrid


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """Which axes of a weight are the rows of its matrix, and which the columns.

    Args:
        in_axes: tuple of int, axes that the product sums over, in the order of the matrix's rows. None: all but
            the last, which is how dense and convolution kernels are stored.
        out_axes: tuple of int, the other axes, in the order of the columns. None: the last.
        gate_axes: int, how many of the first `out_axes` number matrices of their own, on each of which the grid of
            blocks is laid.
    """

    in_axes: tuple | None = None
    out_axes: tuple | None = None
    gate_axes: int = 0

    def __post_init__(self):
        if (self.in_axes is None) != (self.out_axes is None):
            raise ValueError(
                f"Give both `in_axes` and `out_axes` or none. Received: in_axes={self.in_axes}, "
                f"out_axes={self.out_axes}."
            )
        if self.in_axes is not None:
            object.__setattr__(self, "in_axes", tuple(self.in_axes))
            object.__setattr__(self, "out_axes", tuple(self.out_axes))

    def matrix_shape(self, shape):
        """`(in, out)` of a weight of `shape`."""
        return tuple(math.prod(shape[a] for a in axes) for axes in self._axes(shape))

    def gates(self, shape):
        """Number of matrices that lie side by side in the columns of a weight of `shape`."""
        _, out_axes = self._axes(shape)
        return math.prod(shape[a] for a in out_axes[: self.gate_axes])

    def grid(self, shape, block_shape, gates=1):
        """The `BlockGrid` of a weight of `shape`, each of whose matrices has `gates` side by side."""
        return BlockGrid(self.matrix_shape(shape), block_shape, gates * self.gates(shape))

    def to_matrix(self, w):
        """The weight `w` as a matrix `[in, out]`: an array when it is one, else a tensor."""
        module = np if isinstance(w, np.ndarray) else ops
        order = self._order(w.shape)
        moved = w if order is None else module.transpose(w, order)
        return module.reshape(moved, self.matrix_shape(w.shape))

    def from_matrix(self, matrix, shape):
        """A matrix `[in, out]` as a weight of `shape`: a tensor."""
        order = self._order(shape)
        if order is None:
            return ops.reshape(matrix, shape)
        moved = ops.reshape(matrix, [shape[a] for a in order])
        return ops.transpose(moved, np.argsort(order).tolist())

    def get_config(self):
        """The arguments as plain values, for a Keras config."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def _order(self, shape):
        """The axes in the order of rows and columns, or None if they are stored in it."""
        in_axes, out_axes = self._axes(shape)
        order = in_axes + out_axes
        return None if order == tuple(range(len(shape))) else order

    def _axes(self, shape):
        rank = len(shape)
        if self.in_axes is None:
            if rank < 2:
                raise ValueError(f"A matrix has two axes or more. Received: a weight of shape {tuple(shape)}.")
            return tuple(range(rank - 1)), (rank - 1,)
        if sorted(self.in_axes + self.out_axes) != list(range(rank)):
            raise ValueError(
                f"in_axes={self.in_axes} and out_axes={self.out_axes} must name each axis of the weight once. "
                f"Received: a weight of shape {tuple(shape)}."
            )
        return self.in_axes, self.out_axes


def einsum_view(equation):
    """The `MatrixView` of the kernel of a `keras.layers.EinsumDense`: what its sum runs over are the rows.

    Rows are in the order of the input's axes, columns in that of the result's. An axis that the input, the kernel and
    the result share numbers matrices of their own.

    Args:
        equation: str, as in `"abc,cde->abde"`; the kernel is the second operand.
    """
    operands, result = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    rows = sorted((label for label in kernel if label not in result), key=inputs.find)
    gates = [label for label in result if label in kernel and label in inputs]
    columns = [label for label in result if label in kernel and label not in inputs]
    axes = [tuple(kernel.index(label) for label in labels) for labels in (rows, gates + columns)]
    return MatrixView(*axes, gate_axes=len(gates))
