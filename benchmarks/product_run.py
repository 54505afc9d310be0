"""Measures the products, one case and batch at a time, and makes a row of numbers of each block shape."""

import dataclasses
import platform

import numpy as np
import roofline
import tensorflow as tf
from contestants import BASELINE, gather
from gradient_contestants import GRADIENTS
from machine import machine
from overheads import conversion_costs, op_overheads, storage_bytes
from product_cases import GRADIENT_BATCHES, random_problem
from timing import Turns, empty_twin, variables


@dataclasses.dataclass
class Settings:
    """What to measure.

    Args:
        cases: list of `Case`.
        blocks: list of block shapes.
        batches: list of ints.
        threads: int, 1 or more.
        seconds: float, for the samples of a case and batch with all block shapes.
        gradients: bool, whether to measure the gradients of the first case, too.
        gradient_batches: list of ints.
        order: "row" or "column", in which the blocks are stored.
    """

    cases: list
    blocks: list
    batches: list
    threads: int
    seconds: float
    gradients: bool = False
    gradient_batches: tuple = GRADIENT_BATCHES
    order: str = "column"


def run(settings, show_row=lambda row: None, show_text=lambda text: None):
    """Measures everything.

    Args:
        settings: `Settings`.
        show_row: called with each row when it is done.
        show_text: called with lines about the machine, and with what is left out and why.

    Returns:
        Dict of numbers, as written to JSON: times in microseconds, shares and sparsities as fractions.
    """
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
    limits = _limits(settings.threads, show_text)
    survey = limits.survey() if limits else None
    _warn_of_company(survey, settings.threads, show_text)
    results = {
        "machine": machine(),
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__},
        "threads": settings.threads,
        "order": settings.order,
        "roofline": survey,
        "overheads": op_overheads(settings.threads, min(1.0, settings.seconds)),
        "conversion": [],
        "storage": [],
        "rows": [],
    }
    for case, batch in ((case, batch) for case in settings.cases for batch in settings.batches):
        rows = measure_products(case, settings.blocks, batch, settings, limits)
        results["rows"] += rows
        for row in rows:
            show_row(row)
    if settings.gradients:
        for row in _gradient_rows(settings, limits):
            results["rows"].append(row)
            show_row(row)
    for case, block_shape in ((case, block_shape) for case in settings.cases for block_shape in settings.blocks):
        label = {"case": case.name, "block_shape": list(block_shape)}
        results["storage"].append({**label, **storage_bytes(case, block_shape)})
        results["conversion"].append({**label, **conversion_costs(case, block_shape, settings.order)})
    return results


def _limits(threads, show_text):
    try:
        return roofline.Machine(roofline.build(), threads)
    except roofline.Unbuilt as reason:
        show_text(f"No share of the machine's speed is shown: {reason}")
        return None


def _warn_of_company(survey, threads, show_text):
    """Says so if several threads are not as fast as they should be."""
    if survey is None or threads == 1:
        return
    best = {item["threads"]: item["gflops"] for item in survey["fma"]}  # the last of each is the best
    speedup = best[threads] / best[1]
    if speedup < 0.75 * threads:
        show_text(
            f"{threads} threads are only {speedup:.1f} times as fast as one: other processes run, or threads share "
            "cores. Times will vary."
        )


def measure_products(case, blocks, batch, settings, limits):
    """Rows of all block shapes, measured in turns with one set of dense contestants."""
    problems = [random_problem(case, block_shape, batch) for block_shape in blocks]
    contestants, unavailable = gather(problems, settings.order)
    return _measure("product", case, problems, contestants, unavailable, settings, limits)


def _gradient_rows(settings, limits):
    case = settings.cases[0]
    for kind, make in GRADIENTS.items():
        for batch in settings.gradient_batches:
            for block_shape in settings.blocks:
                problem = random_problem(case, block_shape, batch)
                yield from _measure(kind, case, [problem], make(problem, settings.order), {}, settings, limits)


def _measure(kind, case, problems, contestants, unavailable, settings, limits):
    twin = empty_twin(variables(problems[0].inputs))
    peaks = limits and limits.limits([problem.weight_bytes for problem in problems])
    times = Turns(contestants, twin, settings.threads).run(settings.seconds)
    rows = []
    for problem in problems:
        block_shape = problem.matrix.grid.block_shape
        those = {
            contestant.name: (contestant.kind, time)
            for contestant, time in zip(contestants, times, strict=True)
            if contestant.block_shape in (None, block_shape)
        }
        missing = {name: why for (name, shape), why in unavailable.items() if shape in (None, block_shape)}
        rows.append(make_row(kind, case, problem, those, missing, peaks))
    return rows


def make_row(kind, case, problem, times, unavailable, peaks):
    """A row of the table, a dict.

    Args:
        kind: "product", "x gradient" or "block gradient".
        case: `Case`.
        problem: `Problem`.
        times: `(kind of contestant, Times)` by name.
        unavailable: reasons by name.
        peaks: `(GF/s, {bytes: GB/s})` of the machine, or None.
    """
    mine = next(time for kind_of, time in times.values() if kind_of == "ours")
    row = {
        "kind": kind,
        "case": case.name,
        "title": case.title,
        "sparsity": case.sparsity,
        "block_shape": list(problem.matrix.grid.block_shape),
        "num_blocks": problem.matrix.num_blocks,
        "batch": len(problem.inputs[0]),
        "flops": problem.flops,
        "weight_bytes": problem.weight_bytes,
        "microseconds": mine.median * 1e6,
        "times": {
            name: {"median": time.median * 1e6, "minimum": time.minimum * 1e6, "samples": time.samples}
            for name, (_, time) in times.items()
        },
        "unavailable": unavailable,
    }
    dense = {name: time for name, (_, time) in times.items() if name in BASELINE}
    sparse = {name: time for name, (kind_of, time) in times.items() if kind_of == "sparse"}
    for label, rivals in (("dense", dense), ("sparse", sparse)):
        best = min(rivals, key=lambda name, rivals=rivals: rivals[name].median, default=None)
        row[f"best_{label}"] = best
        row[f"ratio_{label}"] = rivals[best].median / mine.median if best else None
    row["ratio_dense_minima"] = min(time.minimum for time in dense.values()) / mine.minimum
    row.update(_roofline_fields(row, mine.median, peaks))
    return row


def _roofline_fields(row, seconds, peaks):
    if peaks is None:
        return {"gflops_peak": None, "gbytes_peak": None, "roofline_share": None}
    gflops, gbytes = peaks[0], peaks[1][row["weight_bytes"]]
    found = roofline.share(seconds, row["flops"], row["weight_bytes"], gflops, gbytes)
    return {"gflops_peak": gflops, "gbytes_peak": gbytes, "roofline_share": found}
