"""Products by Intel's MKL (`pip install mkl`), called through its C interface.

`sparse_dot_mkl`, its package for Python, makes and drops MKL's handle of the matrix in every product; here it is
made and optimized once.
"""

import ctypes
import functools
import importlib.metadata

import numpy as np

ROW_MAJOR, NO_TRANSPOSE = 101, 111  # CBLAS_LAYOUT and CBLAS_TRANSPOSE; MKL's sparse enums have the same two values
SPARSE_NON_TRANSPOSE = 10
GENERAL_MATRIX = 20


class _MatrixDescription(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("mode", ctypes.c_int), ("diagonal", ctypes.c_int)]


@functools.cache
def library():
    """The library; raises `importlib.metadata.PackageNotFoundError` or `OSError` where it is not installed."""
    paths = [file.locate() for file in importlib.metadata.files("mkl") or () if "libmkl_rt" in file.name]
    if not paths:
        raise OSError("the package mkl has no libmkl_rt")
    return ctypes.CDLL(str(paths[0]))


def _floats(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def dense_product(w):
    """A function x `[batch, in]` -> y `[batch, out]`, both float32, C order."""
    mkl = library()
    inner, out = w.shape

    def product(x):
        y = np.empty((len(x), out), np.float32)
        mkl.cblas_sgemm(
            ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, len(x), out, inner,
            ctypes.c_float(1), _floats(x), inner, _floats(w), out, ctypes.c_float(0), _floats(y), out,
        )  # fmt: skip
        return y

    return product


def bsr_product(matrix):
    """A function x `[columns, batch]` -> `matrix @ x`; `matrix` is a `scipy.sparse.bsr_array` of square blocks.

    Raises:
        ValueError: if blocks are not square, which MKL does not have.
    """
    mkl = library()
    height, width = matrix.blocksize
    if height != width:
        raise ValueError(f"MKL has square blocks only, not {height}x{width}")
    handle = ctypes.c_void_p()
    integers = ctypes.POINTER(ctypes.c_int32)
    starts = np.ascontiguousarray(matrix.indptr[:-1], np.int32)
    ends = np.ascontiguousarray(matrix.indptr[1:], np.int32)
    indices = np.ascontiguousarray(matrix.indices, np.int32)
    blocks = np.ascontiguousarray(matrix.data, np.float32)
    held = (starts, ends, indices, blocks)  # MKL keeps their addresses
    _check(
        mkl.mkl_sparse_s_create_bsr(
            ctypes.byref(handle), 0, ROW_MAJOR, matrix.shape[0] // height, matrix.shape[1] // width, height,
            *(a.ctypes.data_as(integers) for a in held[:3]), _floats(blocks),
        )
    )  # fmt: skip
    description = _MatrixDescription(GENERAL_MATRIX, 0, 0)
    _check(mkl.mkl_sparse_set_mm_hint(handle, SPARSE_NON_TRANSPOSE, description, ROW_MAJOR, 64, 10_000))
    _check(mkl.mkl_sparse_optimize(handle))

    def product(x, held=held):
        batch = x.shape[1]
        y = np.empty((matrix.shape[0], batch), np.float32)
        mkl.mkl_sparse_s_mm(
            SPARSE_NON_TRANSPOSE, ctypes.c_float(1), handle, description, ROW_MAJOR,
            _floats(x), batch, batch, ctypes.c_float(0), _floats(y), batch,
        )  # fmt: skip
        return y

    return product


def _check(status):
    if status:
        raise RuntimeError(f"MKL refused with status {status}")
