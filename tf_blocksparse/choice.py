"""Which layers `convert()` makes block-sparse: those that gain by it.

A layer is measured: each of its matrices is multiplied dense and in its blocks, on this machine. It is converted if it
is no slower at any batch size, and faster over all. Where nothing is to be measured, limits on the sparsity decide.
"""

import dataclasses
import math
import weakref

from tf_blocksparse.block_pattern import best_block_shape
from tf_blocksparse.dynamic_twins import is_dynamic
from tf_blocksparse.layers import BlockSparseEmbedding
from tf_blocksparse.measure import product_times
from tf_blocksparse.pruning import pruned_weights
from tf_blocksparse.storage import bsr_storage, dense_storage
from tf_blocksparse.twins import TWINS, copy_weights, has_low_precision, is_twin, make_twin, matrices, why_no_twin

# Sparsity from which a layer is converted unmeasured. Measured on (384, 1536), batch 1 and 16, two threads, AVX-512:
# with half of the blocks gone, products with 4x4 and larger blocks take as long as dense ones or less; 2x2 and 4x1
# gain at batch 16 from 80 % on and at batch 1 from 90 % on; 1x1 is slower than dense even at 90 %.
MIN_SPARSITY = 0.5
MIN_SPARSITY_OF_TINY_BLOCKS = 0.97
TINY_BLOCK = 4  # elements; a smaller block is tiny
BATCH_SIZES = (1, 16)
# dense / block-sparse time that no batch size may fall below. Two measurements of one product differ by this much; a
# larger loss at one batch size is a loss, however large the gain at another.
NOISE = 0.95


@dataclasses.dataclass(frozen=True)
class ProductTime:
    """Time of one product of a layer.

    Attributes:
        matrix: name of the weight in the block-sparse layer.
        batch_size: int.
        dense: seconds.
        sparse: seconds, in blocks.
    """

    matrix: str
    batch_size: int
    dense: float
    sparse: float

    @property
    def gain(self):
        """How many times as fast block-sparse is as dense: float."""
        return self.dense / self.sparse


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `convert()` makes of a layer, and why.

    Attributes:
        block_shape: `(height, width)` of the blocks that were looked at, or None.
        why_dense: why the layer stays as it is; None if it is converted.
        times: tuple of `ProductTime`; empty if nothing was measured.
        why_float32: why a layer is converted to blocks of float32 where others are asked for, or None.
    """

    block_shape: tuple | None = None
    why_dense: str | None = None
    times: tuple = ()
    why_float32: str | None = None

    def note(self, matrix=None):
        """The choice in a line: of the whole layer, or if it is converted of one of its matrices."""
        if self.why_dense is not None:
            return self.why_dense
        if self.why_float32 is not None:
            return self.why_float32
        times = [t for t in self.times if matrix in (None, t.matrix)]
        return _times_note(_by_batch(times)) if times else ""


class Chooser:
    """Chooses for the layers of one model.

    Args:
        block_shape: `(height, width)` for all layers, or None.
        dtype: type of the stored blocks.
        product_dtype: what inputs are rounded to for a product, or None: `dtype`.
        min_sparsity: float, sparsity that alone decides, or None.
        batch_sizes: tuple of int to measure at; empty: the limits on the sparsity decide.
        time_steps: int, what an unknown dimension of an input, such as time, is taken for.
        training: bool, whether the products of the gradients are measured as well.
    """

    def __init__(
        self,
        block_shape=None,
        dtype="float32",
        product_dtype=None,
        min_sparsity=None,
        batch_sizes=(),
        time_steps=1,
        training=False,
    ):
        self.block_shape = block_shape
        self.dtype = dtype
        self.product_dtype = product_dtype
        self.min_sparsity = min_sparsity
        self.batch_sizes = batch_sizes
        self.time_steps = time_steps
        self.training = training
        self._measured = {}

    def choose(self, layer):
        """The `Choice` for a layer that holds no other layers but an RNN's cell."""
        if is_twin(layer):  # already, as after `sparsify_training()`
            return Choice(getattr(layer, "cell", layer).block_shape)
        if is_dynamic(layer) and layer.built:
            return Choice()  # as it is it multiplies all blocks, converted the chosen ones only
        problem = why_no_twin(layer)
        if problem or not layer.built:
            return Choice(why_dense=problem or "it is not built")
        choice = self.choose_by_gain(layer, self.block_shape or _block_shape_of(layer))
        if self.dtype != "float32" and choice.why_dense is None and not has_low_precision(layer):
            return dataclasses.replace(choice, why_float32="stored in float32: look-ups have no low precision")
        return choice

    def choose_by_gain(self, layer, block_shape):
        """The `Choice` for a built layer that can be made block-sparse, in these blocks."""
        sparsity = _sparsity(layer, block_shape)
        if self.min_sparsity is not None:
            limit = f"min_sparsity={self.min_sparsity}"
            return Choice(block_shape, _too_dense(sparsity, block_shape, self.min_sparsity, limit))
        if TWINS[type(layer)] is BlockSparseEmbedding:
            return Choice(block_shape, _why_dense_table(layer, block_shape, sparsity))
        if not self.batch_sizes:
            needed = default_min_sparsity(block_shape)
            return Choice(block_shape, _too_dense(sparsity, block_shape, needed, f"{needed:.2f}: dense is as fast"))
        if not sparsity:
            return Choice(block_shape, f"none of its {_by(block_shape)} blocks is zero")
        times = tuple(self._times(layer, block_shape))
        return Choice(block_shape, _why_dense(times, block_shape), times)

    def _times(self, layer, block_shape):
        """Yields a `ProductTime` for each matrix and batch size."""
        # Measured are the twin's own products, so in the order and type in which it stores its blocks.
        values = {"_initializer": "zeros", "_regularizer": None, "_constraint": None}
        settings = {name: v for name in layer.get_config() for end, v in values.items() if name.endswith(end)}
        twin = make_twin(layer, block_shape, self.dtype, self.product_dtype, **settings)
        copy_weights(layer, twin)
        rows = [batch_size * _rows_of_an_example(layer, self.time_steps) for batch_size in self.batch_sizes]
        for name, w, grid in matrices(layer, block_shape):
            weight = getattr(getattr(twin, "cell", twin), name)
            key = (grid, int(grid.nonzero_blocks(w).sum()), tuple(rows), layer.compute_dtype, w.dtype.name)
            if key not in self._measured:
                trained = weight.blocks.value if self.training else None
                self._measured[key] = product_times(w, weight.matmul, rows, layer.compute_dtype, trained=trained)
            for batch_size, (dense, sparse) in zip(self.batch_sizes, self._measured[key], strict=True):
                yield ProductTime(name, batch_size, dense, sparse)


