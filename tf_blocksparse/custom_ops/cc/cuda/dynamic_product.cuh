// The product of which every example has chosen its blocks. A thread block makes a line's output features for some
// examples: it reads the blocks that any of them has chosen, once, and multiplies each for those alone who chose it.
//
// An example's sum is made in one order, whoever is beside it and in whichever order its blocks were given.
#ifndef TF_BLOCKSPARSE_CUDA_DYNAMIC_PRODUCT_CUH_
#define TF_BLOCKSPARSE_CUDA_DYNAMIC_PRODUCT_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_choices.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/epilogue.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/lanes.cuh"

namespace blocksparse {
namespace cuda {

DEVICE void WriteDynamic(const DynamicArgs& args, int row, int feature, float sum) {
  const float fault = args.faults[row];
  if (fault != fault) sum = fault;
  const size_t at = static_cast<size_t>(row) * args.y_features + feature;
  WriteFeature<float>(args.bias, args.y, at, feature, sum, args.activation);
}

template <int kRows>
struct DynamicProduct {
  static constexpr int kThreads = kFewThreads;

  struct Shared {
    float gates[kRows][kThreads];  // of as many blocks of the line
    float sums[kRows][kThreads];
  };

  struct Part {
    int line;
    int first_row;
    int first_column;
    int part;
    int extent;  // output features of the line

    static DEVICE Part Get(const DynamicArgs& args) {
      Part part;
      int rest = blockIdx.x;
      part.first_row = rest % args.batch_tiles * kRows;
      rest /= args.batch_tiles;
      part.first_column = rest % args.column_tiles * args.n_lanes;
      rest /= args.column_tiles;
      part.part = rest % args.parts;
      part.line = rest / args.parts;
      part.extent = min(args.block_n, args.y_features - part.line * args.block_n);
      return part;
    }
  };

  static DEVICE void LoadGates(const DynamicArgs& args, const Part& part, int first, int end, Shared& shared) {
    const int across = first + threadIdx.x;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = part.first_row + r;
      const bool inside = across < end && row < args.batch;
      const size_t at = (static_cast<size_t>(row) * args.lines + part.line) * args.across + across;
      shared.gates[r][threadIdx.x] = inside ? args.table[at] : 0.0f;
    }
  }

  // A bit for each example that has chosen the block.
  static DEVICE unsigned Wanted(const Shared& shared, int entry) {
    unsigned wanted = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) wanted |= shared.gates[r][entry] != 0.0f ? 1u << r : 0u;
    return wanted;
  }

  static DEVICE void Multiply(const DynamicArgs& args, const Part& part, const Lanes& lanes, const Shared& shared,
                              int entry, int across, unsigned wanted, float (&sums)[kRows]) {
    const int offset = across * args.block_k;
    const int extent = min(args.block_k, args.x_features - offset);
    const size_t position =
        static_cast<size_t>(part.line) * args.line_stride + static_cast<size_t>(across) * args.across_stride;
    const float* block = args.blocks + position * args.block_k * args.block_n +
                         static_cast<size_t>(part.first_column + lanes.n) * args.n_stride;
    const float* x = args.x + static_cast<size_t>(part.first_row) * args.x_features + offset;
    float products[kRows] = {};
#pragma unroll 2
    for (int k = lanes.k; k < extent; k += args.k_lanes) {
      const float w = block[static_cast<size_t>(k) * args.k_stride];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (wanted >> r & 1u) products[r] += w * x[static_cast<size_t>(r) * args.x_features + k];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (wanted >> r & 1u) sums[r] += shared.gates[r][entry] * products[r];
    }
  }

  static DEVICE void Write(const DynamicArgs& args, const Part& part, const Shared& shared) {
    const int lanes = args.entry_lanes * args.k_lanes;
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * args.n_lanes; i += kThreads) {
      const int r = i / args.n_lanes;
      const int row = part.first_row + r;
      const int column = part.first_column + i % args.n_lanes;
      if (row >= args.batch || column >= part.extent) continue;
      float sum = 0.0f;
      for (int p = 0; p < lanes; ++p) sum += shared.sums[r][p * args.n_lanes + i % args.n_lanes];
      const int feature = part.line * args.block_n + column;
      if (args.parts > 1) {
        args.partial[(static_cast<size_t>(part.part) * args.batch + row) * args.y_features + feature] = sum;
      } else {
        WriteDynamic(args, row, feature, sum);
      }
    }
  }

  static DEVICE void Run(const DynamicArgs& args) {
    const Part part = Part::Get(args);
    if (part.first_column >= part.extent) return;
    Shared& shared = SharedMemory<Shared>();
    const Lanes lanes = Lanes::Get(args);
    const bool works = lanes.entry < args.entry_lanes && part.first_column + lanes.n < part.extent;
    const int end = min(args.across, (part.part + 1) * args.part_blocks);
    float sums[kRows] = {};
    for (int first = part.part * args.part_blocks; first < end; first += kThreads) {
      __syncthreads();  // the gates before have been used
      LoadGates(args, part, first, end, shared);
      __syncthreads();
      for (int entry = lanes.entry; works && entry < min(kThreads, end - first); entry += args.entry_lanes) {
        const unsigned wanted = Wanted(shared, entry);
        if (wanted != 0) Multiply(args, part, lanes, shared, entry, first + entry, wanted, sums);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (lanes.entry < args.entry_lanes) shared.sums[r][lanes.Slot(args)] = sums[r];
    }
    __syncthreads();
    Write(args, part, shared);
  }
};

// The sums of parts of lines, in their order.
struct DynamicCombine {
  static constexpr int kThreads = 256;

  static DEVICE void Run(const DynamicArgs& args) {
    const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
    const size_t count = static_cast<size_t>(args.batch) * args.y_features;
    if (i >= count) return;
    float sum = 0.0f;
    for (int p = 0; p < args.parts; ++p) sum += args.partial[p * count + i];
    WriteDynamic(args, static_cast<int>(i / args.y_features), static_cast<int>(i % args.y_features), sum);
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DYNAMIC_PRODUCT_CUH_
