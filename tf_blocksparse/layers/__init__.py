"""Keras layers that store and compute only the live blocks of their weights."""

from tf_blocksparse.layers.block_sparse_dense import BlockSparseDense
from tf_blocksparse.layers.block_sparse_embedding import BlockSparseEmbedding
from tf_blocksparse.layers.block_sparse_gru import BlockSparseGRU
from tf_blocksparse.layers.block_sparse_lstm import BlockSparseLSTM
from tf_blocksparse.layers.block_sparse_simple_rnn import BlockSparseSimpleRNN

__all__ = [
    "BlockSparseDense",
    "BlockSparseEmbedding",
    "BlockSparseGRU",
    "BlockSparseLSTM",
    "BlockSparseSimpleRNN",
]
