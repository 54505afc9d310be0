"""SavedModels to spoil, and ways to spoil their files: bytes, nodes of graphs, values of variables."""

import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

import tf_blocksparse as bs
from export_cases import converted

HOSTILE_INTS = (-(2**62), -1, 0, 1, 2, 3, 5, 24, 2**31, 2**33, 2**62, 2**63 - 1)  # none that takes gigabytes
HOSTILE_WORDS = (b"", b"row", b"column", b"diagonal", b"gelu", b"tanh", b"int8", b"float32", b"lstm")
HOSTILE_VALUES = (-1, 0, 1, 3, 40, 2**30, 2**31 - 1, -(2**31))
PREFIX = "BlockSparse>"


def models():
    """Small converted models that together have every op of inference, with inputs: dict by name."""
    ids = keras.Input((None,), dtype="int32", name="x")
    y = layers.LSTM(12, return_sequences=True)(layers.Embedding(20, 8)(ids))
    y = layers.Dense(6, "relu")(layers.GRU(8)(layers.SimpleRNN(8, return_sequences=True)(y)))
    words = converted(keras.Model(ids, y))
    x = keras.Input((None, 8), name="x")
    y = layers.Dense(5)(layers.GRU(8, reset_after=False)(x))
    int8 = converted(keras.Model(x, y), dtype="int8")
    x = keras.Input((8,), name="x")
    y = bs.DynamicBlockDense(12, "tanh", block_shape=4, sparsity=0.5)(x)
    dynamic = bs.convert(keras.Model(x, y), measure=False)
    return {
        "words": (words, np.array([[1, 19, 3], [0, 7, 7]], "int32")),
        "int8": (int8, np.random.default_rng(0).standard_normal((2, 3, 8)).astype("float32")),
        "dynamic": (dynamic, np.random.default_rng(1).standard_normal((3, 8)).astype("float32")),
    }


def spoil(source, target, rng):
    """Copies a SavedModel and spoils the copy; returns what was done to it, in words."""
    source, target = pathlib.Path(source), pathlib.Path(target)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    kind = rng.integers(8)
    if kind == 0:
        return _spoil_bytes(target / "saved_model.pb", rng)
    if kind == 1:
        files = sorted((target / "variables").iterdir())
        return _spoil_bytes(files[rng.integers(len(files))], rng)
    if kind < 4:
        return _spoil_variable(target / "variables" / "variables", rng)
    file = target / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    done = "; ".join(_spoil_node(proto.meta_graphs[0].graph_def, rng) for _ in range(1 + rng.integers(2)))
    file.write_bytes(proto.SerializeToString())
    return done


def _spoil_bytes(file, rng):
    data = bytearray(file.read_bytes())
    if rng.integers(4) == 0:
        size = int(rng.integers(len(data)))
        file.write_bytes(data[:size])
        return f"{file.name} cut to {size} bytes"
    places = [int(place) for place in rng.integers(len(data), size=1 + rng.integers(4))]
    for place in places:
        data[place] = int(rng.integers(256))
    file.write_bytes(data)
    return f"{file.name} changed at {places}"


def _spoil_variable(prefix, rng):
    """Writes the checkpoint anew with a tensor that has other values or another shape."""
    reader = tf.train.load_checkpoint(str(prefix))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    names = [name for name, value in tensors.items() if not isinstance(value, bytes) and np.size(value)]
    name = names[rng.integers(len(names))]
    value = np.array(tensors[name])
    if rng.integers(4) == 0 and value.ndim:
        value = np.concatenate([value, value[:1]]) if rng.integers(2) else value[:-1]
    elif value.dtype == np.int32:
        value.flat[rng.integers(value.size)] = HOSTILE_VALUES[rng.integers(len(HOSTILE_VALUES))]
    else:
        hostile = (np.nan, np.inf, 3e38, 1e-42) if value.dtype.kind == "f" else (7, -128, 127, 0)
        value.flat[rng.integers(value.size)] = hostile[rng.integers(4)]
    tensors[name] = value
    for file in prefix.parent.iterdir():
        file.unlink()
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    return f"{name} is {value.ravel()[:12]}, shape {value.shape}"


def _spoil_node(graph, rng):
    """Changes an attribute or the inputs of a node, of the custom ops three times of four."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    custom = [node for node in nodes if node.op.startswith(PREFIX)]
    chosen = custom if custom and rng.integers(4) else nodes
    node = chosen[rng.integers(len(chosen))]
    what = rng.integers(4)
    if what == 0 and len(node.input) > 1:
        i, j = rng.integers(len(node.input), size=2)
        node.input[i], node.input[j] = node.input[j], node.input[i]
        return f"{node.op} {node.name}: inputs {i} and {j} swapped"
    if what == 1 and node.input:
        i = rng.integers(len(node.input))
        others = [other for n in nodes for other in n.input if not other.startswith("^")]
        node.input[i] = others[rng.integers(len(others))]
        return f"{node.op} {node.name}: input {i} is {node.input[i]}"
    return f"{node.op} {node.name}: {_spoil_attr(node, rng)}"


def _spoil_attr(node, rng):
    if not node.attr:
        return "nothing"
    key = sorted(node.attr)[rng.integers(len(node.attr))]
    value = node.attr[key]
    kind = value.WhichOneof("value")
    if kind == "i":
        value.i = HOSTILE_INTS[rng.integers(len(HOSTILE_INTS))]
    elif kind == "s":
        value.s = HOSTILE_WORDS[rng.integers(len(HOSTILE_WORDS))]
    elif kind == "b":
        value.b = not value.b
    elif kind == "f":
        value.f = (0.0, -1.0, float("nan"), 1e30)[rng.integers(4)]
    elif kind == "type":
        value.type = (types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_INT8, types_pb2.DT_STRING)[rng.integers(4)]
    elif kind == "shape" and value.shape.dim:
        value.shape.dim[rng.integers(len(value.shape.dim))].size = HOSTILE_INTS[rng.integers(len(HOSTILE_INTS))]
    elif kind == "tensor" and value.tensor.tensor_shape.dim:
        dim = value.tensor.tensor_shape.dim
        dim[rng.integers(len(dim))].size = int(rng.integers(6))
    elif kind == "tensor" and value.tensor.int_val:
        value.tensor.int_val[0] = int(HOSTILE_VALUES[rng.integers(len(HOSTILE_VALUES))])
    else:
        del node.attr[key]
        return f"no {key}"
    return f"{key} = {str(value)[:60].strip()!r}"
