"""Hostile calls of every op, drawn at random in a repeatable way, and plain rules for what each has to answer.

A call is drawn sound, as a file that is right would have it, and then up to three things of it are spoilt. `expected()`
says by rules of its own whether it is still sound, and if so what comes out; it shares no code with the ops.
"""

import dataclasses

import numpy as np
import tensorflow as tf

HOSTILE_INTS = (-1, 0, 1, 2, 3, 7, 40, 1000, 2**30, 2**31 - 1, -(2**31))
# None is so large that it may be sound and takes gigabytes, which is left to the allocator to refuse.
HOSTILE_ATTRS = (-(2**62), -1, 0, 1, 2, 3, 5, 24, 2**31, 2**33, 2**62, 2**63 - 1)
ROWS_PER_WORD = {"bfloat16": 2, "int8": 4}
ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": lambda z: np.where(np.isnan(z), z, np.maximum(z, 0)),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


@dataclasses.dataclass
class Call:
    """An op, its tensors by name and its attributes."""

    op: str
    tensors: dict
    attrs: dict

    def run(self, ops):
        """Computes the op, eagerly or in the graph that is being made."""
        if self.op == "MatMul":
            t = dict(self.tensors)
            biases = [t.pop(name) for name in list(t) if name.startswith("bias")]
            return ops.block_sparse_mat_mul(*t.values(), biases, **self.attrs)
        names = {
            "MatMulGradX": "block_sparse_mat_mul_grad_x",
            "MatMulGradBlocks": "block_sparse_mat_mul_grad_blocks",
            "Gather": "block_sparse_gather",
            "GatherGradBlocks": "block_sparse_gather_grad_blocks",
            "LowPrecisionMatMul": "block_sparse_low_precision_mat_mul",
        }
        return getattr(ops, names[self.op])(*self.tensors.values(), **self.attrs)


OPS = ("MatMul", "MatMulGradX", "MatMulGradBlocks", "Gather", "GatherGradBlocks", "LowPrecisionMatMul")


def draw(rng):
    """A `Call` of any op, with up to three things spoilt."""
    call = _sound(rng, OPS[rng.integers(len(OPS))])
    for _ in range(rng.integers(4)):
        _spoil(rng, call)
    return call


def _sound(rng, op):
    embedding, low = op.startswith("Gather"), op == "LowPrecisionMatMul"
    gates = 1 if embedding else int(rng.integers(1, 4))
    in_features, out_features = int(rng.integers(1, 30)), gates * int(rng.integers(1, 15))
    height, width = (int(side) for side in rng.integers(1, 9, 2))
    order = "row" if embedding else "column" if low else ("row", "column")[rng.integers(2)]
    rows, cols = -(-in_features // height), gates * -(-(out_features // gates) // width)
    mask = rng.random((rows, cols) if order == "row" else (cols, rows)) < rng.random()
    indices = np.nonzero(mask)[1].astype("int32")
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype("int32")
    pattern = {"indices": indices, "indptr": indptr}
    batch = int(rng.integers(0, 6))
    blocks = rng.integers(-4, 5, (len(indices), height, width)).astype("float32")
    x = rng.integers(-4, 5, (batch, in_features)).astype("float32")
    dy = rng.integers(-4, 5, (batch, out_features)).astype("float32")
    ids = rng.integers(0, in_features, batch).astype(("int32", "int64")[rng.integers(2)])
    layout = {"out_features": out_features, "gates": gates, "order": order}
    sizes = {"in_features": in_features, "out_features": out_features}
    activation = list(ACTIVATIONS)[rng.integers(4)]
    if op == "MatMul":
        bias = {"bias": dy[:1].sum(axis=0)} if rng.integers(2) else {}
        return Call(op, {"x": x, "blocks": blocks, **pattern, **bias}, {**layout, "activation": activation})
    if op == "MatMulGradX":
        return Call(op, {"dy": dy, "x": x, "blocks": blocks, **pattern}, layout)
    if op == "MatMulGradBlocks":
        return Call(op, {"x": x, "dy": dy, "blocks": blocks, **pattern}, layout)
    if op == "Gather":
        return Call(op, {"ids": ids, "blocks": blocks, **pattern}, sizes)
    if op == "GatherGradBlocks":
        return Call(op, {"ids": ids, "dy": dy, "blocks": blocks, **pattern}, sizes)
    dtype = ("bfloat16", "int8")[rng.integers(2)]
    p = ROWS_PER_WORD[dtype]
    stored = rng.integers(-4, 5, (len(indices), -(-height // p), width, p))
    tensors = {
        "x": x,
        "blocks": stored.astype(tf.as_dtype(dtype).as_numpy_dtype),
        **pattern,
        "scales": np.ones(out_features if dtype == "int8" else 0, "float32"),
        "bias": np.ones(out_features if rng.integers(2) else 0, "float32"),
    }
    attrs = {"block_height": height, "out_features": out_features, "gates": gates}
    x_dtype = ("float32", dtype)[rng.integers(2)]
    return Call(op, tensors, {**attrs, "x_dtype": x_dtype, "activation": activation})


def _spoil(rng, call):
    kind = rng.integers(8)
    if kind < 2:
        name = list(call.attrs)[rng.integers(len(call.attrs))]
        call.attrs[name] = _spoilt_attr(rng, name)
        return
    names = list(call.tensors) if kind < 5 else ["indices", "indptr"]
    name = names[rng.integers(len(names))]
    call.tensors[name] = _spoilt_tensor(rng, call.tensors[name])


def _spoilt_attr(rng, name):
    words = {
        "order": ("row", "column", "diagonal", ""),
        "activation": (*ACTIVATIONS, "gelu"),
        "x_dtype": ("float32", "bfloat16", "int8", "float64"),
    }
    choices = words.get(name, HOSTILE_ATTRS)
    return choices[rng.integers(len(choices))]


def _spoilt_tensor(rng, a):
    kind = rng.integers(8)
    if kind == 0:
        return a[None]  # one rank more
    if kind == 1 and a.ndim > 1:
        return a.reshape(-1)
    if kind == 2:
        return np.concatenate([a, a[:1]])
    if kind == 3:
        return a[: len(a) - 1]
    if kind == 4:
        return np.zeros((0, *a.shape[1:]), a.dtype)
    if kind == 5 and a.ndim > 1:
        return a[..., : a.shape[-1] - 1]
    a = a.copy()
    if a.size and a.dtype.kind == "i" and a.dtype.itemsize > 1:
        a.flat[rng.integers(a.size)] = HOSTILE_INTS[rng.integers(len(HOSTILE_INTS))]
    elif a.size and a.dtype.kind == "f":
        a.flat[rng.integers(a.size)] = (np.nan, np.inf, -np.inf, 3e38, 1e-42)[rng.integers(5)]
    return a
