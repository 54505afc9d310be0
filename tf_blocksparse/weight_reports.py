"""What `report()` says of each weight matrix of a model."""

import dataclasses

import numpy as np
from keras import ops

from tf_blocksparse import blocks
from tf_blocksparse.block_gates import computation_of
from tf_blocksparse.choice import choice_of
from tf_blocksparse.layers import BlockGate
from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight
from tf_blocksparse.layers.dynamic_matrix import DynamicMatrix
from tf_blocksparse.matrix_view import MatrixView
from tf_blocksparse.pruning.weights import layer_paths, prunable_weights, sublayers, weights_with_constraint
from tf_blocksparse.storage import bsr_storage, csr_storage, dense_storage
from tf_blocksparse.twins import has_twin, why_no_twin


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """One weight matrix of a model.

    Bytes are those of the three arrays of SciPy's formats, values and indices of 32 bits, or of 16 where the name
    says so; `tf_blocksparse.storage` defines them.

    Attributes:
        path: layer and weight, as in `"lstm/recurrent_kernel"`.
        state: `"dense"` (not pruned), `"pruned"` (zeroed while it trains), `"block-sparse"` (converted) or `"dynamic"`
            (each input chooses blocks).
        shape: shape of the weight.
        matrix_shape: `(in, out)` of the matrix that it is seen as; of a convolution
            `(height * width * in, out)`.
        block_shape: `(height, width)`, or None.
        grid: `(rows, cols)` of the grid of blocks, or None.
        num_blocks: int, blocks that are kept; of a dynamic weight, that an input chooses; or None.
        sparsity: fraction of the blocks that are zero; of a dense weight, fraction of its elements; of a dynamic one,
            fraction of the blocks that an input does without.
        weight_sparsity: fraction of the elements that are zero; those of dropped blocks are.
        multiply_adds: multiplications and additions, counted as one, for one input vector; of a convolution, for
            one position. Kept blocks count in full, chosen ones on average. 0 for look-ups and for what is added.
        dense_bytes: of the whole matrix.
        csr_bytes: of the non-zero elements in compressed sparse rows.
        bsr_bytes: of the kept blocks in block compressed sparse rows, edge blocks stored in full; or None.
        dense_bytes_16, csr_bytes_16, bsr_bytes_16: the same with values and indices of 16 bits.
        stored_bytes: bytes of the weight as it is held now, with its indices, and with its scales if it is int8.
        stored_dtype: type of the stored values.
        note: why it is not pruned or not block-sparse, and what is wrong with it; of a block-sparse weight the times
            that `convert()` measured. A file does not keep what was measured.

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
    stored_dtype: str
    note: str = ""


def weight_reports(model):
    """Yields a `WeightReport` for each matrix of a built layer or model, each once, in the order of the model."""
    return _Reporter(model).rows()


def sparse_weights(layer):
    """The `BlockSparseWeight`s of a layer."""
    return [v for v in vars(layer).values() if isinstance(v, BlockSparseWeight)]


def sparse_weights_by_path(model):
    """The `BlockSparseWeight`s of a model: dict from the path, as in `"lstm/recurrent_kernel"`."""
    return {f"{p.path}/{weight.name}": weight for p in layer_paths(model) for weight in sparse_weights(p.layer)}


def stored_reports(weights):
    """Yields a `WeightReport` for each `StoredWeight` of a SavedModel."""
    for w in weights:
        looked_up = w.path.rpartition("/")[2] == "embeddings"
        held = {"shape": w.shape, "stored_bytes": w.stored_bytes, "stored_dtype": w.stored_dtype}
        if w.bsr is None:
            yield _dense_row(w.path, held, w.matrix, not looked_up, w.note)
        else:
            note = "; ".join(filter(None, (w.note, "" if w.bsr.num_blocks else _NO_BLOCK)))
            yield _sparse_row(w.path, held, w.bsr, not looked_up, note)


class _Reporter:
    """Goes through the weights of a model."""

    def __init__(self, model):
        self._model = model
        self._prunable = {id(w.variable): w for w in prunable_weights(model) if w.variable is not None}
        self._problems = [w for w in weights_with_constraint(model) if w.problem]
        self._any_pruned = any(w.pruning is not None for w in self._prunable.values())
        self._any_converted = any(sparse_weights(place.layer) for place in layer_paths(model))
        self._reasons = {}  # id of a layer -> why it is not block-sparse

    def rows(self):
        """Yields a `WeightReport` for each matrix, each variable once, in the order of the model."""
        seen = set()
        for place in layer_paths(self._model):
            sparse = sparse_weights(place.layer)
            if sparse:
                choice = choice_of(place.layer) or choice_of(place.around)  # the cell is the layer's
                yield from (_converted_row(place, weight, choice) for weight in sparse)
                continue
            inside = {id(v) for sublayer in sublayers(place.layer) for v in sublayer.weights}
            for matrix in (v for v in vars(place.layer).values() if isinstance(v, DynamicMatrix)):
                seen.add(id(matrix.variable))
                yield _dynamic_row(place, matrix)
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
            return _dense_row(path, _held(variable), w, variable.name != "beta", note)
        if weight.pruning is not None:
            return _pruned_row(weight, self._why_not_converted(weight))
        note = "left alone: not selected by prune_blocks()" if self._any_pruned else self._why_not_converted(weight)
        return _dense_row(weight.path, _held(variable), weight.matrix(), weight.kind != "embedding", note)

    def _problem(self, owner, variable):
        """Why a weight cannot be pruned."""
        if isinstance(owner, BlockGate):
            return "it computes block gates"
        for weight in self._problems:
            # DepthwiseConv2D calls its depthwise kernel "kernel".
            named_alike = weight.variable is None and weight.name.endswith(variable.name)
            if weight.owner is owner and (weight.variable is variable or named_alike):
                return weight.problem
        return "it has no constraint to prune it by"

    def _why_not_converted(self, weight):
        """Why the layer that holds a weight, or the recurrent layer around it, is not block-sparse."""
        layer = weight.place.around if has_twin(weight.place.around) else weight.owner
        if id(layer) not in self._reasons:
            choice = choice_of(layer)
            self._reasons[id(layer)] = self._why_dense(layer) if choice is None else choice.note()
        return self._reasons[id(layer)]

    def _why_dense(self, layer):
        """Why a layer that `convert()` did not make, or that was loaded since, is not block-sparse."""
        problem = why_no_twin(layer)
        if problem is None and not any(_zeros(weight.matrix()) for weight in prunable_weights(layer)):
            problem = "it has no zeros to skip"
        return problem or ("not converted" if self._any_converted else "not converted yet")


def _held(variable):
    """What a row says of a variable that holds a whole weight: a dict."""
    nbytes = ops.convert_to_numpy(variable).nbytes
    return {"shape": tuple(variable.shape), "stored_bytes": nbytes, "stored_dtype": variable.dtype}


def _dense_row(path, held, w, multiplies, note):
    """The row of a weight without blocks; `w` is its matrix `[in, out]`."""
    return WeightReport(
        path=path,
        state="dense",
        block_shape=None,
        grid=None,
        num_blocks=None,
        sparsity=_zeros(w),
        multiply_adds=w.size if multiplies else 0,
        bsr_bytes=None,
        bsr_bytes_16=None,
        note=note,
        **held,
        **_of_elements(w),
    )


def _pruned_row(weight, why_not_converted):
    pruning, w = weight.pruning, weight.matrix()
    grid, block_mask = pruning.grid, pruning.block_mask
    notes = []
    if grid is None:  # made at the first step of training
        grid = pruning.view.grid(weight.variable.shape, pruning.block_shape, pruning.gates)
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
        note="; ".join(notes),
        **_held(weight.variable),
        **_of_blocks(grid, block_mask, weight.kind != "embedding"),
        **_of_elements(w),
    )


def _converted_row(place, weight, choice):
    matrix = weight.bsr()
    measured = "" if choice is None else choice.note(weight.name)
    held = {
        "shape": weight.grid.shape,
        "stored_bytes": sum(ops.convert_to_numpy(v).nbytes for v in weight.variables),
        "stored_dtype": weight.storage_dtype,
    }
    note = measured if matrix.num_blocks else _NO_BLOCK
    return _sparse_row(f"{place.path}/{weight.name}", held, matrix, weight.name != "embeddings", note)


def _sparse_row(path, held, matrix, multiplies, note):
    """The row of a weight of which blocks are stored, a `BsrMatrix`."""
    return WeightReport(
        path=path,
        state="block-sparse",
        note=note,
        **held,
        **_of_blocks(matrix.grid, matrix.block_mask, multiplies),
        **_of_elements(matrix.to_dense()),
    )


def _dynamic_row(place, matrix):
    """The row of a matrix whose blocks each input chooses."""
    path, grid, gate = f"{place.path}/{matrix.name}", matrix.grid, matrix.gate
    chosen = int(ops.convert_to_numpy(gate.num_open())) * gate.groups
    held = _held(matrix.variable)
    scales = getattr(matrix, "scales", None)
    held["stored_bytes"] += 0 if scales is None else ops.convert_to_numpy(scales).nbytes
    return WeightReport(
        path=path,
        state="dynamic",
        block_shape=grid.block_shape,
        grid=grid.mask_shape,
        num_blocks=chosen,
        sparsity=1.0 - chosen / grid.num_blocks,
        multiply_adds=round(computation_of(path, matrix).chosen),
        bsr_bytes=None,
        bsr_bytes_16=None,
        note=f"each input chooses {chosen:,} of {grid.num_blocks:,} blocks",
        **held,
        **_of_elements(ops.convert_to_numpy(matrix.to_matrix())),
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
