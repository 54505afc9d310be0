"""Pruning whole blocks of weights while a Keras model trains."""

from tf_blocksparse.pruning.constraint import BlockPruningConstraint
from tf_blocksparse.pruning.gradual_sparsity import GradualSparsity
from tf_blocksparse.pruning.history import SparsityHistory
from tf_blocksparse.pruning.prune import prune_blocks, pruned_weights
from tf_blocksparse.pruning.strip import strip_pruning
from tf_blocksparse.pruning.threshold_ramp import ThresholdRamp
from tf_blocksparse.pruning.wrapper import PruneBlocks

__all__ = [
    "BlockPruningConstraint",
    "GradualSparsity",
    "PruneBlocks",
    "SparsityHistory",
    "ThresholdRamp",
    "prune_blocks",
    "pruned_weights",
    "strip_pruning",
]
