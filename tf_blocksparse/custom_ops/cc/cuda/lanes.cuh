// How the threads of a kernel for few rows share out a line of blocks: entry_lanes * k_lanes * n_lanes of them.
#ifndef TF_BLOCKSPARSE_CUDA_LANES_CUH_
#define TF_BLOCKSPARSE_CUDA_LANES_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace blocksparse {
namespace cuda {

constexpr int kFewThreads = 128;

struct Lanes {
  int entry;  // of the blocks of the line, every entry_lanes-th from this one on
  int k;      // of the features of the sum
  int n;      // of those of the output

  // The axis of a block whose neighbours lie side by side is that of neighbouring threads.
  template <typename Args>
  static DEVICE Lanes Get(const Args& args) {
    const int thread = threadIdx.x;
    const int inner = args.n_stride == 1 ? args.n_lanes : args.k_lanes;
    const int outer = args.n_stride == 1 ? args.k_lanes : args.n_lanes;
    const int fast = thread % inner;
    const int slow = thread / inner % outer;
    return {thread / (inner * outer), args.n_stride == 1 ? slow : fast, args.n_stride == 1 ? fast : slow};
  }

  // Where the thread's sum is, beside those of the same output feature.
  template <typename Args>
  DEVICE int Slot(const Args& args) const {
    return (entry * args.k_lanes + k) * args.n_lanes + n;
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_LANES_CUH_
