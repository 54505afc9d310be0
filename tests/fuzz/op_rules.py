"""What a call of an op has to answer, by plain loops and rules of their own."""

import dataclasses

import numpy as np

from fuzz.op_cases import ACTIVATIONS, ROWS_PER_WORD


class Refused(Exception):
    """The call is not sound."""


def _need(condition):
    if not condition:
        raise Refused


def expected(call):
    """What comes out, in float64, and how much it may be off; raises `Refused` if the call is not sound.

    What is not finite there, or hardly in float32, may be anything: sums may overflow in one order and not in another.
    """
    with np.errstate(all="ignore"):
        y, allowed = _RULES[call.op](call)
        return np.where(np.abs(y) < 1e36, y, np.nan), allowed


@dataclasses.dataclass
class _Matrix:
    """The stored blocks: shape of the matrix and, for each block, its rows, its columns and its part of the matrix."""

    shape: tuple
    places: list

    def multiply(self, x, size=lambda a: a):
        """`size(x) @ size(W)` of stored blocks only."""
        y = np.zeros((len(x), self.shape[1]))
        for _, rows, cols, block in self.places:
            y[:, cols] += size(x[:, rows]) @ size(block)
        return y

    def multiply_transposed(self, dy, size=lambda a: a):
        dx = np.zeros((len(dy), self.shape[0]))
        for _, rows, cols, block in self.places:
            dx[:, rows] += size(dy[:, cols]) @ size(block.T)
        return dx

    def cut(self, shape, part):
        """Blocks `shape` that hold `part(rows, columns)` where they lie in the matrix."""
        blocks = np.zeros(shape)
        for k, rows, cols, block in self.places:
            blocks[k, : block.shape[0], : block.shape[1]] = part(rows, cols)
        return blocks


def _product(call):
    attrs, biases = call.attrs, [value for name, value in call.tensors.items() if name.startswith("bias")]
    x, blocks, indices, indptr = (_wide(call.tensors[name]) for name in ("x", "blocks", "indices", "indptr"))
    _need(attrs["order"] in ("row", "column") and attrs["activation"] in ACTIVATIONS)
    _need(x.ndim == 2)
    w = _matrix(blocks, indices, indptr, x.shape[1], attrs["out_features"], attrs["gates"], attrs["order"])
    z, magnitude = w.multiply(x), w.multiply(x, np.abs)
    for bias in biases:
        _need(bias.shape == (attrs["out_features"],))
        z, magnitude = z + bias, magnitude + np.abs(bias)
    return ACTIVATIONS[attrs["activation"]](z), 1e-5 * magnitude + 1e-6


def _grad_x(call):
    w, _, dy = _pair(call)
    return w.multiply_transposed(dy), 1e-5 * w.multiply_transposed(dy, np.abs) + 1e-6


def _grad_blocks(call):
    w, x, dy = _pair(call)
    shape = call.tensors["blocks"].shape
    dblocks = w.cut(shape, lambda rows, cols: x[:, rows].T @ dy[:, cols])
    magnitude = w.cut(shape, lambda rows, cols: np.abs(x[:, rows]).T @ np.abs(dy[:, cols]))
    return dblocks, 1e-5 * magnitude + 1e-6


def _pair(call):
    x, dy, blocks, indices, indptr = (_wide(call.tensors[n]) for n in ("x", "dy", "blocks", "indices", "indptr"))
    attrs = call.attrs
    _need(attrs["order"] in ("row", "column"))
    _need(x.ndim == 2 and dy.ndim == 2 and len(x) == len(dy) and dy.shape[1] == attrs["out_features"])
    w = _matrix(blocks, indices, indptr, x.shape[1], attrs["out_features"], attrs["gates"], attrs["order"])
    return w, x, dy


def _look_up(call):
    w, ids = _table(call)
    dense = np.zeros(w.shape)
    for _, rows, cols, block in w.places:
        dense[rows, cols] = block
    return dense[ids], 0.0


def _look_up_grad(call):
    w, ids = _table(call)
    dy = _wide(call.tensors["dy"])
    _need(dy.shape == (len(ids), w.shape[1]))
    full, magnitude = np.zeros(w.shape), np.zeros(w.shape)
    np.add.at(full, ids, dy)
    np.add.at(magnitude, ids, np.abs(dy))
    shape = call.tensors["blocks"].shape
    return (w.cut(shape, lambda *place: full[place]), 1e-5 * w.cut(shape, lambda *place: magnitude[place]) + 1e-6)