def default_min_sparsity(block_shape):
    """Sparsity below which a layer with such blocks stays dense where nothing is measured."""
    height, width = block_shape
    return MIN_SPARSITY if height * width >= TINY_BLOCK else MIN_SPARSITY_OF_TINY_BLOCKS


def remember(layer, choice):
    """Keeps the choice that made `layer`, a layer of a converted model, for as long as it lives."""
    _choices[layer] = choice


def choice_of(layer):
    """The `Choice` that made `layer`, or None: it is not converted, or was loaded from a file."""
    return None if layer is None else _choices.get(layer)


_choices = weakref.WeakKeyDictionary()


def _why_dense(times, block_shape):
    """Why a layer with these times stays dense, or None."""
    gains = {batch_size: dense / sparse for batch_size, (dense, sparse) in _by_batch(times).items()}
    if min(gains.values()) >= NOISE and math.prod(gains.values()) >= 1:
        return None
    return f"stays dense: in {_by(block_shape)} blocks {_times_note(_by_batch(times))}"


def _by_batch(times):
    """Seconds of all matrices together: dict from batch size to `(dense, sparse)`."""
    sums = {}
    for t in times:
        dense, sparse = sums.get(t.batch_size, (0.0, 0.0))
        sums[t.batch_size] = dense + t.dense, sparse + t.sparse
    return sums


def _times_note(by_batch):
    parts = []
    for batch_size, (dense, sparse) in by_batch.items():
        ratio, change = (dense / sparse, "faster") if dense >= sparse else (sparse / dense, "slower")
        times = f"{1e3 * dense:.3g} -> {1e3 * sparse:.3g} ms"
        parts.append(f"{ratio:.{2 if ratio < 2 else 1}f}x {change} at batch {batch_size} ({times})")
    return f"measured {', '.join(parts)}"


def _too_dense(sparsity, block_shape, needed, limit):
    """The reason why a layer is not sparse enough, or None if it is; `limit` is `needed` in words."""
    if sparsity >= needed:
        return None
    return f"sparsity {sparsity:.2f} in {_by(block_shape)} blocks is below {limit}"


def _why_dense_table(layer, block_shape, sparsity):
    """Why an embedding stays dense, or None.

    It is converted to save memory, and not measured: a look-up costs next to nothing beside the products of a model.
    """
    too_dense = _too_dense(sparsity, block_shape, MIN_SPARSITY, f"{MIN_SPARSITY:.2f}: it saves little memory")
    if too_dense:
        return too_dense
    (_, w, grid), *_ = matrices(layer, block_shape)
    stored = bsr_storage(grid, int(grid.nonzero_blocks(w).sum())).total
    if stored >= dense_storage(w.shape).total:
        return f"{_by(block_shape)} blocks would take {stored:,} bytes, dense it takes {dense_storage(w.shape).total:,}"
    return None


def _rows_of_an_example(layer, time_steps):
    """Rows of the products of a layer for one example of a batch: int.

    A recurrent layer multiplies at each time step. A `Dense` layer multiplies all positions of an example at once.
    """
    if hasattr(layer, "cell"):
        return 1
    positions = layer.get_build_config()["input_shape"][1:-1]
    return math.prod(time_steps if n is None else n for n in positions)


def _block_shape_of(layer):
    """Block shape of the pruning of `layer`, or the one that fits its zeros best."""
    for weight in pruned_weights(layer):
        return weight.pruning.block_shape
    return best_block_shape([(w, grid.gates) for _, w, grid in matrices(layer, (1, 1))])


def _sparsity(layer, block_shape):
    """Share of the blocks of all matrices of `layer` that are zero."""
    masks = [grid.nonzero_blocks(w) for _, w, grid in matrices(layer, block_shape)]
    return 1.0 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)


def _by(shape):
    return " x ".join(map(str, shape))
