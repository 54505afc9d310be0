"""Block-sparse Keras models: prune while training, convert to fast layers, export, serve.

>>> import tf_blocksparse as bs
>>> bs.prune_blocks(model, block_shape=(4, 4), schedule=bs.GradualSparsity(0.9, 0, 1000))
>>> model.fit(x, y)
>>> bs.export(bs.convert(model), "served/1")
"""

from tf_blocksparse import custom_ops as ops
from tf_blocksparse import gate_plots, plots
from tf_blocksparse.bench import bench
from tf_blocksparse.block_gates import block_gates, computation, gate_usage
from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.convert import convert
from tf_blocksparse.export import export
from tf_blocksparse.layers import (
    QRNN,
    BlockGate,
    BlockSparseDense,
    BlockSparseEmbedding,
    BlockSparseGRU,
    BlockSparseLSTM,
    BlockSparseSimpleRNN,
    DynamicBlockDense,
    DynamicBlockLSTM,
    DynamicBlockQRNN,
    SoftmaxBlockGate,
)
from tf_blocksparse.output_connections import neurons_without_output, output_connections
from tf_blocksparse.pruning import (
    ConstantSparsity,
    GradualSparsity,
    HardThreshold,
    IterativePruning,
    KeepBlocksZero,
    PruneBlocks,
    PruningTensorBoard,
    SparsityHistory,
    ThresholdRamp,
    link_ranking,
    prune_blocks,
    prune_once,
    strip_pruning,
)
from tf_blocksparse.regularizers import BlockGroupLasso, LHalf
from tf_blocksparse.report import report
from tf_blocksparse.saved_model import saved_model_contents
from tf_blocksparse.sparse_training import SparsifyTraining, sparsify_training
from tf_blocksparse.streaming import streaming_model

__version__ = "0.1.0"
__all__ = [
    "BlockGate",
    "BlockGroupLasso",
    "BlockSparseDense",
    "BlockSparseEmbedding",
    "BlockSparseGRU",
    "BlockSparseLSTM",
    "BlockSparseSimpleRNN",
    "BsrMatrix",
    "ConstantSparsity",
    "DynamicBlockDense",
    "DynamicBlockLSTM",
    "DynamicBlockQRNN",
    "GradualSparsity",
    "HardThreshold",
    "IterativePruning",
    "KeepBlocksZero",
    "LHalf",
    "PruneBlocks",
    "PruningTensorBoard",
    "QRNN",
    "SoftmaxBlockGate",
    "SparsifyTraining",
    "SparsityHistory",
    "ThresholdRamp",
    "bench",
    "block_gates",
    "computation",
    "convert",
    "export",
    "gate_plots",
    "gate_usage",
    "link_ranking",
    "neurons_without_output",
    "ops",
    "output_connections",
    "plots",
    "prune_blocks",
    "prune_once",
    "report",
    "saved_model_contents",
    "sparsify_training",
    "streaming_model",
    "strip_pruning",
]