def _table(call):
    ids, blocks, indices, indptr = (_wide(call.tensors[name]) for name in ("ids", "blocks", "indices", "indptr"))
    in_features, out_features = call.attrs["in_features"], call.attrs["out_features"]
    w = _matrix(blocks, indices, indptr, in_features, out_features, 1, "row")
    _need(ids.ndim == 1 and np.all(ids >= 0) and np.all(ids < in_features))
    return w, ids


def _low_precision(call):
    dtype = "int8" if call.tensors["blocks"].dtype == np.int8 else "bfloat16"
    x, stored, indices, indptr, scales, bias = map(_wide, call.tensors.values())
    attrs, p = call.attrs, ROWS_PER_WORD[dtype]
    _need(attrs["x_dtype"] in ("float32", dtype) and attrs["activation"] in ACTIVATIONS)
    height, out_features = attrs["block_height"], attrs["out_features"]
    _need(x.ndim == 2 and stored.ndim == 4 and 1 <= height < 2**31)
    _need(stored.shape[1] == -(-height // p) and stored.shape[3] == p)
    _need(scales.shape == ((out_features,) if dtype == "int8" else (0,)))
    _need(bias.shape in ((0,), (out_features,)))
    blocks = stored.transpose(0, 1, 3, 2).reshape(len(stored), stored.shape[1] * p, stored.shape[2])[:, :height]
    w = _matrix(blocks, indices, indptr, x.shape[1], out_features, attrs["gates"], "column")
    taken, off = _taken(x, attrs["x_dtype"])
    z = w.multiply(taken)
    allowed = 1e-5 * w.multiply(taken, np.abs) + w.multiply(off, np.abs) + 1e-6
    if dtype == "int8":
        z, allowed = z * scales, allowed * np.abs(scales)
    bias = bias if bias.size else np.zeros(1)
    return ACTIVATIONS[attrs["activation"]](z + bias), allowed + 1e-5 * np.abs(bias) + 1e-6


def _taken(x, x_dtype):
    """The numbers that x is taken as, and how far each may be off: roundings may fall to either side."""
    if x_dtype == "float32":
        return x, np.zeros_like(x)
    if x_dtype == "bfloat16":
        return x, np.abs(x) / 256 + 1e-37
    largest = np.abs(x).max(axis=1, initial=0, keepdims=True)
    finite = np.isfinite(x).all(axis=1, keepdims=True)
    served = finite & (largest >= 2.0**-100)
    scale = np.where(served, largest / 127, 1)
    # A row that is not finite is NaN in all outputs, which are not compared.
    taken = np.where(served, np.round(x / scale) * scale, 0)
    return np.where(finite, taken, np.nan), np.where(served, scale, 0) * np.ones_like(x)


def _matrix(blocks, indices, indptr, in_features, out_features, gates, order):
    """The stored blocks, if all of it is a pattern of a matrix of that size."""
    _need(blocks.ndim == 3 and indices.ndim == 1 and indptr.ndim == 1 and len(blocks) == len(indices))
    height, width = blocks.shape[1:]
    for size in (in_features, out_features, gates, height, width):
        _need(1 <= size < 2**31)
    _need(out_features % gates == 0)
    gate_features = out_features // gates
    gate_cols = -(-gate_features // width)
    rows, cols = -(-in_features // height), gates * gate_cols
    lines, cross = (rows, cols) if order == "row" else (cols, rows)
    _need(len(indptr) == lines + 1 and indptr[0] == 0 and indptr[-1] == len(indices) and np.all(np.diff(indptr) >= 0))
    places = []
    for line in range(lines):
        for k in range(indptr[line], indptr[line + 1]):
            _need(0 <= indices[k] < cross and (k == indptr[line] or indices[k] > indices[k - 1]))
            i, j = (line, indices[k]) if order == "row" else (indices[k], line)
            top, left = i * height, j % gate_cols * width
            tall, wide = min(height, in_features - top), min(width, gate_features - left)
            left += j // gate_cols * gate_features
            places.append((k, slice(top, top + tall), slice(left, left + wide), blocks[k, :tall, :wide]))
    return _Matrix((in_features, out_features), places)


def _wide(a):
    return a.astype("int64" if a.dtype in (np.int32, np.int64) else "float64")


_RULES = {
    "MatMul": _product,
    "MatMulGradX": _grad_x,
    "MatMulGradBlocks": _grad_blocks,
    "Gather": _look_up,
    "GatherGradBlocks": _look_up_grad,
    "LowPrecisionMatMul": _low_precision,
}
