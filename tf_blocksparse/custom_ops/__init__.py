"""The block-sparse ops: products with a matrix of which only blocks are stored or chosen, rows, recurrent layers."""

from tf_blocksparse.custom_ops import rnn_gradients
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
from tf_blocksparse.custom_ops.rnn import block_sparse_gru, block_sparse_lstm, block_sparse_rnn
from tf_blocksparse.custom_ops.rnn_low_precision import block_sparse_sequence_low_precision
from tf_blocksparse.custom_ops.rnn_reference import (
    block_sparse_gru_reference,
    block_sparse_lstm_reference,
    block_sparse_rnn_reference,
)

__all__ = [
    "block_sparse_gather",
    "block_sparse_gather_reference",
    "block_sparse_gru",
    "block_sparse_gru_reference",
    "block_sparse_lstm",
    "block_sparse_lstm_reference",
    "block_sparse_matmul",
    "block_sparse_matmul_low_precision",
    "block_sparse_matmul_low_precision_reference",
    "block_sparse_matmul_reference",
    "block_sparse_rnn",
    "block_sparse_rnn_reference",
    "block_sparse_sequence_low_precision",
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
del ops, rnn_gradients  # Importing the latter registers the gradients.
