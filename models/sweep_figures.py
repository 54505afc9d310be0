"""Draws the papers' figures from the tables of a sweep.

    python -m models.sweep --out DIR --figures

| file | what it shows | after |
|---|---|---|
| `accuracy.png` | relative accuracy against sparsity, a line for each method and block shape | [BSR] Figure 3 |
| `schedule.png` | sparsity over time of a recurrent and a linear weight | [BSR] Figure 4a |
| `connections.png` | histogram of the output connections of all neurons, by sparsity | [BSR] Figure 4b |
| `layers.png` | sparsity of every weight, by method and block shape | [BSR] Figure 5 |
| `comput.png` | score against multiply-adds | [BDS] Table 1 |
| `parameters.png` | score against parameters, small dense beside large sparse | [AGP] Figures 3 and 4 |

Runs that differ in their seed only are drawn as their mean. Sparsities are those that were reached.
"""

import json
import pathlib
from collections import defaultdict
from statistics import fmean

from models.sweep_methods import METHODS
from models.sweep_tables import read
from tf_blocksparse.plots import figure_class

CAP = -0.75  # Figure 3 shows what is worse as this
NUMBERS = ("sparsity", "target_sparsity", "live_parameters", "comput", "gates")
SCHEDULED = ("wp", "bp", "glp", "agp")  # in Figure 4a, and their order
MARKERS = "osv^D<>pP*X"


def draw_all(directory):
    """Draws what the tables of a sweep have into `figures/` below it: list of the files.

    Raises:
        FileNotFoundError: if there is no sweep in the directory, or no run of it has ended.
    """
    directory = pathlib.Path(directory)
    for name in ("settings.json", "results.csv"):
        if not (directory / name).exists():
            raise FileNotFoundError(f"No {name} in {directory}: give the --out of a sweep of which a run has ended.")
    settings = json.loads((directory / "settings.json").read_text())
    metric = settings["metric"]
    points = mean_over_seeds(read(directory / "results.csv"), metric, settings.get("higher_is_better", False))
    tables = {name: _read_if_there(directory / f"{name}.csv") for name in ("curves", "layers", "connections")}
    figures = {
        "accuracy": draw_accuracy(points, metric),
        "comput": draw_cost(points, metric, "comput"),
        "parameters": draw_cost(points, metric, "live_parameters"),
        "schedule": draw_schedules(points, tables["curves"]),
        "connections": draw_connections(points, tables["connections"]),
        "layers": draw_layers(points, tables["layers"]),
    }
    (directory / "figures").mkdir(exist_ok=True)
    files = []
    for name, figure in figures.items():
        if figure is not None:
            files.append(directory / "figures" / f"{name}.png")
            figure.savefig(files[-1], dpi=120)
    return files


