"""Finding, loading and building the library of ops."""

import os
import pathlib
import re
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
    gpu = cuda_sources()
    assert set(bazel) == cmake_sources() - elsewhere - gpu | isa, (
        "BUILD (TensorFlow Serving) and CMakeLists.txt (pip) have to name the same sources, but for those of GPUs, "
        "whose kernels Bazel cannot compile"
    )
    files = {str(p.relative_to(SOURCES)) for p in SOURCES.rglob("*.cc")}
    assert files == set(bazel) | elsewhere | gpu, "a source is in no build"


def cuda_sources():
    """What launches the kernels of GPUs, and their ops: no part of BUILD."""
    lists = re.findall(r"set\(CUDA_(?:OP_)?SOURCES\n(.*?)\)", (ROOT / "CMakeLists.txt").read_text(), re.S)
    assert len(lists) == 2
    return set(re.findall(r"\$\{CC\}/(\w+/\w+\.cc)", "".join(lists)))


def test_kernels_know_no_tensorflow():
    for path in [*(SOURCES / "kernels").iterdir(), *(SOURCES / "cuda").iterdir()]:
        assert "tensorflow/" not in path.read_text(), path


def test_cuda_kernels_need_no_headers_but_their_own():
    """NVRTC has none; the emulator's is for C++ alone."""
    for path in (SOURCES / "cuda").glob("*.cu*"):
        for header in re.findall(r"#include [<\"]([^>\"]+)", path.read_text()):
            assert header.startswith("tf_blocksparse/custom_ops/cc/cuda/") or header == "tests/cc/cuda_emulator.h"
