"""Rows of the benchmark of products as lines of text, Markdown and a picture."""

HEADER = (
    f"{'':>14} {'matrix':>9} {'block':>7} {'batch':>5} {'block-sparse':>18} {'tf.matmul':>10} {'NumPy':>10}"
    f" {'x dense':>15} {'x sparse rival':>21} {'% roof':>6}"
)


def line(row):
    """A line under `HEADER`: medians in microseconds, of the op with its minimum; ratios of medians (of minima)."""
    block = "x".join(map(str, row["block_shape"]))
    times = row["times"]
    mine = f"{row['microseconds']:.1f} ({times['block-sparse']['minimum']:.1f})"
    dense = f"{row['ratio_dense']:.2f} ({row['ratio_dense_minima']:.2f})"
    return (
        f"{row['kind']:>14} {row['case'][-9:]:>9} {block:>7} {row['batch']:>5} {mine:>18}"
        f" {times['tf.matmul']['median']:>10.1f} {times['NumPy']['median']:>10.1f} {dense:>15} {_rival(row):>21}"
        f" {_percent(row['roofline_share']):>6}"
    )


def _rival(row):
    return f"{row['ratio_sparse']:.2f} {row['best_sparse']}" if row["best_sparse"] else "-"


def _percent(share):
    return "-" if share is None else f"{100 * share:.0f}"


def left_out(rows):
    """Lines that name the rivals that could not take part, and why."""
    reasons = {}
    for row in rows:
        for name, why in row["unavailable"].items():
            reasons.setdefault((name, why), set()).add("x".join(map(str, row["block_shape"])))
    shapes = {"x".join(map(str, row["block_shape"])) for row in rows if row["kind"] == "product"}
    return [
        f"left out: {name}{'' if blocks == shapes else ' (' + ', '.join(sorted(blocks)) + ')'}: {why}"
        for (name, why), blocks in reasons.items()
    ]


def costs(results):
    """Lines about what is apart from the products: overheads, conversion, bytes, and the machine."""
    found = [f"{name}: {value:.2f} us" for name, value in results["overheads"].items()]
    for item in results["conversion"]:
        values = ", ".join(f"{name} {value:.2f} ms" for name, value in _numbers(item))
        found.append(f"{_label(item)}: {values}")
    for item in results["storage"]:
        values = ", ".join(f"{name} {value / 1e6:.2f} MB" for name, value in _numbers(item))
        found.append(f"{_label(item)}: {values}")
    if results["roofline"]:
        for item in results["roofline"]["fma"]:
            found.append(f"{item['isa']}, {item['threads']} threads: {item['gflops']:.0f} GF/s")
        for item in results["roofline"]["read"]:
            found.append(f"{item['bytes'] / 2**20:.3g} MiB, {item['threads']} threads: {item['gbytes']:.0f} GB/s")
    return found


def _label(item):
    return f"{item['case']} {'x'.join(map(str, item['block_shape']))}"


def _numbers(item):
    return [(name, value) for name, value in item.items() if name not in ("case", "block_shape")]


def markdown(results):
    """A text of tables: for each kind of product and case, ratios to the best dense product by block and batch."""
    text = [f"{results['machine']}, {results['threads']} threads, TensorFlow {results['versions']['tensorflow']}.", ""]
    text += ["Times faster than the better of tf.matmul and NumPy (microseconds of the block-sparse product):", ""]
    for kind, title in dict.fromkeys((row["kind"], row["title"]) for row in results["rows"]):
        rows = [row for row in results["rows"] if (row["kind"], row["title"]) == (kind, title)]
        batches = sorted({row["batch"] for row in rows})
        text.append(f"| {kind}, {title} | " + " | ".join(f"batch {batch}" for batch in batches) + " |")
        text.append("|---|" + "---|" * len(batches))
        for block_shape in dict.fromkeys(tuple(row["block_shape"]) for row in rows):
            cells = {row["batch"]: row for row in rows if tuple(row["block_shape"]) == block_shape}
            values = [_cell(cells.get(batch)) for batch in batches]
            text.append(f"| {'x'.join(map(str, block_shape))} | " + " | ".join(values) + " |")
        text.append("")
    return "\n".join(text)


def _cell(row):
    return f"{row['ratio_dense']:.1f} ({row['microseconds']:.1f})" if row else ""


def plot(results, path):
    """Draws the ratio to the best dense product by batch, a panel for each case; writes the picture to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in results["rows"] if row["kind"] == "product"]
    titles = list(dict.fromkeys(row["title"] for row in rows))
    figure, axes = plt.subplots(1, len(titles), figsize=(4 * len(titles), 4), squeeze=False, layout="constrained")
    for axis, title in zip(axes[0], titles, strict=True):
        those = [row for row in rows if row["title"] == title]
        for block_shape in dict.fromkeys(tuple(row["block_shape"]) for row in those):
            points = [(row["batch"], row["ratio_dense"]) for row in those if tuple(row["block_shape"]) == block_shape]
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label="x".join(map(str, block_shape)))
        axis.axhline(1, color="grey", label="dense")
        if those[0]["sparsity"] < 1:
            axis.axhline(1 / (1 - those[0]["sparsity"]), color="grey", linestyle="--", label="1 / density")
        axis.set(title=title, xlabel="batch", xscale="log", yscale="log")
        batches = sorted({row["batch"] for row in those})
        axis.set_xticks(batches, batches, minor=False)
        low, high = axis.get_ylim()
        heights = [height for height in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= height <= high]
        axis.set_yticks(heights, heights, minor=False)
        axis.minorticks_off()
    axes[0, 0].set_ylabel("times faster than the best dense product")
    axes[0, 0].legend()
    figure.suptitle(f"{results['machine']}, {results['threads']} threads")
    figure.savefig(path, dpi=120)
    plt.close(figure)
