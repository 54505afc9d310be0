// What follows a product: y = activation(sum + bias), written where the output is; and the sums of what was split.
#ifndef TF_BLOCKSPARSE_CUDA_EPILOGUE_CUH_
#define TF_BLOCKSPARSE_CUDA_EPILOGUE_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/arguments.h"
#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace blocksparse {
namespace cuda {

// The values of the CPU kernels' Activation. NaN stays NaN.
DEVICE float Activate(float y, int activation) {
  if (activation == 1) return y < 0.0f ? 0.0f : y;
  if (activation == 2) return tanhf(y);
  if (activation == 3) return 1.0f / (1.0f + expf(-y));
  return y;
}

template <typename Storage>
DEVICE void WriteFeature(const void* bias, void* y, size_t at, int feature, float sum, int activation) {
  if (bias != nullptr) sum += ToFloat(static_cast<const Storage*>(bias)[feature]);
  FromFloat(Activate(sum, activation), static_cast<Storage*>(y) + at);
}

// Row `row` and feature `feature` of the item's line: finished, or as it is where the line is split.
template <typename Storage>
DEVICE void WriteSum(const ProductArgs& args, const Item& item, int row, int feature, float sum) {
  if (item.slot >= 0) {
    args.partial[(static_cast<size_t>(item.slot) * args.batch + row) * args.block_n + feature] = sum;
    return;
  }
  const size_t at = static_cast<size_t>(row) * args.y_features + item.feature + feature;
  WriteFeature<Storage>(args.bias, args.y, at, item.feature + feature, sum, args.activation);
}

// A tile of sums from shared memory. A loop that is not unrolled: the code of the activations is there once, and
// neighbouring threads write neighbours.
template <typename Storage, int kRows, int kColumns, int kThreads>
DEVICE void WriteTile(const ProductArgs& args, const Item& item, int first_row, int first_column,
                      const float (&tile)[kRows][kColumns + 1]) {
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int row = first_row + i / kColumns;
    const int column = first_column + i % kColumns;
    if (row >= args.batch || column >= item.extent) continue;
    WriteSum<Storage>(args, item, row, column, tile[i / kColumns][i % kColumns]);
  }
}

constexpr int kCombineThreads = 256;

template <typename Format>
DEVICE void Combine(const CombineArgs& args) {
  typedef typename Format::Storage Storage;
  const Group group = args.groups[blockIdx.x / args.tiles];
  const size_t count = static_cast<size_t>(args.batch) * args.block_n;  // of a slot
  const size_t i = static_cast<size_t>(blockIdx.x % args.tiles) * kCombineThreads + threadIdx.x;
  const int row = static_cast<int>(i / args.block_n);
  const int feature = static_cast<int>(i % args.block_n);
  if (i >= count || feature >= group.extent) return;
  float sum = 0.0f;
  for (int s = 0; s < group.slots; ++s) sum += args.partial[(group.first_slot + s) * count + i];
  const size_t at = static_cast<size_t>(row) * args.y_features + group.feature + feature;
  WriteFeature<Storage>(args.bias, args.y, at, group.feature + feature, sum, args.activation);
}

template <typename Format>
DEVICE void GradCombine(const GradCombineArgs& args) {
  const long long i = static_cast<long long>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (i >= args.elements) return;
  float sum = 0.0f;
  for (int s = 0; s < args.splits; ++s) sum += args.partial[s * args.elements + i];
  FromFloat(sum, static_cast<typename Format::Storage*>(args.dblocks) + i);
}

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_EPILOGUE_CUH_
