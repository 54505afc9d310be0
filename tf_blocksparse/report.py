"""`report()`: what of a model is sparse, what is not, and why; and how many bytes that takes."""

import dataclasses
import io
import math
import os

import keras
from keras import ops
from rich.console import Console
from rich.table import Table

from tf_blocksparse.convert import differences_of
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.saved_model import saved_model_contents
from tf_blocksparse.weight_reports import WeightReport, sparse_weights_by_path, stored_reports, weight_reports


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report()` returns: print it, or read `weights`, a tuple of `WeightReport`.

    `differences` has an `OutputDifference` for each output of a model that was converted with `calibration_data`.

    The totals of the sparse formats take each weight in that format, or dense where that is smaller or it has no
    blocks: so one would store the model.
    """

    name: str
    weights: tuple
    differences: tuple = ()

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
        """Plain Python values, for JSON: `"name"`, `"weights"` and `"differences"`, lists of dicts, and `"totals"`."""
        return {
            "name": self.name,
            "weights": [dataclasses.asdict(w) for w in self.weights],
            "differences": [dataclasses.asdict(d) for d in self.differences],
            "totals": {name: getattr(self, name) for name in _TOTALS},
        }

    def to_columns(self):
        """The weights by column: dict from the name of a field of `WeightReport` to a list.

        Example:

        >>> pandas.DataFrame(report(model).to_columns())
        """
        return {field.name: [getattr(w, field.name) for w in self.weights] for field in _FIELDS}

    def __str__(self):
        table = Table(title=f"{self.name}: sparsity {self.sparsity:.3f}", caption=self._caption(), show_footer=True)
        longest = max((len(w.path) for w in self.weights), default=0)
        table.add_column("weight", footer="total", overflow="fold", no_wrap=longest <= 60)
        for column in ("state", "[in, out]", "block", "grid", "dtype"):
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
                w.stored_dtype,
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

    def _caption(self):
        lines = [f"Converting changed {difference} on the calibration data." for difference in self.differences]
        return "\n".join([_CAPTION, *lines])

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
        model: a built `keras.Model` or layer: dense, pruned, stripped or converted. Or the path of a SavedModel, whose
            weights are read from its files: no Python model is needed.

    Returns:
        A `Report`: prints as a table, with 32-bit bytes and the totals in its last row; `.weights` has a
        `WeightReport` for every weight of two or more dimensions but biases; `.to_dict()` and `.to_columns()` give
        all of it.

    Raises:
        TypeError: if `model` is no Keras layer or model, and no path.
        FileNotFoundError: if there is no SavedModel at the path.
        ValueError: if the model has no weights yet, or the SavedModel cannot be read.

    Example:

    >>> print(report(model))
    >>> print(report("served/1"))
    >>> report(model).weights[0].sparsity
    """
    if isinstance(model, (str, os.PathLike)):
        return Report(os.fspath(model), tuple(stored_reports(saved_model_contents(model).weights)))
    if not isinstance(model, keras.layers.Layer):
        received = f"{model!r} of type {type(model).__name__}"
        raise TypeError(f"report() takes a Keras model or layer, or the path of a SavedModel. Received: {received}.")
    if not model.built:
        raise ValueError(f"{model.name!r} is not built: it has no weights yet. Call it once.")
    return Report(model.name, tuple(weight_reports(model)), differences_of(model))


def block_masks(model):
    """Masks of all pruned and block-sparse weights: dict from path to bool `[grid rows, grid cols]`, True = kept.

    Takes what `report()` takes.
    """
    if isinstance(model, (str, os.PathLike)):
        return {w.path: w.bsr.block_mask for w in saved_model_contents(model).weights if w.bsr is not None}
    masks = {}
    for path, weight in sparse_weights_by_path(model).items():
        masks[path] = weight.bsr().block_mask
    for weight in pruned_weights(model):
        if weight.pruning.grid is not None:
            masks[weight.path] = ops.convert_to_numpy(weight.pruning.block_mask)
    return masks


def _by(shape):
    return "" if shape is None else " x ".join(map(str, shape))
