"""Loads and calls SavedModels whose files were spoilt, in processes of their own.

Every file has to end in an error, or in outputs. A process that dies is started again behind the file that it died of,
which is loaded once more under gdb, where there is one, to tell whether a frame of the op library was on the stack: a
SavedModel may break TensorFlow itself, which is not in this package's hands.

python tests/fuzz/fuzz_saved_models.py 3000 --seed 7
"""

import argparse
import collections
import os
import pathlib
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MAX_BYTES = 12 * 2**30  # of address space: a file may ask for more than there is
SECONDS = 120  # for one file


def work(root, first, last, seed):
    """Spoils, loads and calls; a line for each file before and one after. Runs in a process of its own."""
    import signal

    import numpy as np
    import tensorflow as tf

    from fuzz.saved_model_cases import spoil

    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    root = pathlib.Path(root)
    inputs = pickle.loads((root / "inputs.pkl").read_bytes())
    names = sorted(inputs)
    for number in range(first, last):
        rng = np.random.default_rng([seed, number])
        name = names[number % len(names)]
        done = spoil(root / name, root / f"spoilt_{seed}", rng).replace("\n", " ")
        print(f"begin {number} {name}: {done}", flush=True)
        signal.alarm(SECONDS)
        try:
            loaded = tf.saved_model.load(str(root / f"spoilt_{seed}"))
            outputs = loaded.signatures["serving_default"](x=tf.constant(inputs[name]))
            for y in outputs.values():
                y.numpy()
            outcome = "answered"
        except Exception as error:  # whatever Python can catch is an error and no crash
            outcome = type(error).__name__
        signal.alarm(0)
        print(f"end {number} {outcome}", flush=True)


def fuzz(count, seed):
    """Counts of outcomes by name, and `(what was done, signal, innermost frames)` of each death."""
    root = pathlib.Path(tempfile.mkdtemp())
    try:
        _write_models(root)
        outcomes, deaths = collections.Counter(), []
        first = 0
        while first < count:
            lines, code = _run_worker(root, first, count, seed)
            outcomes.update(line.split()[2] for line in lines if line.startswith("end "))
            if code == 0:
                break
            begun = [line for line in lines if line.startswith("begin ")]
            if not begun:
                raise RuntimeError(f"the worker failed before it began: exit status {code}")
            number = int(begun[-1].split()[1])
            deaths.append((begun[-1], -code, _innermost_frames(root, number, seed)))
            first = number + 1
        return outcomes, deaths
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _write_models(root):
    import tf_blocksparse as bs
    from fuzz.saved_model_cases import models

    inputs = {}
    for name, (model, x) in models().items():
        bs.export(model, root / name)
        inputs[name] = x
    (root / "inputs.pkl").write_bytes(pickle.dumps(inputs))


def _command(root, first, last, seed):
    return [sys.executable, __file__, "0", "--seed", str(seed), "--worker", str(root), str(first), str(last)]


def _run_worker(root, first, last, seed):
    command = _command(root, first, last, seed)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return result.stdout.splitlines(), result.returncode


def _innermost_frames(root, number, seed):
    """Of a death: those of the op library if there are any, else of all; None where there is no gdb."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return None
    command = [gdb, "-batch", "-ex", "run", "-ex", "bt 60", "--args", *_command(root, number, number + 1, seed)]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    frames = re.findall(r"^#\d+ .*$", text, re.M)
    ours = [frame for frame in frames if _is_ours(frame)]
    return ours[:4] or [frame[:150] for frame in frames[:8]]


def main():
    """Runs what the command line says; fails if the op library was on the stack of a death."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        import tf_blocksparse  # noqa: F401  its op library

        root, first, last = options.worker
        return work(root, int(first), int(last), options.seed)
    start = time.perf_counter()
    outcomes, deaths = fuzz(options.count, options.seed)
    print(f"{options.count} files in {time.perf_counter() - start:.0f} s")
    for outcome, number in outcomes.most_common():
        print(f"  {outcome:28} {number}")
    for begun, signal, frames in deaths:
        print(f"died of signal {signal}: {begun}")
        for frame in frames or ["no gdb"]:
            print(f"    {frame}")
    return any(_is_ours(frame) for _, _, frames in deaths for frame in frames or [])


def _is_ours(frame):
    return "_block_sparse_ops" in frame or "blocksparse::" in frame


if __name__ == "__main__":
    sys.exit(main())
