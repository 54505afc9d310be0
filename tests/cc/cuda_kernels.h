// The CUDA kernels, compiled for the emulator.
#ifndef TF_BLOCKSPARSE_TESTS_CUDA_KERNELS_H_
#define TF_BLOCKSPARSE_TESTS_CUDA_KERNELS_H_

#include <cstdint>

namespace blocksparse_test {

enum class ThreadOrder { kForward, kReverse, kShuffled };

// Runs kernel `kernel` of the table to its end.
void EmulateKernel(int kernel, int64_t grid, const void* args, ThreadOrder order);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_CUDA_KERNELS_H_