def mean_over_seeds(rows, metric, higher_is_better=False):
    """Rows with numbers in place of text, one for all seeds: list of dicts, in the order of methods and sparsities.

    Each has the `runs` that it stands for, and `accuracy`: by how much its score is better than that of the dense
    model, relative to that; NaN if there is no dense run.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row["method"], row["block_shape"], row["factor"], row["target_sparsity"]].append(row)
    points = []
    for group in groups.values():
        point = {**group[0], "runs": [row["run"] for row in group]}
        point.update({name: fmean(float(row[name]) for row in group) for name in (*NUMBERS, metric)})
        points.append(point)
    dense = [point[metric] for point in points if point["method"] == "dense"]
    for point in points:
        gain = (point[metric] - dense[0]) * (1 if higher_is_better else -1) if dense else float("nan")
        point["accuracy"] = gain / dense[0] if dense and dense[0] else float("nan")
    order = list(METHODS)
    return sorted(points, key=lambda p: (order.index(p["method"]), p["block_shape"], p["factor"], p["sparsity"]))


def lines(points):
    """The points of each line of a figure: dict from label, as in `"bp 4x4"`, to a list."""
    found, factors = defaultdict(list), defaultdict(set)
    for point in points:
        factors[point["method"], point["block_shape"]].add(point["factor"])
    for point in points:
        label = point["method"]
        if point["block_shape"] not in ("", "1x1"):
            label += f" {point['block_shape']}"
        if len(factors[point["method"], point["block_shape"]]) > 1:
            label += f", factor {point['factor']}"
        found[label].append(point)
    return dict(found)


def draw_accuracy(points, metric):
    """Relative accuracy against sparsity; None if nothing is sparse."""
    sparse = lines([point for point in points if METHODS[point["method"]].is_sparse])
    if not sparse:
        return None
    figure, axis = _figure()
    for marker, (label, line) in zip(MARKERS * len(sparse), sparse.items(), strict=False):
        accuracy = [100 * max(point["accuracy"], CAP) for point in line]
        axis.plot([point["sparsity"] for point in line], accuracy, marker=marker, label=label)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(xlabel="sparsity", ylabel=f"relative accuracy, % ({metric}; -75 and worse at -75)")
    axis.legend(fontsize="small")
    return figure


def draw_cost(points, metric, cost):
    """Score against the share of multiply-adds (`"comput"`) or against `"live_parameters"`."""
    figure, axis = _figure()
    baseline = [point for point in points if point["method"] == "dense"]
    for marker, (label, line) in zip(MARKERS * len(points), lines(points).items(), strict=False):
        if label == "small_dense":  # ends at the dense model, which is the largest of these
            line = sorted(line + baseline, key=lambda point: point[cost])
        style = "--" if label in ("dense", "small_dense") else "-"
        axis.plot([_cost(p, cost) for p in line], [p[metric] for p in line], style, marker=marker, label=label)
    names = {
        "comput": "comput.: multiply-adds of the dense model's, gates included",
        "live_parameters": "parameters that are left",
    }
    axis.set(xlabel=names[cost], ylabel=metric)
    if cost == "live_parameters":
        axis.set_xscale("log")
    axis.legend(fontsize="small")
    return figure


def _cost(point, cost):
    return point[cost] + (point["gates"] if cost == "comput" else 0)


def draw_schedules(points, curves):
    """Sparsity over time of one recurrent and one linear weight, of the sparsest run of each line (first seed)."""
    chosen = {}
    for label, line in lines([p for p in points if p["method"] in SCHEDULED]).items():
        chosen[label] = line[-1]["runs"][0]
    weights = list(dict.fromkeys(row["weight"] for row in curves if row["run"] in chosen.values()))
    picked = [next((w for w in weights if w.endswith(end)), None) for end in ("/recurrent_kernel", "/kernel")]
    picked = list(dict.fromkeys(weight for weight in picked if weight is not None))
    if not picked:
        return None
    figure, axes = _figure(len(picked))
    for axis, weight in zip(axes, picked, strict=True):
        for label, run in chosen.items():
            rows = [row for row in curves if row["run"] == run and row["weight"] == weight]
            axis.plot([int(row["step"]) for row in rows], [float(row["sparsity"]) for row in rows], label=label)
        axis.set(title=weight, xlabel="optimizer step", ylabel="sparsity", ylim=(0, 1.03))
    axes[0].legend(fontsize="small")
    return figure


def draw_connections(points, connections):
    """Histograms of output connections, of the block-pruned runs with the smallest blocks (first seed)."""
    pruned = [line for label, line in lines(points).items() if label.startswith("bp ")]
    by_run = defaultdict(dict)
    for row in connections:
        by_run[row["run"]][int(row["connections"])] = int(row["neurons"])
    pruned = [[p for p in line if p["runs"][0] in by_run] for line in pruned]
    pruned = min((line for line in pruned if line), key=lambda line: _area(line[0]["block_shape"]), default=None)
    if pruned is None:
        return None
    figure, axis = _figure()
    width = max(max(by_run[p["runs"][0]]) for p in pruned) // 60 + 1
    for point in pruned:
        counts = by_run[point["runs"][0]]
        binned = defaultdict(int)
        for number, neurons in counts.items():
            binned[number // width * width] += neurons
        label = f"{point['sparsity']:.1%}: {counts.get(0, 0):,} of {sum(counts.values()):,} neurons have none"
        starts = range(0, max(binned) + 1, width)
        axis.stairs([binned[start] for start in starts], [*starts, max(binned) + width], label=label, lw=1.5)
    title = f"bp {pruned[0]['block_shape']}"
    axis.set(xlabel="non-zero output connections", ylabel="neurons", yscale="log", title=title)
    axis.legend(fontsize="small")
    return figure


def _area(block_shape):
    height, width = block_shape.split("x")
    return int(height) * int(width)


def draw_layers(points, layers, target=None):
    """Sparsity of every weight, of the runs that aimed at one sparsity (the highest; first seed) by a threshold."""
    ramps = [p for p in points if METHODS[p["method"]].schedule == "ramp"]
    if not ramps or not layers:
        return None
    target = max(p["target_sparsity"] for p in ramps) if target is None else target
    chosen = lines([p for p in ramps if p["target_sparsity"] == target])
    by_run = defaultdict(dict)
    for row in layers:
        by_run[row["run"]][row["weight"]] = float(row["sparsity"])
    weights = list(dict.fromkeys(w for line in chosen.values() for w in by_run[line[0]["runs"][0]]))
    figure, axis = _figure()
    for marker, (label, line) in zip(MARKERS * len(chosen), chosen.items(), strict=False):
        found = by_run[line[0]["runs"][0]]
        axis.plot(weights, [found.get(w, float("nan")) for w in weights], marker=marker, label=label)
    axis.set(ylabel="sparsity", title=f"Sparsity of every weight, where {target:.0%} of each kind was asked for")
    axis.tick_params(axis="x", rotation=30)
    axis.legend(fontsize="small")
    return figure


def _figure(panels=None):
    figure = figure_class()(figsize=(8 if panels is None else 6 * panels, 5), layout="constrained")
    axes = figure.subplots(1, panels or 1, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes[0] if panels is None else axes


def _read_if_there(path):
    return read(path) if path.exists() else []
