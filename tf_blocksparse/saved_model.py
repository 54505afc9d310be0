"""What a SavedModel directory holds: signatures, ops and weights, read from its files without running it.

`export()` writes next to the graph how the stored blocks lie in their matrices (`assets.extra/tf_blocksparse.json`);
the values, and where the blocks are, come from the variables themselves.
"""

import dataclasses
import json
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from tf_blocksparse.blocks import BlockGrid
from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.matrix_view import MatrixView
from tf_blocksparse.quantize import dequantize_blocks

CUSTOM_OP_PREFIX = "BlockSparse>"  # of the names of all custom ops
_GRIDS = pathlib.Path("assets.extra") / "tf_blocksparse.json"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MADE_UP = "shape rounded up to whole blocks: the SavedModel does not say it"


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """A weight matrix of a SavedModel.

    Attributes:
        path: layer and weight.
        shape: of the weight, or of the matrix `[in, out]` if only some of its blocks are stored.
        matrix: array `[in, out]`, dropped blocks zero.
        bsr: the `BsrMatrix`, blocks widened to float32, or None if the matrix is stored in full.
        stored_bytes: int, of the values with their indices and scales.
        stored_dtype: str, of the values.
        note: what the SavedModel does not say, or empty.
    """

    path: str
    shape: tuple
    matrix: np.ndarray
    bsr: BsrMatrix | None
    stored_bytes: int
    stored_dtype: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class SavedModelContents:
    """What `saved_model_contents()` returns.

    Attributes:
        path: `pathlib.Path` of the directory.
        signatures: dict from a name to `{"inputs": ..., "outputs": ...}`, each a dict from a name to
            `(dtype, shape)`; the shape is a list with None for unknown dimensions, or None.
        custom_ops: tuple of the names of this package's ops in the graph; empty: TensorFlow alone runs it.
        tensorflow_version: str, that wrote it.
        weights: tuple of `StoredWeight`, every variable of two or more dimensions but biases.
        bytes_on_disk: int, of all files.
    """

    path: pathlib.Path
    signatures: dict
    custom_ops: tuple
    tensorflow_version: str
    weights: tuple
    bytes_on_disk: int

    @property
    def needs_op_library(self):
        """Whether a process needs the op library to load it: bool."""
        return bool(self.custom_ops)


def saved_model_contents(path):
    """Reads signatures, ops and weights of a SavedModel; nothing of it is run.

    Args:
        path: directory that `export()`, Keras or TensorFlow wrote.

    Returns:
        `SavedModelContents`. `report(path)` has the same weights as a table.

    Raises:
        FileNotFoundError: if there is no SavedModel at `path`.
        ValueError: if its files cannot be read, or contradict each other.

    Example:

    >>> contents = saved_model_contents("served/1")
    >>> contents.needs_op_library, sorted(contents.signatures)
    (True, ['serve', 'serving_default'])
    """
    path = pathlib.Path(path)
    file = path / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no SavedModel: there is no {file.name} in it.")
    try:
        meta_graph = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]
        weights = tuple(_weights(_variables(path), _grids(path)))
    except (ValueError, LookupError, TypeError, DecodeError, tf.errors.OpError) as error:
        raise ValueError(f"{path} cannot be read as a SavedModel: {error}") from error
    graph = meta_graph.graph_def
    ops = {node.op for node in graph.node} | {n.op for inner in graph.library.function for n in inner.node_def}
    return SavedModelContents(
        path=path,
        signatures=_signatures(meta_graph),
        custom_ops=tuple(sorted(op for op in ops if op.startswith(CUSTOM_OP_PREFIX))),
        tensorflow_version=meta_graph.meta_info_def.tensorflow_version,
        weights=weights,
        bytes_on_disk=sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
    )


def write_grids(weights, path):
    """Writes how the stored blocks of some weights lie in their matrices.

    Args:
        weights: dict from the path of a weight to its `BlockSparseWeight`.
        path: `pathlib.Path` of the SavedModel.
    """
    if not weights:
        return
    grids = {
        weight.blocks.path: {
            "path": name,
            "shape": weight.grid.shape,
            "block_shape": weight.grid.block_shape,
            "gates": weight.grid.gates,
            "order": weight.order,
        }
        for name, weight in weights.items()
    }
    (path / _GRIDS).parent.mkdir(exist_ok=True)
    (path / _GRIDS).write_text(json.dumps(grids, indent=1))


