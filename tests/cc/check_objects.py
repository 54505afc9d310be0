"""Checks of what the compiler made of the files that are compiled once for each instruction set.

CMake makes tests of them: `symbols` and `spills`, each followed by object files. Exits with a message that names
the file and what is wrong in it.
"""

import os
import pathlib
import re
import subprocess
import sys

SKIPPED = 77  # the exit status by which ctest knows a skipped test

# What C code may always use. Anything else that a file shares with others could be linked from a file of another
# instruction set.
C_LIBRARY = {"memcpy", "memmove", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}

# These write the register that says how to round and whether to flush denormal numbers to zero, for all the process.
FLOATING_POINT_MODE = re.compile(r"\b(v?ldmxcsr|fldcw|fldenv|fninit|fxrstor\w*|xrstor\w*)\b")

# The kernels whose inner loops hold sums in registers. Pack, Unpack and Finish may use the stack: they hold a square
# of 16 vectors and the two sets that its transpose is between, or the rest of a row that no vector fills, and run
# once for many calls of these.
KERNELS = re.compile(r"\b(Tile|Rows\w*|Grad\w*)(<.*>)?$")


def tool(name, *arguments):
    """The lines that a tool prints; the environment variable of its name in capitals says which one to run."""
    command = [os.environ.get(name.upper()) or name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def symbol_faults(path):
    """Says which symbols, other than one table, the object defines or needs."""
    faults, tables = [], []
    for line in tool("nm", "-C", path):
        kind, name = re.fullmatch(r"[0-9a-f]* *(\w) (.*)", line).groups()
        if kind in "DR" and re.fullmatch(r"blocksparse::k\w+", name):
            tables.append(name)
        elif kind in "WVwvu":
            faults.append(f"{name} is weak or unique: the linker may keep this copy of it for all")
        elif kind.isupper() and not (kind == "U" and name in C_LIBRARY):
            faults.append(f"{name} ({kind}) is shared with other files")
    if len(tables) != 1:
        faults.append(f"it should define one table, but defines {tables}")
    return faults


def instructions(path):
    """Yields `(function, instruction)`, the function without its arguments."""
    function = ""
    for line in tool("objdump", "-dC", "--no-show-raw-insn", path):
        header = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        if header:
            name = re.sub(r"\(anonymous namespace\)::|blocksparse::", "", header.group(1))
            function = re.sub(r"\(.*| \[clone.*", "", name)
        elif "\t" in line:
            yield function, line.split("\t", 1)[1].strip()


def mode_faults(path):
    """Says which functions change the floating-point mode."""
    return [f"{function} runs `{code}`" for function, code in instructions(path) if FLOATING_POINT_MODE.match(code)]


def spill_faults(path):
    """Says which kernels keep vectors of 512 bits on the stack."""
    seen, faults = set(), {}
    for function, code in instructions(path):
        if not KERNELS.search(function):
            continue
        seen.add(function)
        if "%zmm" in code and re.search(r"\(%r[sb]p[,)]", code):
            faults.setdefault(function, []).append(code)
    if not seen:
        return ["it has no kernels"]
    return [f"{function} spills {len(codes)} times, first in `{codes[0]}`" for function, codes in faults.items()]


def main(check, *paths):
    """Runs one of the checks on all paths."""
    if check == "spills" and os.environ.get("COMPILER", "GNU") != "GNU":
        sys.stderr.write(f"skipped: registers were counted for GCC only, not for {os.environ['COMPILER']}\n")
        sys.exit(SKIPPED)
    checks = {"symbols": [symbol_faults, mode_faults], "spills": [spill_faults]}[check]
    faults = [f"{pathlib.Path(path).name}: {fault}" for path in paths for find in checks for fault in find(path)]
    if not paths or faults:
        sys.exit("\n".join(faults) or "no objects were given")


if __name__ == "__main__":
    main(*sys.argv[1:])
