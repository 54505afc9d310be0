// The threads a driver may use, handed in by the caller: the kernels know no thread pool.
#ifndef TF_BLOCKSPARSE_KERNELS_PARALLEL_H_
#define TF_BLOCKSPARSE_KERNELS_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace blocksparse {

// Calls task(0) .. task(n - 1), each once, on any threads, and returns when all are done.
using ParallelFor = std::function<void(int64_t n, const std::function<void(int64_t)>& task)>;

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_PARALLEL_H_