def _grids(path):
    file = path / _GRIDS
    return json.loads(file.read_text()) if file.is_file() else {}


def _variables(path):
    """Arrays by name, in the order of the object graph; what is stored twice alike is there once."""
    if not (path / "variables" / "variables.index").is_file():
        return {}  # a graph without variables
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    keys = reader.get_variable_to_shape_map()
    if _OBJECT_GRAPH not in keys:  # of TensorFlow 1
        return {name: reader.get_tensor(name) for name in sorted(keys)}
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    found = {}
    for attribute in (a for node in graph.nodes for a in node.attributes if a.checkpoint_key in keys):
        value = np.asarray(reader.get_tensor(attribute.checkpoint_key))
        name = attribute.full_name or attribute.checkpoint_key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        if name in found and np.array_equal(found[name], value):
            continue
        found[name if name not in found else attribute.checkpoint_key] = value
    return found


def _signatures(meta_graph):
    return {
        name: {"inputs": _specs(signature.inputs), "outputs": _specs(signature.outputs)}
        for name, signature in sorted(meta_graph.signature_def.items())
        if not name.startswith("__")
    }


def _specs(tensors):
    return {name: (tf.as_dtype(t.dtype).name, _shape(t.tensor_shape)) for name, t in sorted(tensors.items())}


def _shape(proto):
    return None if proto.unknown_rank else [None if dim.size < 0 else dim.size for dim in proto.dim]


def _weights(variables, grids):
    """Yields a `StoredWeight` for each matrix."""
    for name, values in variables.items():
        if f"{name}_indices" in variables and f"{name}_indptr" in variables and values.ndim in (3, 4):
            parts = [variables.get(f"{name}_{part}") for part in ("indices", "indptr", "scales")]
            yield _in_blocks(name, values, *parts, grids.get(name))
        elif values.ndim > 1 and name.rpartition("/")[2] != "bias" and np.issubdtype(_plain(values).dtype, np.floating):
            matrix = MatrixView().to_matrix(_plain(values))
            yield StoredWeight(name, values.shape, matrix, None, values.nbytes, values.dtype.name)


def _plain(values):
    """Half precision types of TensorFlow's own as float32."""
    return values.astype("float32") if values.dtype.name in ("bfloat16", "float16") else values


def _in_blocks(name, values, indices, indptr, scales, known):
    note = "" if known else _MADE_UP
    known = known or _guess(name, values, indices, indptr, scales)
    grid = BlockGrid(known["shape"], tuple(known["block_shape"]), known["gates"])
    blocks = values
    if values.ndim == 4:
        scales = np.zeros([0], "float32") if scales is None else scales
        blocks = dequantize_blocks(values, scales, indices, indptr, grid)
    try:
        bsr = BsrMatrix(grid, blocks, indices, indptr, known["order"])
        matrix = bsr.to_dense()
    except (ValueError, IndexError) as error:
        raise ValueError(f"The variables of {name} do not fit its grid of blocks: {error}") from error
    held = [values, indices, indptr, *([] if scales is None else [scales])]
    size = sum(array.nbytes for array in held)
    return StoredWeight(known.get("path", name), grid.shape, matrix, bsr, size, values.dtype.name, note)


def _guess(name, values, indices, indptr, scales):
    """The smallest matrix that the blocks fit, for SavedModels that `export()` did not write."""
    height, width = values.shape[1:3] if values.ndim == 3 else (values.shape[1] * values.shape[3], values.shape[2])
    lines, across = len(indptr) - 1, int(indices.max(initial=-1)) + 1
    by_row = name.rpartition("/")[2] == "embeddings"
    rows, cols = (lines, across) if by_row else (across, lines)
    shape, gates = (rows * height, cols * width), 1
    if scales is not None:  # one for each column of the matrix
        shape = (shape[0], len(scales))
        gates = next((n for n in (1, 3, 4) if n * -(-len(scales) // n // width) == cols), 1)
    return {"shape": shape, "block_shape": (height, width), "gates": gates, "order": "row" if by_row else "column"}
