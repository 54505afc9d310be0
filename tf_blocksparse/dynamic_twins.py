"""Dynamic layers in the form that inference wants: their matrices stored block by block."""

from tf_blocksparse.layers import DynamicBlockDense, DynamicBlockLSTM, DynamicBlockQRNN
from tf_blocksparse.layers.block_sparse_weight import elementwise_problem
from tf_blocksparse.layers.dynamic_matrix import DynamicMatrix
from tf_blocksparse.pruning.strip import detach

DYNAMIC = (DynamicBlockDense, DynamicBlockLSTM, DynamicBlockQRNN)


def is_dynamic(layer):
    """Whether `layer` chooses blocks for each example, however it stores them."""
    return type(layer) in DYNAMIC


def is_in_blocks(layer):
    """Whether `layer` is dynamic and stores its matrices block by block."""
    return is_dynamic(layer) and getattr(layer, "cell", layer).storage == "blocks"


def in_blocks(layer, dtype="float32"):
    """A layer of the same config that stores its matrices block by block in `dtype`; not built.

    Regularizers and constraints that need the whole matrix are left out: they act in training.
    """
    plain = type(layer).from_config(layer.get_config())
    detach(plain)
    config = {**plain.get_config(), "storage": "blocks", "storage_dtype": dtype}
    owner = getattr(plain, "cell", plain)
    for name in config:
        if name in ("kernel_regularizer", "recurrent_regularizer") and elementwise_problem(None, getattr(owner, name)):
            config[name] = None
        if name in ("kernel_constraint", "recurrent_constraint") and elementwise_problem(getattr(owner, name), None):
            config[name] = None
    return type(layer).from_config(config)


def copy_dynamic_weights(layer, twin):
    """Copies the weights of a built dynamic layer to a built one of another storage."""
    for matrix, twin_matrix in zip(dynamic_matrices_of(layer), dynamic_matrices_of(twin), strict=True):
        twin_matrix.assign(matrix.to_matrix())
    for weight, twin_weight in zip(_other_weights(layer), _other_weights(twin), strict=True):
        twin_weight.assign(weight)


def dynamic_matrices_of(layer):
    """The `DynamicMatrix`es of one built layer or its cell, in the order in which they were made."""
    return [v for v in vars(getattr(layer, "cell", layer)).values() if isinstance(v, DynamicMatrix)]


def _other_weights(layer):
    """The weights of a dynamic layer that no matrix is stored in, by name: a layer lists first those that train."""
    stored = [v for matrix in dynamic_matrices_of(layer) for v in (matrix.variable, getattr(matrix, "scales", None))]
    others = [w for w in layer.weights if not any(w is v for v in stored)]
    return sorted(others, key=lambda w: w.path.split("/", 1)[1])
