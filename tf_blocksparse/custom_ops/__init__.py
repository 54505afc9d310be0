"""The block-sparse ops: products with a matrix of which blocks are stored, or chosen for each example, and its rows."""

from tf_blocksparse.custom_ops.choose_blocks import choose_blocks, choose_blocks_reference, gate_scores
from tf_blocksparse.custom_ops.dynamic_low_precision_matmul import (
    dynamic_block_matmul_low_precision,
    dynamic_block_matmul_low_precision_reference,
)
from tf_blocksparse.custom_ops.dynamic_matmul import dynamic_block_matmul, dynamic_block_matmul_reference
from tf_blocksparse.custom_ops.gather import block_sparse_gather, block_sparse_gather_reference
from tf_blocksparse.custom_ops.library import library_path, ops
from tf_blocksparse.custom_ops.low_precision_matmul import (
    block_sparse_matmul_low_precision,
    block_sparse_matmul_low_precision_reference,
)
from tf_blocksparse.custom_ops.matmul import block_sparse_matmul, block_sparse_matmul_reference

__all__ = [
    "block_sparse_gather",
    "block_sparse_gather_reference",
    "block_sparse_matmul",
    "block_sparse_matmul_low_precision",
    "block_sparse_matmul_low_precision_reference",
    "block_sparse_matmul_reference",
    "choose_blocks",
    "choose_blocks_reference",
    "dynamic_block_matmul",
    "dynamic_block_matmul_low_precision",
    "dynamic_block_matmul_low_precision_reference",
    "dynamic_block_matmul_reference",
    "gate_scores",
    "library_path",
]

ops()  # Registers the ops: importing the package makes a SavedModel that uses them loadable.
del ops
