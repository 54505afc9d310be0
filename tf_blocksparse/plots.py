"""Pictures of block masks and of sparsity over time. Needs matplotlib: `pip install tf-blocksparse[plot]`."""

import numpy as np

from tf_blocksparse import blocks
from tf_blocksparse.report import block_masks


def plot_pruning(model, history=None):
    """Draws the sparsity over time, if recorded, and the block mask of every pruned or block-sparse weight.

    Args:
        model: a pruned or converted `keras.Model`.
        history: a `SparsityHistory` of its training, or None.

    Returns:
        A `matplotlib.figure.Figure`; save it with `figure.savefig("pruning.png")`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if nothing in the model is pruned or block-sparse.
    """
    figure_class = _figure_class()
    masks = block_masks(model)
    if not masks:
        raise ValueError(f"Nothing in {model.name!r} is pruned or block-sparse, so there is no mask to draw.")
    columns = 2
    rows = -(-len(masks) // columns)
    figure = figure_class(figsize=(12, 3.0 * rows + (3.2 if history else 0)), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[3.2, 3.0 * rows]) if history else [None, figure]
    if history:
        draw_history(parts[0].subplots(), history)
    axes = np.atleast_1d(parts[1].subplots(rows, columns)).ravel()
    for axis in axes[len(masks) :]:
        axis.set_axis_off()
    for axis, (path, block_mask) in zip(axes, masks.items(), strict=False):
        draw_mask(axis, path, block_mask)
    return figure


def draw_history(axis, history):
    """Draws the curves of a `SparsityHistory` into a matplotlib axis."""
    for path, values in history.sparsity.items():
        axis.plot(history.steps, values, label=path)
    axis.set(xlabel="optimizer step", ylabel="sparsity (blocks)", ylim=(0, 1), title="Sparsity over time")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def draw_mask(axis, path, block_mask):
    """Draws a block mask into a matplotlib axis: dark = kept."""
    axis.imshow(block_mask, cmap="gray_r", vmin=0, vmax=1, interpolation="antialiased", aspect="auto")
    rows, cols = block_mask.shape
    axis.set_title(f"{path}: {rows} x {cols} blocks, sparsity {blocks.sparsity(block_mask):.3f}", fontsize="small")
    axis.set(xlabel="block column", ylabel="block row")


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib. Install it: pip install tf-blocksparse[plot]") from error
    return Figure
