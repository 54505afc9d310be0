"""`report()`: what of a model is sparse, what is not, and why; and how many bytes that takes."""

import dataclasses
import io
import math

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

from tf_blocksparse import blocks
from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.convert import TWINS, why_not
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight
from tf_blocksparse.matrix_view import MatrixView
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.pruning.weights import layer_paths, prunable_weights, sublayers, weights_with_constraint
from tf_blocksparse.storage import bsr_storage, csr_storage, dense_storage


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """One weight matrix of a model.

    Bytes are those of the three arrays of SciPy's formats, values and indices of 32 bits, or of 16 where the name
    says so; `tf_blocksparse.storage` defines them.

    Attributes:
        path: layer and weight, as in `"lstm/recurrent_kernel"`.
        state: `"dense"` (not pruned), `"pruned"` (zeroed while it trains) or `"block-sparse"` (converted).
        shape: shape of the weight.
        matrix_shape: `(in, out)` of the matrix that it is seen as; of a convolution
            `(height * width * in, out)`.
        block_shape: `(height, width)`, or None.
        grid: `(rows, cols)` of the grid of blocks, or None.
        num_blocks: int, blocks that are kept, or None.
        sparsity: fraction of the blocks that are zero; of a dense weight, fraction of its elements.
        weight_sparsity: fraction of the elements that are zero; those of dropped blocks are.
        multiply_adds: multiplications and additions, counted as one, for one input vector; of a convolution, for
            one position. Kept blocks count in full. 0 for look-ups and for what is added.
        dense_bytes: of the whole matrix.
        csr_bytes: of the non-zero elements in compressed sparse rows.
        bsr_bytes: of the kept blocks in block compressed sparse rows, edge blocks stored in full; or None.
        dense_bytes_16, csr_bytes_16, bsr_bytes_16: the same with values and indices of 16 bits.
        stored_bytes: bytes of the weight as it is held now, with its indices.
        note: why it is not pruned or not block-sparse, and what is wrong with it.

    Reference:
        [BSR] section 5, Table 6; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """

    path: str
    state: str
    shape: tuple
    matrix_shape: tuple
    block_shape: tuple | None
    grid: tuple | None
    num_blocks: int | None
    sparsity: float
    weight_sparsity: float
    multiply_adds: int
    dense_bytes: int
    csr_bytes: int
    bsr_bytes: int | None
    dense_bytes_16: int
    csr_bytes_16: int
    bsr_bytes_16: int | None
    stored_bytes: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report()` returns: print it, or read `weights`, a tuple of `WeightReport`.

    The totals of the sparse formats take each weight in that format, or dense where that is smaller or it has no
    blocks: so one would store the model.
    """

    name: str
    weights: tuple

    @property
    def sparsity(self):
        """Mean `sparsity` of the listed weights, in which each counts by its number of elements: float."""
        return self._mean("sparsity")

    @property
    def weight_sparsity(self):
        """Fraction of the elements of all listed weights that are zero: float."""
        return self._mean("weight_sparsity")

    @property
    def multiply_adds(self):
        """Multiply-adds of all listed weights for one input vector."""
        return sum(w.multiply_adds for w in self.weights)

    @property
    def dense_bytes(self):
        """32-bit bytes of all listed weights as dense matrices."""
        return sum(w.dense_bytes for w in self.weights)

    @property
    def csr_bytes(self):
        """32-bit bytes of all listed weights in CSR, or dense where that is smaller."""
        return self._smaller("csr_bytes", "dense_bytes")

    @property
    def bsr_bytes(self):
        """32-bit bytes of all listed weights in BSR, or dense where that is smaller."""
        return self._smaller("bsr_bytes", "dense_bytes")

    @property
    def dense_bytes_16(self):
        """16-bit bytes of all listed weights as dense matrices."""
        return sum(w.dense_bytes_16 for w in self.weights)

    @property
    def csr_bytes_16(self):
        """16-bit bytes of all listed weights in CSR, or dense where that is smaller."""
        return self._smaller("csr_bytes_16", "dense_bytes_16")

    @property
    def bsr_bytes_16(self):
        """16-bit bytes of all listed weights in BSR, or dense where that is smaller."""
        return self._smaller("bsr_bytes_16", "dense_bytes_16")

    @property
    def stored_bytes(self):
        """Bytes of all listed weights as they are held now."""
        return sum(w.stored_bytes for w in self.weights)

    def to_dict(self):
        """Plain Python values, for JSON: `"name"`, `"weights"`, a list of dicts, and `"totals"`."""
        return {
            "name": self.name,
            "weights": [dataclasses.asdict(w) for w in self.weights],
            "totals": {name: getattr(self, name) for name in _TOTALS},
        }

    def to_columns(self):
        """The weights by column: dict from the name of a field of `WeightReport` to a list.

        Example:

        >>> pandas.DataFrame(report(model).to_columns())
        """
        return {field.name: [getattr(w, field.name) for w in self.weights] for field in _FIELDS}

    def __str__(self):
        table = Table(title=f"{self.name}: sparsity {self.sparsity:.3f}", caption=_CAPTION, show_footer=True)
        longest = max((len(w.path) for w in self.weights), default=0)
        table.add_column("weight", footer="total", overflow="fold", no_wrap=longest <= 60)
        for column in ("state", "[in, out]", "block", "grid"):
            table.add_column(column)
        numbers = {
            "zero\nblocks": f"{self.sparsity:.3f}",
            "zero\nweights": f"{self.weight_sparsity:.3f}",
            "multiply-\nadds": f"{self.multiply_adds:,}",
            "bytes\ndense": f"{self.dense_bytes:,}",
            "bytes\nCSR": f"{self.csr_bytes:,}",
            "bytes\nBSR": f"{self.bsr_bytes:,}",
            "bytes\nstored": f"{self.stored_bytes:,}",
        }
        for column, total in numbers.items():
            table.add_column(column, justify="right", footer=total, no_wrap=True)
        table.add_column("note")
        for w in self.weights:
            table.add_row(
                w.path,
                w.state,
                _by(w.matrix_shape) + ("" if w.shape == w.matrix_shape else f"\nof {_by(w.shape)}"),
                _by(w.block_shape),
                _by(w.grid),
                "" if w.block_shape is None else f"{w.sparsity:.3f}",
                f"{w.weight_sparsity:.3f}",
                f"{w.multiply_adds:,}",
                f"{w.dense_bytes:,}",
                f"{w.csr_bytes:,}",
                "" if w.bsr_bytes is None else f"{w.bsr_bytes:,}",
                f"{w.stored_bytes:,}",
                w.note,
            )
        text = io.StringIO()
        Console(file=text, width=200, markup=False).print(table)  # paths and notes may have brackets
        return text.getvalue()

    def _mean(self, name):
        size = sum(math.prod(w.matrix_shape) for w in self.weights)
        return sum(getattr(w, name) * math.prod(w.matrix_shape) for w in self.weights) / size if size else 0.0

    def _smaller(self, name, dense):
        sizes = [(getattr(w, name), getattr(w, dense)) for w in self.weights]
        return sum(whole if sparse is None else min(sparse, whole) for sparse, whole in sizes)


_CAPTION = (
    "CSR and BSR as in SciPy, with 32-bit values and indices; stored: as the model holds the weight now. In the totals "
    "of CSR and BSR a weight counts as dense where that is smaller or it has no blocks."
)
_FIELDS = dataclasses.fields(WeightReport)
_TOTALS = tuple(field.name for field in _FIELDS if isinstance(getattr(Report, field.name, None), property))


def report(model):
    """Says of every weight matrix of a model whether it is sparse, how much, what it takes, and why not.

    Args:
        model: a built `keras.Model` or layer: dense, pruned, stripped or converted.

    Returns:
        A `Report`: prints as a table, with 32-bit bytes and the totals in its last row; `.weights` has a
        `WeightReport` for every weight of two or more dimensions but biases; `.to_dict()` and `.to_columns()` give
        all of it.

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
    return Report(model.name, tuple(_Reporter(model).rows()))


def block_masks(model):
    """Masks of all pruned and block-sparse weights: dict from path to bool `[grid rows, grid cols]`, True = kept."""
    masks = {}
    for place in layer_paths(model):
        for weight in _sparse_weights(place.layer):
            masks[f"{place.path}/{weight.name}"] = weight.bsr().block_mask
    for weight in pruned_weights(model):
        if weight.pruning.grid is not None:
            masks[weight.path] = ops.convert_to_numpy(weight.pruning.block_mask)
    return masks


def _sparse_weights(layer):
    return [v for v in vars(layer).values() if isinstance(v, BlockSparseWeight)]


class _Reporter:
    """Goes through the weights of a model."""

    def __init__(self, model):
        self._model = model
        self._prunable = {id(w.variable): w for w in prunable_weights(model) if w.variable is not None}
        self._problems = [w for w in weights_with_constraint(model) if w.problem]
        self._any_pruned = any(w.pruning is not None for w in self._prunable.values())
        self._reasons = {}  # id of a layer -> why convert() leaves it

    def rows(self):
        """Yields a `WeightReport` for each matrix, each variable once, in the order of the model."""
        seen = set()
        for place in layer_paths(self._model):
            sparse = _sparse_weights(place.layer)
            if sparse:
                yield from (_converted_row(place, weight) for weight in sparse)
                continue
            inside = {id(v) for sublayer in sublayers(place.layer) for v in sublayer.weights}
            for variable in place.layer.weights:
                is_matrix = len(variable.shape) > 1 and variable.name != "bias"  # a GRU's has two rows
                if is_matrix and id(variable) not in inside | seen:
                    seen.add(id(variable))
                    yield self._row(place, variable)

    def _row(self, place, variable):
        weight = self._prunable.get(id(variable))
        if weight is None:
            path, note = f"{place.path}/{variable.name}", f"cannot be pruned: {self._problem(place.layer, variable)}"
            w = MatrixView().to_matrix(ops.convert_to_numpy(variable))
            return _dense_row(path, variable, w, variable.name != "beta", note)
        if weight.pruning is not None:
            return _pruned_row(weight, self._why_not_converted(weight))
        note = "left alone: not selected by prune_blocks()" if self._any_pruned else self._why_not_converted(weight)
        return _dense_row(weight.path, variable, weight.matrix(), weight.kind != "embedding", note)

    def _problem(self, owner, variable):
        """Why a weight cannot be pruned."""
        for weight in self._problems:
            # DepthwiseConv2D calls its depthwise kernel "kernel".
            named_alike = weight.variable is None and weight.name.endswith(variable.name)
            if weight.owner is owner and (weight.variable is variable or named_alike):
                return weight.problem
        return "it has no constraint to prune it by"

    def _why_not_converted(self, weight):
        """Why `convert()` would leave the layer that holds a weight, or the recurrent layer around it, as it is."""
        layer = weight.place.around if type(weight.place.around) in TWINS else weight.owner
        if id(layer) not in self._reasons:
            self._reasons[id(layer)] = why_not(layer)
        return self._reasons[id(layer)] or "not converted yet"


def _dense_row(path, variable, w, multiplies, note):
    """The row of a weight without blocks; `w` is its matrix `[in, out]`."""
    return WeightReport(
        path=path,
        state="dense",
        shape=tuple(variable.shape),
        block_shape=None,
        grid=None,
        num_blocks=None,
        sparsity=_zeros(w),
        multiply_adds=w.size if multiplies else 0,
        bsr_bytes=None,
        bsr_bytes_16=None,
        stored_bytes=ops.convert_to_numpy(variable).nbytes,
        note=note,
        **_of_elements(w),
    )


def _pruned_row(weight, why_not_converted):
    pruning, w = weight.pruning, weight.matrix()
    grid, block_mask = pruning.grid, pruning.block_mask
    notes = []
    if grid is None:  # made at the first step of training
        grid = BlockGrid(w.shape, pruning.block_shape, pruning.gates * pruning.view.gates(weight.variable.shape))
        block_mask = np.ones(grid.mask_shape, bool)
        notes.append("not trained yet")
    block_mask = ops.convert_to_numpy(block_mask)
    revived = int((grid.nonzero_blocks(_as_held(weight)) & ~block_mask).sum())
    if revived:
        notes.append(
            f"{revived:,} dropped blocks are not zero (use_ema=True?): fit with the callback "
            "tf_blocksparse.KeepBlocksZero(), or call strip_pruning()"
        )
    notes.append(why_not_converted if block_mask.any() else _NO_BLOCK)
    return WeightReport(
        path=weight.path,
        state="pruned",
        shape=tuple(weight.variable.shape),
        stored_bytes=ops.convert_to_numpy(weight.variable).nbytes,
        note="; ".join(notes),
        **_of_blocks(grid, block_mask, weight.kind != "embedding"),
        **_of_elements(w),
    )


def _converted_row(place, weight):
    matrix = weight.bsr()
    return WeightReport(
        path=f"{place.path}/{weight.name}",
        state="block-sparse",
        shape=weight.grid.shape,
        stored_bytes=matrix.blocks.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes,
        note="" if matrix.num_blocks else _NO_BLOCK,
        **_of_blocks(weight.grid, matrix.block_mask, weight.name != "embeddings"),
        **_of_elements(matrix.to_dense()),
    )


_NO_BLOCK = "no block is left: nothing passes through this weight"


def _of_blocks(grid, block_mask, multiplies):
    """What a row says of blocks: a dict."""
    num_blocks = int(block_mask.sum())
    return {
        "block_shape": grid.block_shape,
        "grid": grid.mask_shape,
        "num_blocks": num_blocks,
        "sparsity": blocks.sparsity(block_mask),
        "multiply_adds": int(grid.block_sizes()[block_mask].sum()) if multiplies else 0,
        "bsr_bytes": bsr_storage(grid, num_blocks, bits=32).total,
        "bsr_bytes_16": bsr_storage(grid, num_blocks, bits=16).total,
    }


def _of_elements(w):
    """What a row says of the elements of the matrix `w` `[in, out]`: a dict."""
    nonzero = int(np.count_nonzero(w))
    return {
        "matrix_shape": w.shape,
        "weight_sparsity": _zeros(w),
        "dense_bytes": dense_storage(w.shape, bits=32).total,
        "csr_bytes": csr_storage(w.shape, nonzero, bits=32).total,
        "dense_bytes_16": dense_storage(w.shape, bits=16).total,
        "csr_bytes_16": csr_storage(w.shape, nonzero, bits=16).total,
    }


def _as_held(weight):
    """The matrix `[in, out]` in the variable itself, with whatever dropped blocks hold."""
    return weight.view.to_matrix(ops.convert_to_numpy(weight.variable))


def _zeros(w):
    """Fraction of the elements that are zero: float."""
    return float(np.mean(w == 0)) if w.size else 0.0


def _by(shape):
    return "" if shape is None else " x ".join(map(str, shape))
