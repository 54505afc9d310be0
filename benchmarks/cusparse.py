"""cuSPARSE's product with a matrix in blocks, `cusparseSbsrmm`, called through its C interface: a rival on GPUs.

    python benchmarks/cusparse.py    # whether it is there; exit status 1 and the reason where it is not

The libraries are those that TensorFlow's GPU packages install from PyPI, or the system's. cuSPARSE multiplies a matrix
from the left that is stored by block rows, with column-major operands, and blocks have to be square: `y = x W` is
`y^T = W^T x^T`, where `W` by block columns is `W^T` by block rows, and row-major is column-major of the transpose.
"""

import ctypes
import importlib.util
import statistics
import sys
from pathlib import Path

import numpy as np

_TO_DEVICE, _TO_HOST = 1, 2
_COLUMN, _NOT_TRANSPOSED = 1, 0  # of cusparse.h: the order of a block's elements, and of operands
_RUNTIME, _SPARSE = "libcudart.so.12", "libcusparse.so.12"
# Of PyPI's packages; what comes later needs what comes before.
_DIRECTORIES = (("nvjitlink", "libnvJitLink.so.12"), ("cuda_runtime", _RUNTIME), ("cusparse", _SPARSE))


class Missing(Exception):
    """What of it is not there."""


def find():
    """The libraries of CUDA's runtime and of cuSPARSE.

    Raises:
        Missing: with the reason, if one cannot be loaded.
    """
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (spec.submodule_search_locations or [] if spec else [])]
    loaded = {}
    for directory, name in _DIRECTORIES:
        files = [str(root / directory / "lib" / name) for root in roots]
        for path in [file for file in files if Path(file).exists()] + [name]:
            try:
                loaded[name] = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
                break
            except OSError as error:
                reason = error
        else:
            if name in (_RUNTIME, _SPARSE):
                raise Missing(f"cuSPARSE BSR: {reason}")
    if not hasattr(loaded[_SPARSE], "cusparseSbsrmm"):
        raise Missing("cuSPARSE BSR: this version of cuSPARSE has no cusparseSbsrmm any more")
    return loaded[_RUNTIME], loaded[_SPARSE]


class BsrProduct:
    """`y = x W` by cuSPARSE, float32, with everything on the device.

    Args:
        runtime, sparse: of `find()`.
        x: array `[batch, in]`.
        w: `scipy.sparse.bsr_matrix` with square blocks of more than one element.
    """

    def __init__(self, runtime, sparse, x, w):
        side, width = w.blocksize
        if side != width or side < 2:
            raise Missing(f"cuSPARSE BSR: blocks of {side}x{width} are not square, or of one element")
        self.runtime, self.sparse = runtime, sparse
        self.shape = (x.shape[0], w.shape[1])
        blocks, indices, indptr = _by_column(w)
        self.memory = [self._copy(a) for a in (blocks, indptr, indices, np.ascontiguousarray(x, np.float32))]
        self.y = self._allocate(4 * self.shape[0] * self.shape[1])
        self.handle, self.description = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(sparse.cusparseCreate(ctypes.byref(self.handle)), "cusparseCreate")
        self._check(sparse.cusparseCreateMatDescr(ctypes.byref(self.description)), "cusparseCreateMatDescr")
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        given_blocks, given_indptr, given_indices, given_x = self.memory
        self.arguments = [
            self.handle, _COLUMN, _NOT_TRANSPOSED, _NOT_TRANSPOSED, w.shape[1] // side, x.shape[0], w.shape[0] // side,
            len(indices), ctypes.byref(one), self.description, given_blocks, given_indptr, given_indices, side, given_x,
            w.shape[0], ctypes.byref(zero), self.y, w.shape[1],
        ]  # fmt: skip

    def start(self):
        """Starts a product, and does not wait for it."""
        self._check(self.sparse.cusparseSbsrmm(*self.arguments), "cusparseSbsrmm")

    def result(self):
        """Waits, and returns `y` `[batch, out]`."""
        y = np.empty(self.shape, np.float32)
        error = self.runtime.cudaMemcpy(ctypes.c_void_p(y.ctypes.data), self.y, ctypes.c_size_t(y.nbytes), _TO_HOST)
        self._check(error, "cudaMemcpy")
        return y

    def seconds(self, clock, rounds):
        """Median time of a product, of seven runs of `rounds` each; `clock` returns seconds."""
        self.start()
        self._check(self.runtime.cudaDeviceSynchronize(), "cudaDeviceSynchronize")
        samples = []
        for _ in range(7):
            before = clock()
            for _ in range(rounds):
                self.start()
            self._check(self.runtime.cudaDeviceSynchronize(), "cudaDeviceSynchronize")
            samples.append((clock() - before) / rounds)
        return statistics.median(samples)

    def close(self):
        """Frees what is on the device."""
        for memory in (*self.memory, self.y):
            self.runtime.cudaFree(memory)
        self.sparse.cusparseDestroyMatDescr(self.description)
        self.sparse.cusparseDestroy(self.handle)

    def _allocate(self, size):
        memory = ctypes.c_void_p()
        self._check(self.runtime.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(max(size, 4))), "cudaMalloc")
        return memory

    def _copy(self, array):
        memory = self._allocate(array.nbytes)
        size = ctypes.c_size_t(array.nbytes)
        self._check(self.runtime.cudaMemcpy(memory, ctypes.c_void_p(array.ctypes.data), size, _TO_DEVICE), "cudaMemcpy")
        return memory

    @staticmethod
    def _check(error, what):
        if error:
            raise Missing(f"cuSPARSE BSR: {what} failed with error {error}")


def _by_column(w):
    """`(blocks, indices, indptr)` of a `bsr_matrix` by block columns."""
    rows = np.repeat(np.arange(len(w.indptr) - 1), np.diff(w.indptr))
    order = np.lexsort((rows, w.indices))
    counts = np.bincount(w.indices, minlength=w.shape[1] // w.blocksize[1])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return np.ascontiguousarray(w.data[order], np.float32), rows[order].astype(np.int32), indptr


def main():
    try:
        find()
    except Missing as reason:
        sys.exit(str(reason))
    print("cuSPARSE has cusparseSbsrmm")


if __name__ == "__main__":
    main()
