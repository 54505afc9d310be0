"""Pictures of pruning. Needs matplotlib: `pip install tf-blocksparse[plot]`.

>>> plot_pruning(model, history).savefig("pruning.png")  # over time, and where the blocks are
>>> plot_output_connections({"89 %": model, "94 %": sparser}).savefig("connections.png")
>>> plot_sparsity_by_layer({"4 x 4": model, "16 x 16": other}).savefig("layers.png")
"""

import os

import keras
import numpy as np

from tf_blocksparse import blocks
from tf_blocksparse.output_connections import output_connections
from tf_blocksparse.report import block_masks, report

_LINE_STYLES = ("-", "--", ":", "-.")
_COLORS = 10  # of matplotlib's default cycle
_LEGEND_COLUMNS = 3
_SHARP_BLOCKS = 200  # along a side; about the pixels that a mask is drawn with


def plot_pruning(model, history=None):
    """Draws sparsity and threshold over time, if recorded, and the block mask of every pruned or block-sparse weight.

    Args:
        model: a pruned or converted `keras.Model`, or the path of a SavedModel.
        history: a `SparsityHistory` of its training, or None.

    Returns:
        A `matplotlib.figure.Figure`; save it with `figure.savefig("pruning.png")`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if nothing in the model is pruned or block-sparse.

    Reference:
        [BSR] appendix B.1, Figure 4a; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    figure_of = figure_class()
    masks = block_masks(model)
    if not masks:
        raise ValueError(f"Nothing in {_name(model)!r} is pruned or block-sparse, so there is no mask to draw.")
    columns = min(2, len(masks))
    rows = -(-len(masks) // columns)
    heights = [3.4 + 0.24 * _legend_rows(history), 3.0 * rows] if history else [3.0 * rows]
    figure = figure_of(figsize=(12, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if history:
        _draw_over_time(parts[0], history)
    axes = parts[-1].subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(masks) :]:
        axis.set_axis_off()
    for axis, (path, block_mask) in zip(axes, masks.items(), strict=False):
        draw_mask(axis, path, block_mask)
    return figure


def plot_history(history):
    """Draws sparsity and threshold over time, side by side.

    Args:
        history: a `SparsityHistory`, after training.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.

    Reference:
        [BSR] appendix B.1, Figure 4a; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    figure = figure_class()(figsize=(12, 3.4 + 0.24 * _legend_rows(history)), layout="constrained")
    _draw_over_time(figure, history)
    return figure


