"""Pictures of block gates. Needs matplotlib: `pip install tf-blocksparse[plot]`.

>>> plot_gates_by_class(model, images, labels, classes=(3, 8)).savefig("classes.png")  # [BDS] Figure 1
>>> plot_gate_usage(model, images).savefig("usage.png")  # [BDS] Figure 2
"""

import numpy as np

from tf_blocksparse.block_gates import block_gates, gate_usage
from tf_blocksparse.plots import figure_class

_EXAMPLES = 20  # of a class, that are drawn


def plot_gates_by_class(model, x, labels, classes=None, path=None, examples=_EXAMPLES):
    """Draws the gates of one matrix for examples of some classes: a row for each example, a column for each block.

    If the gates depend on the class, the rows of one class look alike and differ from those of another.

    Args:
        model: a built `keras.Model` with dynamic layers.
        x: array of inputs.
        labels: int array `[examples]`, the class of each.
        classes: the classes to draw. None: the first two that there are.
        path: of the matrix, as in `"dynamic_block_dense/kernel"`. None: the last one of the model.
        examples: int, of each class.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no dynamic layer, no such matrix, or there are no examples of a class.

    Reference:
        [BDS] section 4.1 and Figure 1; Hadifar et al., 2020
    """
    figure_of = figure_class()
    labels = np.asarray(labels)
    classes = np.unique(labels)[:2] if classes is None else classes
    chosen = [np.flatnonzero(labels == label)[:examples] for label in classes]
    missing = [label for label, rows in zip(classes, chosen, strict=True) if not len(rows)]
    if missing:
        raise ValueError(f"There is no example of the classes {missing} among {np.unique(labels).tolist()}.")
    found = block_gates(model, np.asarray(x)[np.concatenate(chosen)])
    path = list(found)[-1] if path is None else path
    if path not in found:
        raise ValueError(f"The model has no dynamic matrix {path!r}. It has: {sorted(found)}.")
    gates, cols = found[path].reshape(len(found[path]), -1), found[path].shape[2]
    figure = figure_of(figsize=(min(14, 3 + 0.12 * gates.shape[1]), 1 + 2.2 * len(classes)), layout="constrained")
    axes = figure.subplots(len(classes), 1, sharex=True, squeeze=False)[:, 0]
    bounds = np.cumsum([0, *map(len, chosen)])
    for i, (axis, label) in enumerate(zip(axes, classes, strict=True)):
        rows = gates[bounds[i] : bounds[i + 1]]
        image = axis.imshow(rows, cmap="viridis", vmin=0, vmax=gates.max(), aspect="auto", interpolation="nearest")
        axis.set(ylabel=f"class {label}\nexample")
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_title(f"Block gates of {path}")
    axes[-1].set_xlabel(f"block (row by row, {cols} to a row)")
    figure.colorbar(image, ax=list(axes), label="gate (mean 1)")
    return figure


def plot_gate_usage(model, x, batch_size=256):
    """Draws for every dynamic matrix how many gates are always off, depend on the input, or are always on.

    Args:
        model: a built `keras.Model` with dynamic layers, or the list that `gate_usage()` gave.
        x: array of inputs; not used for such a list.
        batch_size: int, examples that are computed at once.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no dynamic layer.

    Reference:
        [BDS] section 4.2.1 and Figure 2; Hadifar et al., 2020
    """
    figure_of = figure_class()
    usages = model if isinstance(model, list) else gate_usage(model, x, batch_size)
    figure = figure_of(figsize=(max(5, 2.5 + 0.9 * len(usages)), 5), layout="constrained")
    axis = figure.subplots()
    bottom = np.zeros(len(usages))
    for label, name in (("off", "off"), ("input dependent", "input_dependent"), ("on", "on")):
        heights = np.array([getattr(usage, name) for usage in usages])
        bars = axis.bar(range(len(usages)), heights, bottom=bottom, label=label)
        shares = [f"{n / u.open_share.size:.0%}" if n else "" for n, u in zip(heights, usages, strict=True)]
        axis.bar_label(bars, shares, label_type="center", fontsize="small")
        bottom += heights
    axis.set(ylabel="gates", title=f"Gates on or off for over {usages[0].always:.0%} of the inputs, or in between")
    axis.set_xticks(range(len(usages)), [u.path for u in usages], rotation=30, ha="right", rotation_mode="anchor")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure
