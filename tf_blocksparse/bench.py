"""`bench()`: a pruned model against its block-sparse form, on this machine: the whole and each layer."""

import dataclasses
import io
import logging

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.choice import Chooser, choice_of
from tf_blocksparse.convert import batch_sizes, check_measuring, convert, pairs
from tf_blocksparse.output_difference import OutputDifference, output_differences
from tf_blocksparse.pruning.prune import check_layer
from tf_blocksparse.pruning.weights import layer_paths
from tf_blocksparse.signatures import signature_of
from tf_blocksparse.turns import Times, times_in_turns
from tf_blocksparse.twins import copy_weights, is_twin, make_twin, why_no_twin

logger = logging.getLogger("tf_blocksparse")


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """A model or a layer at one batch size.

    Attributes:
        what: `"model"`, or the path of the layer.
        batch_size: int.
        dense: `Times` of a call with its weights as they are, zeros and all.
        sparse: `Times` of a call in blocks.
        chosen: whether `convert()` made it block-sparse, bool; a layer that stays dense is timed in blocks all the
            same.
        note: why it stays dense, or empty.
    """

    what: str
    batch_size: int
    dense: Times
    sparse: Times
    chosen: bool = True
    note: str = ""

    @property
    def ratio(self):
        """How many times as fast in blocks, by medians: float."""
        return self.dense.median / self.sparse.median

    @property
    def ratio_of_minima(self):
        """How many times as fast in blocks, by the least times: float."""
        return self.dense.minimum / self.sparse.minimum


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """What `bench()` returns: print it, or read `rows`, a tuple of `BenchRow`; the whole model comes first.

    Attributes:
        name: of the model.
        rows: tuple of `BenchRow`.
        bytes_dense: int, of all weights as they are.
        bytes_sparse: int, of all weights of the converted model, indices included.
        differences: tuple of `OutputDifference`, of the outputs on the inputs that were timed; of strings none.
    """

    name: str
    rows: tuple
    bytes_dense: int
    bytes_sparse: int
    differences: tuple[OutputDifference, ...] = ()

    def to_dict(self):
        """Plain Python values, for JSON; times are seconds."""
        ratios = ("ratio", "ratio_of_minima")
        return {
            "name": self.name,
            "rows": [{**dataclasses.asdict(row), **{r: getattr(row, r) for r in ratios}} for row in self.rows],
            "bytes_dense": self.bytes_dense,
            "bytes_sparse": self.bytes_sparse,
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
        }

    def __str__(self):
        lines = [f"Weights take {self.bytes_dense:,} bytes, converted {self.bytes_sparse:,}."]
        lines += [f"Converting changes {difference}." for difference in self.differences]
        table = Table(title=f"{self.name}: ms a call, median (minimum)", caption="\n".join(lines))
        table.add_column("", overflow="fold")
        for column in ("batch", "dense", "in blocks", "times as fast"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("note")
        seen = set()
        for row in self.rows:
            times = [f"{1e3 * t.median:.4g} ({1e3 * t.minimum:.4g})" for t in (row.dense, row.sparse)]
            ratio = f"{row.ratio:.2f} ({row.ratio_of_minima:.2f})"
            table.add_row(row.what, str(row.batch_size), *times, ratio, "" if row.what in seen else row.note)
            seen.add(row.what)
        text = io.StringIO()
        Console(file=text, width=140, markup=False).print(table)
        return text.getvalue()


def bench(model, converted=None, batch_size=None, time_steps=20, seconds=1.0, inputs=None):
    """Times a pruned model as it is, its zeros multiplied, against its block-sparse form: the whole and each layer.

    Both take turns, inside of graphs, so that neither a disturbance of the machine nor calls from Python decide.
    Layers are timed alone, on random inputs, with their weights in the caches of the processor: their times need not
    add up to those of the model. A layer that `convert()` left dense as it gains nothing is timed in blocks, too.

    Args:
        model: a built Sequential or Functional `keras.Model`; pruned or stripped.
        converted: what `convert(model)` returned. None: it is converted here, measured at these batch sizes.
        batch_size: int or tuple of int. None: 1 and 16. A model whose inputs have a fixed batch size is timed at that.
        time_steps: int, what unknown dimensions of inputs, such as time, are taken for.
        seconds: float, about how long each row is measured.
        inputs: arrays to call the model with, in the structure of its inputs, with as many examples as the largest
            batch. None: random numbers, and ids that every `Embedding` of the model has.

    Returns:
        A `BenchResult`, with seconds.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is not built, is block-sparse already, has nothing to convert or unknown inputs, or an
            argument is out of range.

    Example:

    >>> print(bench(model, batch_size=(1, 64)))
    >>> [row.ratio for row in bench(model).rows if row.what == "model"]
    """
    _check(model, time_steps, seconds)
    sizes = batch_sizes(batch_size)
    spec = signature_of("bench", model).specs[0]
    fixed = {x.shape[0] for x in keras.tree.flatten(spec)} - {None}
    sizes = tuple(fixed) if fixed else sizes
    if converted is None:
        logger.info("%s: converting", model.name)
        converted = convert(model, batch_size=sizes, time_steps=time_steps)
    examples = _examples(model, spec, max(sizes), time_steps) if inputs is None else _checked(inputs, max(sizes))
    rows = []
    for size in sizes:
        logger.info("timing %s at batch %d", model.name, size)
        x = keras.tree.map_structure(lambda a, size=size: a[:size], examples)
        rows.append(BenchRow("model", size, *_times(model, converted, x, seconds)))
    rows += _layer_rows(model, converted, sizes, time_steps, seconds)
    differences = output_differences(model, converted, examples) if _numeric(examples) else ()
    return BenchResult(model.name, tuple(rows), _bytes(model), _bytes(converted), differences)


def _check(model, time_steps, seconds):
    check_layer(model)
    if not isinstance(model, keras.Model):
        raise TypeError(f"bench() takes a keras.Model. Received: {type(model).__name__} {model.name!r}.")
    check_measuring(None, time_steps)
    if not seconds > 0:
        raise ValueError(f"`seconds` must be above 0. Received: seconds={seconds!r}.")
    if any(is_twin(place.layer) for place in layer_paths(model)):
        raise ValueError(
            f"{model.name!r} is block-sparse already, so there is no dense model to compare it with. Give the pruned "
            "model that it was converted from, and it as `converted`."
        )


def _layer_rows(model, converted, sizes, time_steps, seconds):
    """Yields a `BenchRow` for each layer that could be block-sparse, and each batch size."""
    names = {id(place.layer): place.path for place in layer_paths(model)}
    seen = set()
    for layer, twin in pairs(model, converted):
        if id(layer) in seen or not layer.weights:
            continue
        seen.add(id(layer))
        choice = choice_of(twin)
        in_blocks = twin if is_twin(twin) else _twin_of_dense(layer, choice)
        if in_blocks is None:
            continue
        note = "" if is_twin(twin) or choice is None else choice.note()
        for size in sizes:
            logger.info("timing %s at batch %d", names[id(layer)], size)
            x = _layer_input(layer, size, time_steps)
            times = _times(layer, in_blocks, x, seconds)
            yield BenchRow(names[id(layer)], size, *times, chosen=is_twin(twin), note=note)


def _twin_of_dense(layer, choice):
    """A layer in blocks that `convert()` left dense, or None if it cannot be or has no zeros."""
    if why_no_twin(layer):
        return None
    if choice is None or choice.block_shape is None:
        choice = Chooser(min_sparsity=0.0).choose(layer)
    twin = make_twin(layer, canonical_block_shape(choice.block_shape))
    copy_weights(layer, twin)
    owner = getattr(layer, "cell", layer)
    dense = sum(int(np.prod(w.shape)) for w in owner.trainable_weights)
    return twin if sum(int(np.prod(w.shape)) for w in getattr(twin, "cell", twin).trainable_weights) < dense else None


def _times(dense, sparse, x, seconds):
    functions = [lambda x, one=one: one(x, training=False) for one in (dense, sparse)]
    return times_in_turns(functions, x, seconds)


def _layer_input(layer, size, time_steps):
    """A random input `[size, ...]` of a built layer."""
    shape = layer.get_build_config()["input_shape"]
    spec = tf.TensorSpec(shape, "int32" if hasattr(layer, "input_dim") else layer.compute_dtype)
    return _random(spec, size, time_steps, getattr(layer, "input_dim", 2))


def _examples(model, spec, size, time_steps):
    """Random inputs of a model: arrays in the structure of `spec`."""
    limits = [place.layer.input_dim for place in layer_paths(model) if hasattr(place.layer, "input_dim")]
    return keras.tree.map_structure(lambda x: _random(x, size, time_steps, min(limits, default=2)), spec)


def _random(spec, size, time_steps, limit):
    """An array of a `tf.TensorSpec`: normal numbers, integers below `limit`, or empty strings."""
    shape = (size, *(time_steps if n is None else n for n in spec.shape[1:]))
    rng = np.random.default_rng(0)
    if spec.dtype == tf.string:
        return np.full(shape, "", object)
    if spec.dtype.is_integer or spec.dtype.is_bool:
        return rng.integers(0, limit, shape).astype(spec.dtype.as_numpy_dtype)
    return rng.standard_normal(shape, "float32").astype(spec.dtype.as_numpy_dtype)


def _checked(inputs, size):
    arrays = keras.tree.map_structure(np.asarray, inputs)
    if min(len(a) for a in keras.tree.flatten(arrays)) < size:
        raise ValueError(f"`inputs` must have at least {size} examples, the largest batch. Received fewer.")
    return arrays


def _numeric(arrays):
    return all(a.dtype.kind in "fiub" for a in keras.tree.flatten(arrays))


def _bytes(model):
    return sum(keras.ops.convert_to_numpy(v).nbytes for v in model.weights)
