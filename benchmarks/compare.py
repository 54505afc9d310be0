"""Compares two runs of the benchmark of products.

    python benchmarks/compare.py OLD.json NEW.json

Machines differ, and one machine differs from minute to minute: what is compared are the ratio to the best dense
product of the same run, and the share of the machine's own speed. A row whose ratio fell by more than a tenth is
marked "slower" where its share of the machine's speed fell as well, and "dense is faster" where it did not. The exit
status is 1 if the ratio of any row fell by more than the tolerance.
"""

import argparse
import json
import pathlib
import statistics
import sys

NOTICEABLE = 0.1


def key(row):
    """What tells a row from the others of a run."""
    return row["kind"], row["case"], row["sparsity"], tuple(row["block_shape"]), row["batch"]


def changes(old, new):
    """Rows that both runs have, as dicts: ratios and shares of both, new / old of each, and a mark.

    Raises:
        ValueError: if they have no row in common.
    """
    before = {key(row): row for row in old["rows"]}
    found = [_change(before[key(row)], row) for row in new["rows"] if key(row) in before]
    if not found:
        raise ValueError("The two runs have no case, block shape and batch in common.")
    return found


def _change(before, after):
    ratio = after["ratio_dense"] / before["ratio_dense"]
    shares = before["roofline_share"], after["roofline_share"]
    share = None if None in shares else shares[1] / shares[0]
    mark = ""
    if ratio < 1 - NOTICEABLE:
        mark = "slower" if share is None or share < 1 - NOTICEABLE else "dense is faster"
    return {
        "key": key(after),
        "ratios": (before["ratio_dense"], after["ratio_dense"]),
        "shares": shares,
        "ratio": ratio,
        "share": share,
        "mark": mark,
    }


def machine_speed(old, new):
    """Medians of new / old over common rows: of the peak of multiply-adds, and of reading; or None."""
    before = {key(row): row for row in old["rows"]}
    pairs = [(before[key(row)], row) for row in new["rows"] if key(row) in before]
    if any(row["gflops_peak"] is None for pair in pairs for row in pair):
        return None
    return tuple(statistics.median(b[field] / a[field] for a, b in pairs) for field in ("gflops_peak", "gbytes_peak"))


def report(old, new, tolerance, show=print):
    """Shows the comparison; returns the exit status, 0 or 1."""
    rows = changes(old, new)
    for label, run in (("old", old), ("new", new)):
        show(f"{label}: {run['machine']}, {run['threads']} threads, TensorFlow {run['versions']['tensorflow']}")
    speed = machine_speed(old, new)
    if speed:
        show(f"the machine, new / old: multiply-adds {speed[0]:.2f}, reading {speed[1]:.2f}")
    show(f"{'':>15} {'case':>10} {'block':>8} {'batch':>5} {'ratio to dense':>16} {'new/old':>8} {'% of roofline':>14}")
    for row in rows:
        kind, case, _, (height, width), batch = row["key"]
        ratios = "{:.2f} -> {:.2f}".format(*row["ratios"])
        shares = "-" if row["share"] is None else "{:.0%} -> {:.0%}".format(*row["shares"])
        block = f"{height}x{width}"
        line = (
            f"{kind:>15} {case:>10} {block:>8} {batch:>5} {ratios:>16} {row['ratio']:>8.2f} {shares:>14} {row['mark']}"
        )
        show(line.rstrip())
    fallen = [row for row in rows if row["ratio"] < 1 - tolerance]
    show(f"{len(rows)} rows; {len(fallen)} fell by more than {tolerance:.0%}")
    return 1 if fallen else 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=0.25, help="fall of a ratio that is an error")
    arguments = parser.parse_args(argv)
    old, new = (json.loads(path.read_text()) for path in (arguments.old, arguments.new))
    return report(old, new, arguments.tolerance)


if __name__ == "__main__":
    sys.exit(main())
