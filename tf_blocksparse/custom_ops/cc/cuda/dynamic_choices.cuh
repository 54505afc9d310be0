// What the examples chose, as a table that says for every block what each example multiplies it by.
//
// Ids are in the memory of the device, where no one waits for them to be checked: nothing is read or written for an id of
// no block, and what its example gives is NaN.
#ifndef TF_BLOCKSPARSE_CUDA_DYNAMIC_CHOICES_CUH_
#define TF_BLOCKSPARSE_CUDA_DYNAMIC_CHOICES_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_arguments.h"

namespace blocksparse {
namespace cuda {

DEVICE float NotANumber() { return __uint_as_float(0x7fc00000u); }

struct ChoiceClear {
  static constexpr int kThreads = 256;

  static DEVICE void Run(const ChoiceArgs& args) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < args.cells) args.table[i] = 0.0f;
  }
};

// Adds are atomic for the sake of blocks that are chosen twice: of two gates the sum is that of either order.
struct ChoiceScatter {
  static constexpr int kThreads = 256;

  static DEVICE void Run(const ChoiceArgs& args) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= static_cast<long long>(args.batch) * args.count) return;
    const int example = static_cast<int>(i / args.count);
    const int id = args.ids[i];
    if (id < 0 || id / args.columns >= args.rows) {
      atomicAdd(args.faults + example, NotANumber());
      return;
    }
    const long long at = example * args.example_stride + id / args.columns * args.row_stride +
                         id % args.columns * args.column_stride;
    atomicAdd(args.table + at, args.gates[i]);
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DYNAMIC_CHOICES_CUH_
