"""The ops of a GPU, run on the CPU: TensorFlow, the op's own code and the launches are real, the driver is an emulator.

`make test` builds both libraries; TF_BLOCKSPARSE_BUILD says where, if it is not where that builds them.
"""

import ctypes
import os
import pathlib
import types

import tensorflow as tf

from tf_blocksparse.custom_ops import matmul

ROOT = pathlib.Path(__file__).parents[2]
BUILD = pathlib.Path(os.environ.get("TF_BLOCKSPARSE_BUILD", ROOT / "build" / "cmake-tf-2.21"))
OPS = BUILD / "libemulated_ops.so"
DRIVER = BUILD / "libfake_libcuda.so"
BUILT = OPS.exists() and DRIVER.exists()
PRODUCTS = {"mat_mul": "MatMul", "mat_mul_grad_x": "MatMulGradX", "mat_mul_grad_blocks": "MatMulGradBlocks"}


def load():
    """The emulated ops under the names of the real ones, with the same gradients."""
    os.environ["TF_BLOCKSPARSE_LIBCUDA"] = str(DRIVER)
    library = tf.load_op_library(str(OPS))
    for name, rule in (
        ("MatMul", matmul._matmul_grad),
        ("MatMulGradX", matmul._matmul_grad_x_grad),
        ("MatMulGradBlocks", matmul._matmul_grad_blocks_grad),
    ):
        tf.RegisterGradient(f"BlockSparseEmulated>{name}")(rule)
    return types.SimpleNamespace(
        **{f"block_sparse_{name}": getattr(library, f"block_sparse_emulated_{name}") for name in PRODUCTS}
    )


def calls(function):
    """How often a function of the driver was called."""
    return ctypes.CDLL(str(DRIVER)).FakeCudaCount(function.encode())
