"""The numbers that a block-sparse layer stores its blocks in, and those it multiplies in.

- `storage_dtype="float32"`: the layer trains.
- `storage_dtype="bfloat16"` or `"int8"`: a half or a quarter of the bytes, for inference only.
- `product_dtype=None`: products in the storage dtype, to which their inputs are rounded as well; `"float32"`: the
  inputs are taken as they are, and only the weights are rounded.
"""

from tf_blocksparse.layers.block_sparse_weight import BlockSparseWeight
from tf_blocksparse.layers.low_precision_weight import LowPrecisionBlockSparseWeight

STORAGE_DTYPES = ("float32", "bfloat16", "int8")


def check_dtypes(storage_dtype, product_dtype, name="storage_dtype"):
    """Refuses dtypes that no layer has; `name` is what the caller's argument for the first is called.

    Raises:
        ValueError: if there is no such storage, or no such product with it.
    """
    if storage_dtype not in STORAGE_DTYPES:
        raise ValueError(f"`{name}` must be one of {STORAGE_DTYPES}. Received: {name}={storage_dtype!r}.")
    if product_dtype not in (None, "float32", storage_dtype):
        raise ValueError(
            f"`product_dtype` must be None, which is the dtype of the stored blocks, that dtype, or 'float32'. "
            f"Received: product_dtype={product_dtype!r} with {name}={storage_dtype!r}."
        )


def is_trainable(layer):
    """Whether a layer or cell of this `storage_dtype` can be trained."""
    return layer.storage_dtype == "float32"


def make_weight(layer, *arguments):
    """The block-sparse weight of a layer or cell, of the class that stores in its `storage_dtype`.

    Args:
        layer: with `storage_dtype` and `product_dtype`.
        *arguments: the other arguments of `BlockSparseWeight`, without `order`.
    """
    if is_trainable(layer):
        return BlockSparseWeight(layer, *arguments)
    product_dtype = layer.product_dtype or layer.storage_dtype
    return LowPrecisionBlockSparseWeight(
        layer, *arguments, storage_dtype=layer.storage_dtype, product_dtype=product_dtype
    )


def refuse_training(layer, storage_dtype, training):
    """Refuses to call a layer in training that has nothing to train, unless it is frozen.

    Raises:
        ValueError: if it is called so.
    """
    if training and layer.trainable and storage_dtype != "float32":
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r} stores its blocks as {storage_dtype}, which is for inference only. "
            "Train the model in float32 and convert it again. To train only what comes after the layer, freeze it: "
            "layer.trainable = False."
        )
