"""Keras layers that store and compute only the live blocks of their weights, or only those that they choose."""

from tf_blocksparse.layers.block_gate import BlockGate
from tf_blocksparse.layers.block_sparse_dense import BlockSparseDense
from tf_blocksparse.layers.block_sparse_embedding import BlockSparseEmbedding
from tf_blocksparse.layers.block_sparse_gru import BlockSparseGRU
from tf_blocksparse.layers.block_sparse_lstm import BlockSparseLSTM
from tf_blocksparse.layers.block_sparse_simple_rnn import BlockSparseSimpleRNN
from tf_blocksparse.layers.dynamic_block_dense import DynamicBlockDense
from tf_blocksparse.layers.dynamic_block_lstm import DynamicBlockLSTM
from tf_blocksparse.layers.dynamic_block_qrnn import DynamicBlockQRNN
from tf_blocksparse.layers.qrnn import QRNN
from tf_blocksparse.layers.softmax_block_gate import SoftmaxBlockGate

__all__ = [
    "BlockGate",
    "BlockSparseDense",
    "BlockSparseEmbedding",
    "BlockSparseGRU",
    "BlockSparseLSTM",
    "BlockSparseSimpleRNN",
    "DynamicBlockDense",
    "DynamicBlockLSTM",
    "DynamicBlockQRNN",
    "QRNN",
    "SoftmaxBlockGate",
]
