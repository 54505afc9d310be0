"""What each CUDA kernel takes of each GPU, from the compiler's logs: registers, shared memory, spills, occupancy.

    python cmake/cuda_figures.py build/cmake-tf-2.21/cuda/*.cubin --check           # exit status 1 where one spills
    python cmake/cuda_figures.py build/cmake-tf-2.21/cuda/*.cubin --write docs/cuda.md

These are figures of the compiler: nothing of them was measured on a GPU.
"""

import argparse
import re
import sys
from pathlib import Path

# Of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": warps, thread blocks and bytes
# of shared memory of a multiprocessor.
LIMITS = {
    70: (64, 32, 96),
    72: (64, 32, 96),
    75: (32, 16, 64),
    80: (64, 32, 164),
    86: (48, 16, 100),
    87: (48, 16, 164),
    89: (48, 24, 100),
    90: (64, 32, 228),
    100: (64, 32, 228),
    103: (64, 32, 228),
    120: (48, 24, 100),
    121: (48, 24, 100),
}
REGISTERS = 65536
LIST = Path(__file__).resolve().parents[1] / "tf_blocksparse" / "custom_ops" / "cc" / "cuda" / "kernel_list.h"
MARKS = ("<!-- figures -->\n", "<!-- end of figures -->\n")


def threads_of_kernels():
    """Threads of a thread block, by kernel: what kernel_table.cc computes, from the same list."""
    threads = {}
    for kind, given in re.findall(r"^([A-Z_]+)\((\w+, .*)\)$", LIST.read_text(), re.M):
        name, _, *rest = [field.strip() for field in given.split(",")]
        if kind == "PRODUCT_TILE":
            rows, columns, thread_rows, thread_columns = map(int, rest[4:])
            threads[name] = rows // thread_rows * (columns // thread_columns)
        elif kind == "SINGLE":
            threads[name] = int(rest[-1])
        elif kind in ("GRAD_TILE", "DYNAMIC_GRAD"):
            rows, columns, thread_rows, thread_columns, lanes = map(int, rest)
            threads[name] = rows // thread_rows * (columns // thread_columns) * lanes
        else:
            threads[name] = 256 if "COMBINE" in kind else 128
    return threads


def read_log(text):
    """Of a log: `{kernel: (registers, bytes of shared memory, bytes of spills)}`."""
    figures = {}
    spills = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"Function properties for (\w+)\n.*?{spills}\n.*?Used (\d+) registers(.*)"
    for name, stores, loads, registers, rest in re.findall(pattern, text):
        shared = re.search(r"(\d+) bytes smem", rest)
        figures[name] = (int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads))
    return figures


def occupancy(architecture, threads, registers, shared):
    """Share of a multiprocessor's warps that can be there at once."""
    max_warps, max_blocks, kilobytes = LIMITS[architecture]
    warps = -(-threads // 32)
    a_warp = -(-registers * 32 // 256) * 256  # registers are handed out 256 at a time
    by_registers = REGISTERS // a_warp // warps
    reserved = 1024 if architecture >= 80 else 0  # of each thread block
    by_shared = kilobytes * 1024 // (shared + reserved) if shared + reserved else max_blocks
    return min(max_blocks, max_warps // warps, by_registers, by_shared) * warps / max_warps


def collect(images):
    """`{architecture: figures}` of cubins, whose logs lie beside them."""
    figures = {}
    for image in images:
        architecture = int(re.search(r"\.sm_(\d+)\.cubin$", image.name)[1])
        figures[architecture] = read_log(image.with_suffix(".cubin.log").read_text())
        if not figures[architecture]:
            sys.exit(f"no figures in {image}.log")
    return dict(sorted(figures.items()))


def check(figures):
    """Sentences about what must not be."""
    threads = threads_of_kernels()
    wrong = []
    for architecture, kernels in figures.items():
        for name, (_, _, spilled) in kernels.items():
            if spilled:
                wrong.append(f"{name} spills {spilled} bytes on sm_{architecture}")
        missing = {k for k in threads if k not in kernels and (architecture >= 80 or not is_tensor_kernel(k))}
        wrong += [f"sm_{architecture} has no {name}" for name in sorted(missing)]
        wrong += [f"sm_{architecture} has {name}, which is not listed" for name in sorted(set(kernels) - set(threads))]
    return wrong


def is_tensor_kernel(name):
    return re.search(r"(tf32|f16|bf16)_(16|32|64)$", name) is not None


def table(figures):
    """Markdown: a row a kernel, a column an architecture."""
    threads = threads_of_kernels()
    lines = ["| kernel | threads | shared bytes | " + " | ".join(f"sm_{a}" for a in figures) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(figures))
    for name, count in threads.items():
        cells = []
        for architecture, kernels in figures.items():
            if name in kernels:
                registers, shared, _ = kernels[name]
                cells.append(f"{registers}, {occupancy(architecture, count, registers, shared):.0%}")
            else:
                cells.append("-")
        shared = max(kernels[name][1] for kernels in figures.values() if name in kernels)
        lines.append(f"| `{name}` | {count} | {shared} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", type=Path, help="a page with the two marks between which the table goes")
    arguments = parser.parse_args()
    figures = collect(arguments.images)
    if arguments.check:
        wrong = check(figures)
        print("\n".join(wrong) or f"{sum(map(len, figures.values()))} kernels, none spills")
        sys.exit(bool(wrong))
    if arguments.write:
        page = arguments.write.read_text()
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        arguments.write.write_text(before + MARKS[0] + table(figures) + MARKS[1] + after)
    else:
        print(table(figures))


if __name__ == "__main__":
    main()
