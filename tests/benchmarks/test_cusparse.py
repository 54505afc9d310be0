"""What the benchmark on GPUs tells cuSPARSE: against a stand-in that does what its manual says. None runs on a GPU."""

import ctypes

import numpy as np
import pytest
import scipy.sparse

from helpers import ROOT


@pytest.fixture
def cusparse(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import cusparse

    return cusparse


class Runtime:
    """Device memory that is the host's, kept alive by its address."""

    def __init__(self):
        self.memory = {}

    def cudaMalloc(self, pointer, size):
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.memory[pointer._obj.value] = buffer
        return 0

    def cudaFree(self, pointer):
        del self.memory[pointer.value]
        return 0

    def cudaMemcpy(self, to, source, size, kind):
        ctypes.memmove(to, source, size.value)
        return 0

    def cudaDeviceSynchronize(self):
        return 0


class Sparse:
    """`C = alpha A B + beta C`, with A in blocks by block rows, B and C column-major."""

    def __init__(self, failing=0):
        self.failing = failing

    def cusparseCreate(self, handle):
        return self.failing

    def cusparseCreateMatDescr(self, description):
        return 0

    cusparseDestroy = cusparseDestroyMatDescr = cusparseCreate

    def cusparseSbsrmm(self, handle, direction, trans_a, trans_b, mb, n, kb, nnzb, alpha, description, values, row_ptr,
                       columns, side, b, ldb, beta, c, ldc):  # fmt: skip
        def array(pointer, dtype, shape):
            size = np.dtype(dtype).itemsize * int(np.prod(shape))
            return np.frombuffer((ctypes.c_char * size).from_address(pointer.value), dtype).reshape(shape)

        assert (trans_a, trans_b, alpha._obj.value, beta._obj.value) == (0, 0, 1.0, 0.0)
        blocks = array(values, np.float32, [nnzb, side, side])
        blocks = blocks.transpose(0, 2, 1) if direction == 1 else blocks
        a = scipy.sparse.bsr_matrix(
            (blocks, array(columns, np.int32, [nnzb]), array(row_ptr, np.int32, [mb + 1])), (mb * side, kb * side)
        )
        result = a @ array(b, np.float32, [n, ldb]).T[: kb * side]
        column_major = np.ascontiguousarray(result.T, np.float32)
        ctypes.memmove(c, column_major.ctypes.data, 4 * ldc * n)
        return 0


@pytest.mark.parametrize("side", [2, 4, 16])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_the_product(cusparse, side, density):
    rng = np.random.default_rng(0)
    dense = np.kron(rng.random([5, 3]) < density, np.ones([side, side])) * rng.standard_normal([5 * side, 3 * side])
    w = scipy.sparse.bsr_matrix(dense.astype(np.float32), blocksize=(side, side))
    w.eliminate_zeros()
    x = rng.standard_normal([7, 5 * side]).astype(np.float32)
    runtime = Runtime()
    product = cusparse.BsrProduct(runtime, Sparse(), x, w)
    times = iter(range(100))
    assert product.seconds(lambda: next(times), rounds=2) == 0.5
    np.testing.assert_allclose(product.result(), x @ dense, atol=1e-4)
    product.close()
    assert not runtime.memory


def test_what_it_cannot_do_is_named(cusparse):
    w = scipy.sparse.bsr_matrix(np.ones([4, 6], np.float32), blocksize=(2, 3))
    with pytest.raises(cusparse.Missing, match="blocks of 2x3 are not square"):
        cusparse.BsrProduct(Runtime(), Sparse(), np.ones([1, 4]), w)
    w = scipy.sparse.bsr_matrix(np.ones([4, 6], np.float32), blocksize=(2, 2))
    with pytest.raises(cusparse.Missing, match="cusparseCreate failed with error 3"):
        cusparse.BsrProduct(Runtime(), Sparse(failing=3), np.ones([1, 4]), w)


def test_libraries_that_are_not_there_are_named(cusparse, monkeypatch):
    monkeypatch.setattr(cusparse, "_SPARSE", "libno_such_cusparse.so")
    monkeypatch.setattr(cusparse, "_RUNTIME", "libm.so.6")
    monkeypatch.setattr(cusparse, "_DIRECTORIES", (("none", "libm.so.6"), ("none", "libno_such_cusparse.so")))
    with pytest.raises(cusparse.Missing, match="cuSPARSE BSR: libno_such_cusparse.so: cannot open"):
        cusparse.find()