def plot_output_connections(models, dense=False):
    """Draws the histogram of the number of non-zero output connections of all neurons, of one model or several.

    The legend says how many neurons have none left. Compare models of one architecture: all weight matrices are
    counted together, as in the paper.

    Args:
        models: a built `keras.Model`, pruned, stripped or converted, the path of a SavedModel, or a dict from labels
            to these.
        dense: bool, whether to count weights without any zero as well.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if it is given something else than models.
        ValueError: if nothing in a model is sparse.

    Reference:
        [BSR] appendix B.2, Figure 4b; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    figure_of = figure_class()
    counts = {}
    for label, model in _labelled(models).items():
        found = output_connections(model, dense)
        if not found:
            raise ValueError(
                f"No weight of {_name(model)!r} has zeros, so every neuron has all its output connections. Prune it "
                "first, or pass dense=True."
            )
        counts[label] = np.concatenate(list(found.values()))
    figure = figure_of(figsize=(9, 4.5), layout="constrained")
    axis = figure.subplots()
    edges = _bin_edges(max(int(count.max()) for count in counts.values()))
    for label, count in counts.items():
        legend = f"{label}: {int(np.sum(count == 0)):,} of {count.size:,} neurons have none"
        drawn = axis.hist(count, bins=edges, histtype="stepfilled", alpha=0.3)
        axis.hist(count, bins=edges, histtype="step", color=drawn[2][0].get_facecolor()[:3], label=legend, lw=1.5)
    axis.set(xlabel="non-zero output connections", ylabel="neurons", title="Output connections of all neurons")
    axis.margins(x=0.01)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return figure


def plot_sparsity_by_layer(models):
    """Draws the sparsity of every pruned or block-sparse weight as bars, in the order of the model.

    Args:
        models: a pruned or converted `keras.Model` or the path of a SavedModel, or a dict from labels to these. Weights
            of the same path stand side by side; if all models have matrices of the same shapes, weights of the same
            place.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if it is given something else than models.
        ValueError: if nothing in a model is pruned or block-sparse.

    Reference:
        [BSR] appendix B.3, Figure 5; Narang et al., 2017, https://arxiv.org/abs/1711.02782
    """
    figure_of = figure_class()
    rows = {label: _rows_with_blocks(model) for label, model in _labelled(models).items()}
    if len({tuple(w.matrix_shape for w in found) for found in rows.values()}) == 1:
        names = [w.path for w in next(iter(rows.values()))]  # one architecture, whatever Keras numbered the layers
        sparsities = {
            label: {n: w.sparsity for n, w in zip(names, found, strict=True)} for label, found in rows.items()
        }
    else:
        sparsities = {label: {w.path: w.sparsity for w in found} for label, found in rows.items()}
    paths = list(dict.fromkeys(path for found in sparsities.values() for path in found))
    figure = figure_of(figsize=(max(5, 2.5 + 0.6 * len(paths)), 5), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(sparsities)
    for i, (label, found) in enumerate(sparsities.items()):
        x = np.arange(len(paths)) + (i - (len(sparsities) - 1) / 2) * width
        axis.bar(x, [found.get(path, np.nan) for path in paths], width, label=label)
    axis.set(ylabel="sparsity (blocks)", ylim=(0, 1.03), xlim=(-0.8, len(paths) - 0.2), title="Sparsity by layer")
    axis.set_xticks(range(len(paths)), paths, rotation=45, ha="right", rotation_mode="anchor", fontsize="small")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    if len(sparsities) > 1:
        figure.legend(loc="outside upper right", ncols=min(4, len(sparsities)), fontsize="small")
    return figure


def _rows_with_blocks(model):
    """The `WeightReport`s of the pruned and block-sparse weights of a model."""
    found = [w for w in report(model).weights if w.block_shape is not None]
    if not found:
        raise ValueError(
            f"Nothing in {_name(model)!r} is pruned or block-sparse, so it has no sparsity by block to draw."
        )
    return found


def draw_history(axis, history):
    """Draws the sparsities of a `SparsityHistory` over time into a matplotlib axis."""
    _draw_curves(axis, history.steps, history.sparsity)
    axis.set(ylabel="sparsity (blocks)", ylim=(0, 1.03), title="Sparsity over time")


def draw_threshold(axis, history):
    """Draws the thresholds of a `SparsityHistory` over time into a matplotlib axis."""
    _draw_curves(axis, history.steps, history.threshold)
    axis.set(ylabel="threshold", title="Threshold over time")
    axis.set_ylim(0, 1.05 * axis.dataLim.ymax if axis.dataLim.ymax > 0 else 1)


def draw_mask(axis, path, block_mask):
    """Draws a block mask into a matplotlib axis: dark = kept."""
    axis.imshow(block_mask, cmap="gray_r", vmin=0, vmax=1, interpolation=_interpolation(block_mask), aspect="auto")
    rows, cols = block_mask.shape
    axis.set_title(f"{path}\n{rows} x {cols} blocks, sparsity {blocks.sparsity(block_mask):.3f}", fontsize="small")
    axis.set(xlabel="block column", ylabel="block row")
    axis.locator_params(integer=True)


def _interpolation(block_mask):
    """Sharp edges, unless there are more blocks than pixels."""
    return "nearest" if max(block_mask.shape) < _SHARP_BLOCKS else "antialiased"


def _draw_over_time(figure, history):
    """Both panels of a `SparsityHistory` in a figure, with one legend below them."""
    left, right = figure.subplots(1, 2)
    draw_history(left, history)
    draw_threshold(right, history)
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize="small")


def _legend_rows(history):
    return -(-len(history.sparsity) // _LEGEND_COLUMNS)


def _draw_curves(axis, steps, curves):
    for i, (path, values) in enumerate(curves.items()):
        missing = [np.nan] * (len(steps) - len(values))  # a weight that is pruned no more
        style = _LINE_STYLES[i // _COLORS % len(_LINE_STYLES)]
        marker = "." if len(steps) == 1 else None
        axis.plot(steps, [*values, *missing], style, color=f"C{i % _COLORS}", marker=marker, label=path)
    axis.set_xlabel("optimizer step")
    axis.grid(alpha=0.3)


def _bin_edges(largest):
    """Edges of at most 60 bins of equal, whole width; the first holds few connections or none, from 0 on."""
    width = largest // 60 + 1
    return np.arange(0, largest + width + 1, width) - 0.5


def _labelled(models):
    """Dict from label to model."""
    models = models if isinstance(models, dict) else {_name(models): models}
    for model in models.values():
        if not isinstance(model, (keras.layers.Layer, str, os.PathLike)):
            raise TypeError(
                "Expected a Keras model or a dict from labels to models. Received: "
                f"{model!r} of type {type(model).__name__}."
            )
    return models


def _name(model):
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else getattr(model, "name", "")


def figure_class():
    """`matplotlib.figure.Figure`; raises `ImportError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib. Install it: pip install tf-blocksparse[plot]") from error
    return Figure
