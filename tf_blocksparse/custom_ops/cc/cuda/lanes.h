// How the threads of a kernel for few rows share out a block; see lanes.cuh.
#ifndef TF_BLOCKSPARSE_CUDA_LANES_H_
#define TF_BLOCKSPARSE_CUDA_LANES_H_

#include <algorithm>

namespace blocksparse {
namespace cuda {

constexpr int kLaneThreads = 128;

// Neighbours in memory to neighbouring threads. Of `args`, block_k and block_n are set.
template <typename Args>
void SetLanes(bool transposed, Args* args) {
  const int k = args->block_k, n = args->block_n;
  args->k_stride = transposed ? 1 : n;
  args->n_stride = transposed ? k : 1;
  if (transposed) {
    args->k_lanes = std::min(k, 32);
    args->n_lanes = std::min(n, kLaneThreads / args->k_lanes);
  } else {
    args->n_lanes = std::min(n, kLaneThreads);
    args->k_lanes = std::min(k, kLaneThreads / args->n_lanes);
  }
  args->entry_lanes = kLaneThreads / (args->k_lanes * args->n_lanes);
}

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_LANES_H_
