"""`report()`: what of a model is sparse, what is not, and why."""

import dataclasses
import io

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

from tf_blocksparse import blocks
from tf_blocksparse.convert import TWINS, why_not
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight
from tf_blocksparse.pruning import BlockPruningConstraint, pruned_weights
from tf_blocksparse.pruning.weights import PrunableWeight, leaves, weights_of


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """One weight matrix of a model.

    Attributes:
        path: layer and weight, as in `"lstm/recurrent_kernel"`.
        state: `"dense"`, `"pruned"` (zeroed while it trains) or `"block-sparse"` (converted).
        shape: `(in, out)`; the shape of the weight where it is no matrix.
        block_shape: `(height, width)`, or None.
        grid: `(rows, cols)` of the grid of blocks, or None.
        sparsity: fraction of the blocks that are zero; of a dense weight, fraction of its elements.
        multiply_adds: multiplications and additions, counted as one, for one input vector. 0 for look-ups.
        dense_bytes: float32 bytes of the whole matrix.
        stored_bytes: bytes of the weight as it is held now, with its indices.
        note: why it is not block-sparse, if it is not.
    """

    path: str
    state: str
    shape: tuple
    block_shape: tuple | None
    grid: tuple | None
    sparsity: float
    multiply_adds: int
    dense_bytes: int
    stored_bytes: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report()` returns: print it, or read `weights`."""

    name: str
    weights: tuple

    @property
    def sparsity(self):
        """Fraction of the elements of all listed weights that are zero, taken by block: float."""
        dense = sum(w.dense_bytes for w in self.weights)
        return sum(w.sparsity * w.dense_bytes for w in self.weights) / dense if dense else 0.0

    @property
    def multiply_adds(self):
        """Multiply-adds of all listed weights for one input vector."""
        return sum(w.multiply_adds for w in self.weights)

    @property
    def stored_bytes(self):
        """Bytes of all listed weights as they are held now."""
        return sum(w.stored_bytes for w in self.weights)

    def to_dict(self):
        """Plain Python values, for JSON."""
        return {"name": self.name, "weights": [dataclasses.asdict(w) for w in self.weights]}

    def __str__(self):
        table = Table(title=f"{self.name}: sparsity {self.sparsity:.3f}")
        for column in ("weight", "state", "shape", "block", "grid"):
            table.add_column(column)
        for column in ("sparsity", "multiply-adds", "bytes dense", "bytes stored"):
            table.add_column(column, justify="right")
        table.add_column("why not block-sparse")
        for w in self.weights:
            table.add_row(
                w.path,
                w.state,
                _by(w.shape),
                _by(w.block_shape),
                _by(w.grid),
                f"{w.sparsity:.3f}",
                f"{w.multiply_adds:,}",
                f"{w.dense_bytes:,}",
                f"{w.stored_bytes:,}",
                w.note,
            )
        text = io.StringIO()
        Console(file=text, width=200).print(table)
        return text.getvalue()


def report(model):
    """Says of every weight matrix of a model whether it is sparse, how much, and why not.

    Args:
        model: a built `keras.Model` or layer: dense, pruned, stripped or converted.

    Returns:
        A `Report`: prints as a table; `.weights` has a `WeightReport` for every weight of two or more dimensions.

    Raises:
        TypeError: if `model` is no Keras layer or model.
        ValueError: if it has no weights yet.

    Example:

    >>> print(report(model))
    >>> report(model).weights[0].sparsity
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"report() takes a Keras model or layer. Received: {model!r} of type {type(model).__name__}.")
    if not model.built:
        raise ValueError(f"{model.name!r} is not built: it has no weights yet. Call it once.")
    return Report(model.name, tuple(row for leaf in leaves(model) for row in _rows(leaf)))


def block_masks(model):
    """Masks of all pruned and block-sparse weights: dict from path to bool `[grid rows, grid cols]`, True = kept."""
    masks = {}
    for leaf in leaves(model):
        for weight in _sparse_weights(leaf.layer):
            masks[f"{leaf.path}/{weight.name}"] = weight.bsr().block_mask
    for weight in pruned_weights(model):
        if weight.constraint.grid is not None:
            masks[weight.path] = ops.convert_to_numpy(weight.constraint.block_mask)
    return masks


def _sparse_weights(layer):
    return [v for v in vars(layer).values() if isinstance(v, BlockSparseWeight)]


def _rows(leaf):
    """Yields a `WeightReport` for each matrix of a layer that holds no others."""
    layer = leaf.layer
    sparse = _sparse_weights(layer)
    prunable = [PrunableWeight(leaf, attributes) for attributes in weights_of(layer)]
    if sparse:
        yield from (_converted_row(leaf, weight) for weight in sparse)
    elif prunable:
        yield from (_prunable_row(weight) for weight in prunable if weight.variable is not None)
    else:
        yield from (_other_row(leaf, v) for v in layer.weights if len(v.shape) > 1)


def _converted_row(leaf, weight):
    matrix = weight.bsr()
    return WeightReport(
        path=f"{leaf.path}/{weight.name}",
        state="block-sparse",
        shape=weight.grid.shape,
        block_shape=weight.grid.block_shape,
        grid=weight.grid.mask_shape,
        sparsity=blocks.sparsity(matrix.block_mask),
        multiply_adds=_multiply_adds(weight.grid, matrix.block_mask, weight.name),
        dense_bytes=4 * int(np.prod(weight.grid.shape)),
        stored_bytes=matrix.blocks.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes,
    )


def _prunable_row(weight):
    variable, constraint = weight.variable, weight.constraint
    row = WeightReport(
        path=weight.path,
        state="dense",
        shape=tuple(variable.shape),
        block_shape=None,
        grid=None,
        sparsity=_zeros(variable),
        multiply_adds=0 if weight.kind == "embedding" else int(np.prod(variable.shape)),
        dense_bytes=4 * int(np.prod(variable.shape)),
        stored_bytes=4 * int(np.prod(variable.shape)),
        note=_note(weight),
    )
    if not isinstance(constraint, BlockPruningConstraint) or constraint.grid is None:
        return row
    block_mask = ops.convert_to_numpy(constraint.block_mask)
    return dataclasses.replace(
        row,
        state="pruned",
        block_shape=constraint.block_shape,
        grid=constraint.grid.mask_shape,
        sparsity=blocks.sparsity(block_mask),
        multiply_adds=_multiply_adds(constraint.grid, block_mask, weight.attributes.weight),
    )


def _note(weight):
    """Why `convert()` would leave the layer around a weight as it is."""
    chain = weight.leaf.chain
    layer = chain[-1] if type(chain[-1]) in TWINS or len(chain) == 1 else chain[-2]
    reason = why_not(layer)
    return "not converted yet" if reason is None else reason


def _other_row(leaf, variable):
    size = int(np.prod(variable.shape))
    return WeightReport(
        path=f"{leaf.path}/{variable.name}",
        state="dense",
        shape=tuple(variable.shape),
        block_shape=None,
        grid=None,
        sparsity=_zeros(variable),
        multiply_adds=size,
        dense_bytes=4 * size,
        stored_bytes=ops.convert_to_numpy(variable).nbytes,
        note=f"{type(leaf.layer).__name__} cannot be pruned",
    )


def _zeros(variable):
    values = ops.convert_to_numpy(variable)
    return float(np.mean(values == 0)) if values.size else 0.0


def _multiply_adds(grid, block_mask, name):
    """Elements in kept blocks; a look-up multiplies nothing."""
    return 0 if name == "embeddings" else int(grid.block_sizes()[np.asarray(block_mask)].sum())


def _by(shape):
    return "" if shape is None else " x ".join(map(str, shape))
