"""The arguments that all dynamic layers share: how blocks are chosen, and how the matrix is stored."""

import keras

from tf_blocksparse.blocks import canonical_block_shape
from tf_blocksparse.layers.block_gate import check_gate_inputs, check_sparsity, serialize_sparsity
from tf_blocksparse.layers.dynamic_matrix import check_gate
from tf_blocksparse.layers.softmax_block_gate import check_temperature, serialize_temperature
from tf_blocksparse.layers.storage_dtype import check_dtypes

DEFAULTS = {
    "block_shape": (128, 128),
    "sparsity": 0.5,
    "gate_inputs": None,
    "gate": "top_k",
    "temperature": 1.0,
    "gate_kernel_initializer": "glorot_uniform",
    "gate_bias_initializer": "zeros",
    "storage": "matrix",
    "storage_dtype": "float32",
}


def set_dynamic_arguments(layer, arguments):
    """Checks the arguments and sets them as attributes of a layer or cell; what is missing has its default.

    Args:
        layer: the layer or cell.
        arguments: dict with keys of `DEFAULTS`.

    Raises:
        ValueError, TypeError: for a wrong value.
    """
    given = {**DEFAULTS, **arguments}
    check_gate(given["gate"], given["storage"])
    check_dtypes(given["storage_dtype"], None)
    if given["storage"] == "matrix" and given["storage_dtype"] != "float32":
        raise ValueError(
            "storage='matrix', for training, is float32; convert(model, dtype=...) makes layers of another dtype. "
            f"Received: storage='matrix' with storage_dtype={given['storage_dtype']!r}."
        )
    layer.block_shape = canonical_block_shape(given["block_shape"])
    layer.sparsity = check_sparsity(given["sparsity"])
    layer.gate_inputs = check_gate_inputs(given["gate_inputs"])
    layer.gate = given["gate"]
    layer.temperature = check_temperature(given["temperature"])
    layer.gate_kernel_initializer = keras.initializers.get(given["gate_kernel_initializer"])
    layer.gate_bias_initializer = keras.initializers.get(given["gate_bias_initializer"])
    layer.storage = given["storage"]
    layer.storage_dtype = given["storage_dtype"]
    layer.supports_jit = layer.storage == "matrix"  # the op has no XLA kernel


def dynamic_config(layer):
    """What `set_dynamic_arguments()` reads."""
    return {
        "block_shape": layer.block_shape,
        "sparsity": serialize_sparsity(layer.sparsity),
        "gate_inputs": layer.gate_inputs,
        "gate": layer.gate,
        "temperature": serialize_temperature(layer.temperature),
        "gate_kernel_initializer": keras.initializers.serialize(layer.gate_kernel_initializer),
        "gate_bias_initializer": keras.initializers.serialize(layer.gate_bias_initializer),
        "storage": layer.storage,
        "storage_dtype": layer.storage_dtype,
    }
