"""What the machine can do, measured by the C++ programs in `cc/`, and what share of it a product reaches."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench" / "cc"


class Unbuilt(Exception):
    """The programs could not be built; says why."""


def build(target="roofline", directory=BUILD):
    """Builds a program of `cc/`, if its sources have changed; returns its path.

    Raises:
        Unbuilt: without CMake or a C++ compiler.
    """
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    if cmake is None:
        raise Unbuilt("cmake is not installed: pip install cmake ninja")
    configure = [cmake, "-S", ROOT / "benchmarks" / "cc", "-B", directory]
    if ninja and not (directory / "CMakeCache.txt").exists():
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    for command in (configure, [cmake, "--build", directory, "--target", target]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unbuilt(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return directory / target


@dataclasses.dataclass
class Machine:
    """Asks the program `roofline` at `path` what `threads` threads can do."""

    path: pathlib.Path
    threads: int

    def survey(self):
        """Everything, for one thread and for all: `{"fma": [...], "read": [...]}`."""
        return self._ask("--threads", ",".join(map(str, sorted({1, self.threads}))))

    def limits(self, sizes):
        """`(GF/s, {bytes: GB/s})`: the peak of the best instruction set, and reads of arrays of these sizes."""
        sizes = sorted(set(sizes))
        found = self._ask("--best", "--threads", str(self.threads), "--bytes", ",".join(map(str, sizes)))
        return found["fma"][0]["gflops"], {item["bytes"]: item["gbytes"] for item in found["read"]}

    def _ask(self, *arguments):
        return json.loads(subprocess.run([self.path, *arguments], check=True, capture_output=True, text=True).stdout)


def share(seconds, flops, size, gflops, gbytes):
    """Share of the roofline, a fraction: the least time for the flops and for reading `size` bytes, by `seconds`."""
    return max(flops / (gflops * 1e9), size / (gbytes * 1e9)) / seconds
