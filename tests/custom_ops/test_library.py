"""Finding, loading and building the library of ops."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from tf_blocksparse.custom_ops import library, library_path

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ROOT / "tf_blocksparse" / "custom_ops" / "cc"


def run(code, **environment):
    """Runs Python code in a new process and returns it, whatever its exit status."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_library_path_carries_the_tensorflow_version():
    minor = ".".join(tf.__version__.split(".")[:2])
    assert pathlib.Path(library_path()).name == f"_block_sparse_ops.tf-{minor}.so"


def test_another_tensorflow_is_refused_with_advice(tmp_path):
    (tmp_path / "_block_sparse_ops.tf-2.19.so").touch()
    message = r"built for TensorFlow 2\.19, but TensorFlow 2\.21\.0 is installed.*tensorflow==2\.19"
    with pytest.raises(ImportError, match=message):
        library._find(tmp_path, "2.21.0")
    assert library._find(tmp_path, "2.19.4").endswith("_block_sparse_ops.tf-2.19.so")


def test_a_missing_library_is_explained(tmp_path):
    (tmp_path / "_block_sparse_ops.tf-2.21.so.old").touch()
    with pytest.raises(ImportError, match=r"has not been built. Run `pip install \.`"):
        library._find(tmp_path, "2.21.0")


def test_loaded_once():
    assert library.ops() is library.ops()
    assert hasattr(library.ops(), "block_sparse_mat_mul")


def test_tensorflow_alone_can_load_it():
    code = f"""
import tensorflow as tf
ops = tf.load_op_library({library_path()!r})
print(ops.block_sparse_mat_mul(tf.ones([1, 2]), tf.ones([1, 2, 2]), [0], [0, 1], [], out_features=2))
"""
    result = run(code)
    assert "[[2. 2.]]" in result.stdout, result.stderr


ISA_CODE = """
import numpy as np
from bsr_cases import assert_close, random_bsr
from tf_blocksparse.custom_ops import block_sparse_matmul
for block_shape in [(4, 4), (12, 2), (8, 8), (16, 16), (3, 5)]:
    w = random_bsr(130, 140, block_shape, 0.4, gates=2)
    for batch in (1, 7, 33, 70):
        x = np.random.default_rng(0).standard_normal([batch, 130]).astype(np.float32)
        y = block_sparse_matmul(x, *w.arrays, out_features=140, gates=2)
        assert_close(y, x.astype(np.float64) @ w.dense(), 130, 4)
print("all equal")
"""


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", ""])
def test_every_instruction_set(isa):
    """A level that the machine lacks falls back to the best one below it."""
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), str(ROOT)])
    result = run(ISA_CODE, TF_BLOCKSPARSE_MAX_ISA=isa, PYTHONPATH=path)
    assert "all equal" in result.stdout, result.stderr


def test_unknown_instruction_set():
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), str(ROOT)])
    result = run(ISA_CODE, TF_BLOCKSPARSE_MAX_ISA="sse9", PYTHONPATH=path)
    assert result.returncode != 0
    assert 'TF_BLOCKSPARSE_MAX_ISA must be generic, avx2 or avx512, got "sse9"' in result.stderr


def cmake_sources():
    return set(re.findall(r"\$\{CC\}/(\w+/\w+\.cc)", (ROOT / "CMakeLists.txt").read_text()))


def test_build_file_and_cmake_name_the_same_sources():
    bazel = re.findall(r'custom_ops/cc/(\w+/\w+\.cc)"', (ROOT / "BUILD").read_text())
    assert len(bazel) == len(set(bazel))
    stems = re.search(r"set\(STEMS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()
    isa = {f"kernels/{stem}_{isa}.cc" for stem in stems for isa in ("generic", "avx2", "avx512")}
    isa |= {f"kernels/low_precision_avx512_{extension}.cc" for extension in ("bf16", "vnni")}
    elsewhere = {"kernels/reference.cc", "c_api/c_api.cc"}  # of the tests, and of the library for several versions
    assert set(bazel) == cmake_sources() - elsewhere | isa, (
        "BUILD (TensorFlow Serving) and CMakeLists.txt (pip) have to name the same sources"
    )
    files = {str(p.relative_to(SOURCES)) for p in SOURCES.rglob("*.cc")}
    assert files == set(bazel) | elsewhere, "a source is in no build"


def test_build_file_compiles_cuda_for_the_architectures_of_cmake():
    cmake = re.search(r'TF_BLOCKSPARSE_CUDA_ARCHITECTURES "([\d;]+)"', (ROOT / "CMakeLists.txt").read_text())[1]
    bazel = re.search(r"--all ([\d ]+) --output", (ROOT / "BUILD").read_text())[1]
    assert bazel.split() == cmake.split(";")


READ_IMAGES = """
#include <cstdio>
#include "tf_blocksparse/custom_ops/cc/cuda/images.h"
int main() {
  for (int i = 0; i < blocksparse_num_cuda_images; ++i) {
    const BlocksparseCudaImage& image = blocksparse_cuda_images[i];
    std::printf("%d %d ", image.architecture, image.is_ptx);
    const auto* bytes = static_cast<const unsigned char*>(image.data);
    for (unsigned long b = 0; b < image.bytes; ++b) std::printf("%02x", bytes[b]);
    std::printf(" %d\\n", bytes[image.bytes]);
  }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, as an assembler")
@pytest.mark.parametrize("inline", [False, True])
def test_the_table_of_cuda_images(inline, tmp_path, monkeypatch):
    """As CMake takes it, with paths, and as Bazel does, with the bytes."""
    monkeypatch.syspath_prepend(str(ROOT / "cmake"))
    from compile_cuda import write_table

    cubin, ptx = bytes(range(256)) * 3 + b"end", b".version 7.0\n.target sm_80\n"
    (tmp_path / "kernels.sm_90.cubin").write_bytes(cubin)
    (tmp_path / "kernels.ptx").write_bytes(ptx)
    write_table([tmp_path / "kernels.sm_90.cubin", tmp_path / "kernels.ptx"], tmp_path / "images.S", inline)
    if inline:
        (tmp_path / "kernels.ptx").unlink()
    (tmp_path / "main.cc").write_text(READ_IMAGES)
    sources = [tmp_path / "main.cc", tmp_path / "images.S"]
    subprocess.run(["g++", f"-I{ROOT}", *sources, "-o", tmp_path / "main"], check=True)
    found = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert sorted(found) == [f"80 1 {ptx.hex()} 0", f"90 0 {cubin.hex()} 0"]


def test_kernels_know_no_tensorflow():
    for path in [*(SOURCES / "kernels").iterdir(), *(SOURCES / "cuda").iterdir()]:
        assert "tensorflow/" not in path.read_text(), path


def test_cuda_kernels_need_no_headers_but_their_own():
    """NVRTC has none; the emulator's is for C++ alone."""
    for path in (SOURCES / "cuda").glob("*.cu*"):
        for header in re.findall(r"#include [<\"]([^>\"]+)", path.read_text()):
            assert header.startswith("tf_blocksparse/custom_ops/cc/cuda/") or header == "tests/cc/cuda_emulator.h"
