"""One layer that goes on in blocks: the twin that takes its place, and where the values of its variables go."""

import functools
import math

import numpy as np
from keras import ops

from tf_blocksparse.bsr import BsrMatrix
from tf_blocksparse.pruning.weights import prunable_weights
from tf_blocksparse.regularizers import WhilePruning
from tf_blocksparse.sparse_training.in_place import become
from tf_blocksparse.sparse_training.optimizer_state import Move
from tf_blocksparse.twins import make_twin, stored_matrices


class Swap:
    """A built, pruned layer and its block-sparse twin of the same weights.

    The live blocks are those of the masks, whatever is in them: a block that is kept goes on training though it be
    zero just now.

    Args:
        layer: a layer that has a twin, with nothing against it.
        block_shape: from `common_block_shape()`.
        num_blocks: dict from the name of a matrix to the number of blocks to store, for weights that are to be loaded:
            their places are arbitrary. None: the live ones.
    """

    def __init__(self, layer, block_shape, num_blocks=None):
        self.layer = layer
        self.block_shape = block_shape
        self.num_blocks = num_blocks
        self.moves = {}  # id of a variable of the layer -> list of `Move`
        self.twin = self._make_twin()

    def do(self):
        """Turns the layer into its twin."""
        become(self.layer, self.twin)

    def _make_twin(self):
        parts = [(name, w, columns, grid) for name, w, columns, grid in stored_matrices(self.layer, self.block_shape)]
        masks = [self._block_mask(*part) for part in parts]
        counts = {name: int(mask.sum()) for (name, *_), mask in zip(parts, masks, strict=True)}
        twin = make_twin(
            self.layer,
            self.block_shape,
            num_blocks=counts if hasattr(self.layer, "cell") else counts[parts[0][0]],
            **{f"{weight.stem}_regularizer": lasting_regularizer(weight) for _, weight, *_ in parts},
        )
        twin._parent_path = self.layer._parent_path  # so that variables have the paths they had
        twin.build_from_config(self.layer.get_build_config())
        owner, twin_owner = _owner(self.layer), _owner(twin)
        for (name, weight, columns, grid), mask in zip(parts, masks, strict=True):
            self._move_matrix(weight.variable, getattr(twin_owner, name), columns, grid, mask)
        if getattr(twin_owner, "bias", None) is not None:
            twin_owner.bias.assign(owner.bias)
            self.moves[id(owner.bias)] = [Move(twin_owner.bias, lambda bias: bias)]
        _copy_states(self.layer, twin)
        return twin

    def _block_mask(self, name, weight, columns, grid):
        if self.num_blocks is None:
            return live_blocks(weight, columns, grid)
        return (np.arange(grid.num_blocks) < self.num_blocks[name]).reshape(grid.mask_shape)

    def _move_matrix(self, variable, stored, columns, grid, mask):
        cut = functools.partial(_cut, columns=columns, grid=grid, block_mask=mask, order=stored.order)
        stored.assign(ops.convert_to_numpy(variable)[:, columns], mask)
        self.moves.setdefault(id(variable), []).append(Move(stored.blocks, cut))


def live_blocks(weight, columns, grid):
    """`block_mask` of a matrix that a twin stores: the blocks of `grid` that pruning keeps, all if it is not pruned."""
    if weight.pruning is None:
        return grid.nonzero_blocks(ops.ones(grid.shape))
    kept = weight.pruning.grid.expand(ops.convert_to_numpy(weight.pruning.block_mask))
    return grid.nonzero_blocks(ops.convert_to_numpy(kept)[:, columns])


def common_block_shape(layer):
    """The largest blocks that the blocks of all pruned matrices of `layer` are made of: `(height, width)`."""
    shapes = [weight.pruning.block_shape for weight in prunable_weights(layer) if weight.pruning is not None]
    return tuple(math.gcd(*sides) for sides in zip(*shapes, strict=True))


def lasting_regularizer(weight):
    """The regularizer of a `PrunableWeight` that acts when its schedule has ended, or None."""
    regularizer = weight.regularizer
    if weight.pruning is None:
        return regularizer
    if isinstance(regularizer, WhilePruning):
        regularizer = regularizer.inner
    return None if getattr(regularizer, "follow_schedule", False) else regularizer


def lasting_constraint(weight):
    """The constraint of a `PrunableWeight` beside its pruning, or None."""
    return weight.constraint if weight.pruning is None else weight.pruning.inner


def _cut(values, columns, grid, block_mask, order):
    return BsrMatrix.from_dense(values[:, columns], grid, block_mask, order).blocks


def _owner(layer):
    return getattr(layer, "cell", layer)


def _copy_states(layer, twin):
    """Copies what a recurrent layer carries from batch to batch: states, and the place in its random numbers."""
    for old, new in zip(getattr(layer, "states", None) or (), getattr(twin, "states", None) or (), strict=True):
        new.assign(old)
    seeds = getattr(_owner(layer), "seed_generator", None)
    if seeds is not None:
        _owner(twin).seed_generator.state.assign(seeds.state)
