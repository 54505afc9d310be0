"""Pruning whole blocks of weights while a Keras model trains."""

from tf_blocksparse.pruning.constant_sparsity import ConstantSparsity
from tf_blocksparse.pruning.constraint import BlockPruningConstraint
from tf_blocksparse.pruning.global_ranking import link_ranking
from tf_blocksparse.pruning.gradual_sparsity import GradualSparsity
from tf_blocksparse.pruning.hard_threshold import HardThreshold
from tf_blocksparse.pruning.history import SparsityHistory
from tf_blocksparse.pruning.iterative_pruning import IterativePruning
from tf_blocksparse.pruning.once import prune_once
from tf_blocksparse.pruning.optimizers import KeepBlocksZero
from tf_blocksparse.pruning.prune import prune_blocks
from tf_blocksparse.pruning.strip import strip_pruning
from tf_blocksparse.pruning.tensorboard import PruningTensorBoard
from tf_blocksparse.pruning.threshold_ramp import ThresholdRamp
from tf_blocksparse.pruning.weights import pruned_weights
from tf_blocksparse.pruning.wrapper import PruneBlocks

__all__ = [
    "BlockPruningConstraint",
    "ConstantSparsity",
    "GradualSparsity",
    "HardThreshold",
    "IterativePruning",
    "KeepBlocksZero",
    "PruneBlocks",
    "PruningTensorBoard",
    "SparsityHistory",
    "ThresholdRamp",
    "link_ranking",
    "prune_blocks",
    "prune_once",
    "pruned_weights",
    "strip_pruning",
]
