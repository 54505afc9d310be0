"""Training that gets faster once the pattern of the blocks is fixed: the rest multiplies live blocks only."""

from tf_blocksparse.sparse_training.callback import SparsifyTraining
from tf_blocksparse.sparse_training.sparsify import sparsify_training

__all__ = ["SparsifyTraining", "sparsify_training"]
