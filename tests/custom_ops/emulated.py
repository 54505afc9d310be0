"""The ops of a GPU, run on the CPU: TensorFlow, the op's own code and the launches are real, the driver is an emulator.

`make test` builds both libraries; TF_BLOCKSPARSE_BUILD says where, if it is not where that builds them.
"""

import contextlib
import ctypes
import functools
import importlib
import os
import pathlib
import types

import pytest
import tensorflow as tf

from tf_blocksparse.custom_ops import library

ROOT = pathlib.Path(__file__).parents[2]
BUILD = pathlib.Path(os.environ.get("TF_BLOCKSPARSE_BUILD", ROOT / "build" / "cmake-tf-2.21"))
OPS = BUILD / "libemulated_ops.so"
DRIVER = BUILD / "libfake_libcuda.so"
BUILT = OPS.exists() and DRIVER.exists()
NEEDED = pytest.mark.skipif(not BUILT, reason=f"{OPS} is not built: run `make cc-test` where NVRTC is installed")
# Modules that take the ops from the library. Functions of the package hide some of their names.
USERS = {
    name: importlib.import_module(f"tf_blocksparse.custom_ops.{name}")
    for name in ("matmul", "dynamic_matmul", "choose_blocks", "rnn", "rnn_gradients")
}
GRADIENTS = {
    "MatMul": ("matmul", "_matmul_grad"),
    "MatMulGradX": ("matmul", "_matmul_grad_x_grad"),
    "MatMulGradBlocks": ("matmul", "_matmul_grad_blocks_grad"),
    "DynamicMatMul": ("dynamic_matmul", "_dynamic_matmul_grad"),
    "DynamicMatMulGradInputs": ("dynamic_matmul", "_grad_inputs_grad"),
    "DynamicMatMulGradBlocks": ("dynamic_matmul", "_grad_blocks_grad"),
    "ChooseBlocks": ("choose_blocks", "_choose_blocks_grad"),
    "Rnn": ("rnn_gradients", "_rnn_grad"),
    "Gru": ("rnn_gradients", "_gru_grad"),
    "Lstm": ("rnn_gradients", "_lstm_grad"),
    "RnnGrad": ("rnn_gradients", "_no_second_gradient"),
    "GruGrad": ("rnn_gradients", "_no_second_gradient"),
    "LstmGrad": ("rnn_gradients", "_no_second_gradient"),
}


@functools.cache
def load():
    """The emulated ops under the names of the real ones, with the same gradients."""
    os.environ["TF_BLOCKSPARSE_LIBCUDA"] = str(DRIVER)
    library.ops()  # of which the emulated ones take the definitions
    emulated = tf.load_op_library(str(OPS))
    for name, (module, rule) in GRADIENTS.items():
        tf.RegisterGradient(f"BlockSparseEmulated>{name}")(getattr(USERS[module], rule))
    prefix = "block_sparse_emulated_"
    found = [name for name in dir(emulated) if name.startswith(prefix) and "eager_fallback" not in name]
    return types.SimpleNamespace(**{f"block_sparse_{n.removeprefix(prefix)}": getattr(emulated, n) for n in found})


@contextlib.contextmanager
def in_place_of_the_ops(*tests):
    """Within it the package and these modules of tests call the emulated ops, in exact float32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with pytest.MonkeyPatch.context() as patch:
        for module in (*USERS.values(), *tests):
            patch.setattr(module, "ops", load, raising=module in USERS.values())
        yield patch
    tf.config.experimental.enable_tensor_float_32_execution(before)


def tests_of(module, left_out):
    """The tests of a module by name, but for those that are left out for a reason."""
    tests = {n: f for n, f in vars(module).items() if n.startswith("test_")}
    assert set(left_out) <= set(tests), f"{module.__name__} has no {set(left_out) - set(tests)}"
    return {n: f for n, f in tests.items() if n not in left_out}


def calls(function):
    """How often a function of the driver was called."""
    return ctypes.CDLL(str(DRIVER)).FakeCudaCount(function.encode())
