"""Compiles the CUDA kernels with NVRTC, the compiler that NVIDIA ships as a library: no CUDA toolkit, no GPU.

    pip install "nvidia-cuda-nvrtc-cu12==12.9.*"
    python cmake/compile_cuda.py --find                                # where the library is; exit status 1: nowhere
    python cmake/compile_cuda.py sm_80 build/cuda/kernels.sm_80.cubin  # one image, and what each kernel of it needs
    python cmake/compile_cuda.py compute_80 build/cuda/kernels.ptx     # code that later drivers compile
    python cmake/compile_cuda.py --table build/cuda/*.sm_*.cubin build/cuda/kernels.ptx --output build/cuda/images.S
    python cmake/compile_cuda.py --all 80 90 --output images.S  # for these and newer ones, in one file

CMake calls it, an image at a time, so that they are made side by side and again only when a source has changed. Bazel,
which gives every command a directory of its own, wants all in one file.
"""

import argparse
import ctypes
import ctypes.util
import importlib.util
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tf_blocksparse" / "custom_ops" / "cc" / "cuda" / "kernels.cu"
LIBRARY = "libnvrtc.so.12"


def find_nvrtc(beside=None):
    """Path of NVRTC 12: what TF_BLOCKSPARSE_NVRTC says, PyPI's, in the directory `beside` or this Python, the system's.

    None if there is none.
    """
    given = os.environ.get("TF_BLOCKSPARSE_NVRTC")
    if given is not None:
        return given if Path(given).exists() else None
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) / "cuda_nvrtc" / "lib" for place in (spec.submodule_search_locations or [] if spec else [])]
    for place in [Path(beside), *places] if beside else places:
        if (place / LIBRARY).exists():
            return str(place / LIBRARY)
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return LIBRARY


class Nvrtc:
    """The few functions of NVRTC that a compilation takes."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        error = getattr(self.library, name)(*arguments)
        if error != 0:
            raise RuntimeError(f"{name}: {self.library.nvrtcGetErrorString(error).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architectures(self):
        """All that it compiles for, as 70, 75, ..., 120."""
        count = ctypes.c_int()
        self.call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        values = (ctypes.c_int * count.value)()
        self.call("nvrtcGetSupportedArchs", values)
        return list(values)

    def compile(self, source, architecture, include):
        """The image, a cubin or, for `compute_*`, PTX; and the compiler's log, with what each kernel needs."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
        options = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={include}"]
        options += ["--ptxas-options=-v", "--extra-device-vectorization", "--diag-suppress=177"]
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        failed = self.library.nvrtcCompileProgram(program, len(options), arguments)
        log = self.get(program, "nvrtcGetProgramLog").decode(errors="replace")
        if failed:
            raise RuntimeError(f"{source} for {architecture}:\n{log}")
        return self.get(program, "nvrtcGetPTX" if architecture.startswith("compute_") else "nvrtcGetCUBIN"), log

    def get(self, program, name):
        size = ctypes.c_size_t()
        self.call(name + "Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(name, program, buffer)
        return buffer.raw.rstrip(b"\0") if name != "nvrtcGetCUBIN" else buffer.raw


def compile_image(nvrtc, architecture, output):
    """Writes the image to `output` and the log beside it."""
    image, log = nvrtc.compile(SOURCE, architecture, ROOT)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(output.suffix + ".log").write_text(log)
    output.write_bytes(image)


def missing():
    return f"no {LIBRARY}: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*', or set TF_BLOCKSPARSE_NVRTC to its path"


def compile_all(nvrtc, architectures, output):
    """Writes images for all architectures, and PTX for newer ones than 8.0, to one assembler file."""
    with tempfile.TemporaryDirectory() as directory:
        images = [Path(directory) / f"kernels.sm_{architecture}.cubin" for architecture in architectures]
        for image in images:
            compile_image(nvrtc, image.name.split(".")[1], image)
        images.append(Path(directory) / "kernels.ptx")
        compile_image(nvrtc, "compute_80", images[-1])
        write_table(images, output, inline=True)


def contents(path, inline):
    """Lines of assembler with the bytes of a file, or with its path."""
    if not inline:
        return [f'  .incbin "{path.resolve()}"']
    data = path.read_bytes()
    return [f"  .byte {','.join(map(str, data[i : i + 64]))}" for i in range(0, len(data), 64)]


def write_table(images, output, inline=False):
    """An assembler file that holds the images and blocksparse_cuda_images, the table of cuda/images.h."""
    lines = ["  .section .rodata"]
    rows = []
    for number, path in enumerate(sorted(images)):
        ptx = path.suffix == ".ptx"
        if ptx:  # the lowest architecture that it serves is in its text
            architecture = int(re.search(rb"^\.target sm_(\d+)", path.read_bytes(), re.M)[1])
        else:
            architecture = int(re.search(r"\.sm_(\d+)\.cubin$", path.name)[1])
        # PTX is a text that ends with a zero.
        lines += ["  .balign 64", f".Limage{number}:", *contents(path, inline), "  .byte 0"]
        rows += [f"  .quad .Limage{number}", f"  .quad {path.stat().st_size}", f"  .long {architecture}, {int(ptx)}"]
    lines += ['  .section .data.rel.ro,"aw"', "  .balign 8"]
    lines += [
        "  .globl blocksparse_cuda_images",
        "  .hidden blocksparse_cuda_images",
        "blocksparse_cuda_images:",
        *rows,
    ]
    lines += ["  .globl blocksparse_num_cuda_images", "  .hidden blocksparse_num_cuda_images", "  .balign 4"]
    lines += ["blocksparse_num_cuda_images:", f"  .long {len(images)}"]
    lines += ['  .section .note.GNU-stack,"",%progbits', ""]
    output.write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", nargs="?")
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("--find", action="store_true")
    parser.add_argument("--beside", type=Path, help="where to look for NVRTC first")
    parser.add_argument("--table", nargs="+", type=Path)
    parser.add_argument("--all", nargs="+", type=int, metavar="ARCHITECTURE")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.table:
        write_table(arguments.table, arguments.output)
        return
    path = find_nvrtc(arguments.beside) or sys.exit(missing())
    if arguments.find:
        print("NVRTC {}.{},".format(*Nvrtc(path).version()), path)
    elif arguments.all and arguments.output:
        compile_all(Nvrtc(path), arguments.all, arguments.output)
    elif arguments.architecture and arguments.image:
        compile_image(Nvrtc(path), arguments.architecture, arguments.image)
    else:
        parser.error("give --find, --table, --all and --output, or an architecture and an image")


if __name__ == "__main__":
    main()
