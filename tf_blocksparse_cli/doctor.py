"""What may be wrong with an installation, each with what to do about it."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys

TENSORFLOW, KERAS = "2.21", "3.15"
ISA_VARIABLE = "TF_BLOCKSPARSE_MAX_ISA"
ISA_LEVELS = ("generic", "avx2", "avx512")

# In a process of its own, which a broken library may end. Its last line is what is read.
_PROBE = """
import json
import tensorflow as tf
import tf_blocksparse
from tf_blocksparse.custom_ops.library import instruction_set
from tf_blocksparse.self_test import self_test
isa = instruction_set()
tests = [{"op": t.op, "error": t.error, "allowed": t.allowed, "passed": t.passed, "message": t.message}
         for t in (self_test() if isa else [])]
print("\\n" + json.dumps({"version": tf_blocksparse.__version__, "library": tf_blocksparse.ops.library_path(),
    "isa": isa, "threads": tf.config.threading.get_intra_op_parallelism_threads(), "tests": tests}))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: str, the thing.
        status: `"ok"`, `"warning"` or `"problem"`.
        found: str, how it is.
        advice: str, what to do about it; empty if it is well.
    """

    what: str
    status: str
    found: str
    advice: str = ""


def diagnose():
    """All findings, as a list, in the order in which they should be mended."""
    findings = [
        Finding("Python", "ok", platform.python_version()),
        _package("tensorflow", TENSORFLOW),
        _package("keras", KERAS),
        _backend(),
        _max_isa(os.environ.get(ISA_VARIABLE, "")),
    ]
    probe, error = _probe()
    if probe is None:
        return [*findings, _import_problem(error), _serving_api()]
    return [
        *findings,
        Finding("op library", "ok", f"{probe['library']} (tf_blocksparse {probe['version']})"),
        _instruction_set(tuple(probe["isa"]), platform.machine()),
        _threads(probe["threads"]),
        _self_test(probe["tests"]),
        _serving_api(),
    ]


def _package(name, wanted):
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # Builds such as tensorflow-cpu install the same module under another name.
        others = importlib.metadata.packages_distributions().get(name, [])
        if not others:
            return Finding(name, "problem", "not installed", f"pip install '{name}=={wanted}.*'")
        found = importlib.metadata.version(others[0])
    if found.split(".")[:2] == wanted.split("."):
        return Finding(name, "ok", found)
    advice = f"This version of tf_blocksparse is made for {wanted}: pip install '{name}=={wanted}.*'"
    return Finding(name, "problem", found, advice)


def _backend():
    backend = os.environ.get("KERAS_BACKEND")
    where = "the environment variable KERAS_BACKEND"
    if not backend:
        file = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras") / "keras.json"
        where = str(file)
        try:
            backend = json.loads(file.read_text()).get("backend", "tensorflow")
        except (OSError, ValueError, AttributeError):
            backend = "tensorflow"  # what Keras takes
    if backend == "tensorflow":
        return Finding("Keras backend", "ok", backend)
    advice = "Only TensorFlow has the ops: set it to tensorflow."
    return Finding("Keras backend", "problem", f"{backend}, by {where}", advice)


def _max_isa(value):
    if not value:
        return Finding(ISA_VARIABLE, "ok", "not set: the best instruction set is taken")
    if value not in ISA_LEVELS:
        return Finding(ISA_VARIABLE, "problem", value, f"Every op fails. Unset it, or set it to one of {ISA_LEVELS}.")
    if value == ISA_LEVELS[-1]:
        return Finding(ISA_VARIABLE, "ok", value)
    return Finding(ISA_VARIABLE, "warning", value, "Nothing better is used, even where it is faster. Unset it.")


def _probe():
    """`(what the probe printed, None)`, or `(None, the end of its error)`."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, env=environment)
    if result.returncode == 0:
        return json.loads(result.stdout.strip().splitlines()[-1]), None
    if result.returncode < 0:
        return None, f"the process was ended by signal {-result.returncode} while the library was loaded or tested"
    return None, (result.stderr.strip().splitlines() or ["no message"])[-1]


def _import_problem(error):
    if importlib.util.find_spec("tf_blocksparse") is None:
        return Finding("tf_blocksparse", "problem", "not installed", "Run `pip install .` in its source directory.")
    words = {
        "undefined symbol": "The library was built for another build of TensorFlow: build it again, pip install "
        "--force-reinstall --no-deps --no-build-isolation . in the source directory.",
        "has not been built": "Run `pip install .` in the source directory; it needs a C++17 compiler.",
        "were built for TensorFlow": f"pip install 'tensorflow=={TENSORFLOW}.*'",
        "signal": "Set TF_BLOCKSPARSE_MAX_ISA=generic and look whether that helps. Then report it, please.",
    }
    anew = "Install it anew: pip install --force-reinstall --no-deps ."
    advice = next((advice for word, advice in words.items() if word in error), anew)
    return Finding("op library", "problem", error, advice)


def _instruction_set(isa, machine):
    if not isa:
        return Finding("instruction set", "problem", "none", f"Unset {ISA_VARIABLE}, which names none.")
    if isa[-1] == "generic" and machine in ("x86_64", "AMD64"):
        advice = "The slowest kernels are in use. They are all that a processor without AVX2 and FMA has; a virtual "
        advice += f"machine may hide them (the CPU model of its settings), or {ISA_VARIABLE} may exclude them."
        return Finding("instruction set", "warning", isa[-1], advice)
    return Finding("instruction set", "ok", ", ".join(reversed(isa)))


def _threads(configured):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if configured == 0:
        return Finding("threads", "ok", f"{cores}, one for each core that this process may use")
    if configured < cores:
        advice = "Unset TF_NUM_INTRAOP_THREADS, unless the other cores are busy."
        return Finding("threads", "warning", f"{configured} for {cores} cores", advice)
    return Finding("threads", "ok", f"{configured} for {cores} cores")


def _self_test(tests):
    failed = [test for test in tests if not test["passed"]]
    if tests and not failed:
        return Finding("self-test", "ok", f"{len(tests)} ops are right")
    if not tests:
        return Finding("self-test", "problem", "not run", "Mend what is above first.")
    sizes = [t["message"] or f"error {t['error']:.2g}, allowed {t['allowed']:.2g}" for t in failed]
    found = "; ".join(f"{test['op']}: {size}" for test, size in zip(failed, sizes, strict=True))
    advice = f"Do not use these results. {ISA_VARIABLE}=generic may help. Report it, please, with the output of "
    return Finding("self-test", "problem", found, advice + "`tf-blocksparse doctor --json`.")


def _serving_api():
    what = "tensorflow-serving-api"
    try:
        return Finding(what, "ok", importlib.metadata.version(what))
    except importlib.metadata.PackageNotFoundError:
        return Finding(what, "ok", "not installed; export(warmup=True) and gRPC clients need it")
