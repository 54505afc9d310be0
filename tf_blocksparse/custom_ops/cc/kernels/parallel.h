// The threads a driver may use, handed in by the caller: the kernels know no thread pool.
#ifndef TF_BLOCKSPARSE_KERNELS_PARALLEL_H_
#define TF_BLOCKSPARSE_KERNELS_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace blocksparse {

// Calls task(0) .. task(n - 1), each once, on any threads, and returns when all are done.
using ParallelFor = std::function<void(int64_t n, const std::function<void(int64_t)>& task)>;

// One that offers the tasks to other threads by `schedule`, which is to call what it is given on another thread, at any
// time. The caller takes part, and waits for tasks that others have begun, not for threads to come: a pool that is
// slow to wake, or busy, costs no more than doing all of the work alone, and cannot block.
ParallelFor WithHelpers(const std::function<void(std::function<void()>)>& schedule);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_PARALLEL_H_
