// The gradient of the blocks on CUDA cores: a thread block makes a tile of one stored block, summed over the batch.
//
// Each thread has a part of the tile in registers. Where the tile has fewer parts than threads, they share the batch:
// every kLanes-th row is one thread's, and their sums are added up at the end, in one order.
#ifndef TF_BLOCKSPARSE_CUDA_GRAD_TILE_CUH_
#define TF_BLOCKSPARSE_CUDA_GRAD_TILE_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/grad_walk.cuh"

namespace blocksparse {
namespace cuda {

template <typename Format, int kRows, int kColumns, int kThreadRows, int kThreadColumns, int kLanes>
struct GradTile {
  typedef typename Format::Storage Storage;
  static constexpr int kAcross = kColumns / kThreadColumns;
  static constexpr int kParts = kRows / kThreadRows * kAcross;
  static constexpr int kThreads = kParts * kLanes;
  static constexpr int kDepth = kLanes < 16 ? 16 : kLanes;  // rows of the batch in a slice
  static constexpr int kLoadsX = (kDepth * kRows + kThreads - 1) / kThreads;
  static constexpr int kLoadsDy = (kDepth * kColumns + kThreads - 1) / kThreads;

  struct Slices {
    alignas(16) float x[kDepth][kRows];
    alignas(16) float dy[kDepth][kColumns];
  };
  union Shared {
    Slices slices;
    float sums[kLanes][kRows][kColumns + 1];
  };

  Storage x_[kLoadsX];
  Storage dy_[kLoadsDy];
  float sums_[kThreadRows][kThreadColumns];

  // Of the rows of `from` [batch, features], from column `first` on, of which `left` are real.
  template <int kWidth, int kLoads>
  static DEVICE void Fetch(const void* from, int features, int first, int left, int row, int end,
                           Storage (&values)[kLoads]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int number = threadIdx.x + i * kThreads;
      const int at = row + number / kWidth;
      const bool inside = number < kDepth * kWidth && at < end && number % kWidth < left;
      values[i] = inside ? static_cast<const Storage*>(from)[static_cast<size_t>(at) * features + first +
                                                             number % kWidth]
                         : Zero<Storage>();
    }
  }

  template <int kWidth, int kLoads>
  static DEVICE void Put(const Storage (&values)[kLoads], float (&slice)[kDepth][kWidth]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int number = threadIdx.x + i * kThreads;
      if (number < kDepth * kWidth) slice[number / kWidth][number % kWidth] = ToFloat(values[i]);
    }
  }

  DEVICE void FetchBoth(const GradArgs& args, const GradPart& part, int row) {
    Fetch<kRows>(args.x, args.x_features, part.place.row + part.first_row, part.RowsLeft(), row, part.end, x_);
    Fetch<kColumns>(args.dy, args.y_features, part.place.column + part.first_column, part.ColumnsLeft(), row, part.end,
                    dy_);
  }

  DEVICE void Multiply(const Slices& slices) {
    const int own = threadIdx.x / kLanes;
    const int row = own / kAcross * kThreadRows;
    const int column = own % kAcross * kThreadColumns;
#pragma unroll 2
    for (int s = 0; s < kDepth / kLanes; ++s) {
      const int b = s * kLanes + threadIdx.x % kLanes;
      const auto x = *reinterpret_cast<const Chunk<float, kThreadRows>*>(&slices.x[b][row]);
      const auto dy = *reinterpret_cast<const Chunk<float, kThreadColumns>*>(&slices.dy[b][column]);
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
        for (int j = 0; j < kThreadColumns; ++j) sums_[i][j] += x.at[i] * dy.at[j];
      }
    }
  }

  DEVICE void PutSums(Shared& shared) const {
    const int own = threadIdx.x / kLanes;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        shared.sums[threadIdx.x % kLanes][own / kAcross * kThreadRows + i][own % kAcross * kThreadColumns + j] =
            sums_[i][j];
      }
    }
  }

  // That of all threads which share an element.
  static DEVICE float SumOf(const Shared& shared, int row, int column) {
    float sum = 0.0f;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum += shared.sums[lane][row][column];
    return sum;
  }

  static DEVICE void Run(const GradArgs& args) {
    const GradPart part = GradPart::Get<kRows, kColumns>(args);
    Shared& shared = SharedMemory<Shared>();
    GradTile work = {};
    work.FetchBoth(args, part, part.begin);
    for (int row = part.begin; row < part.end; row += kDepth) {
      __syncthreads();  // the slice before has been read
      Put(work.x_, shared.slices.x);
      Put(work.dy_, shared.slices.dy);
      __syncthreads();
      if (row + kDepth < part.end) work.FetchBoth(args, part, row + kDepth);
      work.Multiply(shared.slices);
    }
    __syncthreads();
    work.PutSums(shared);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
      WriteGrad<Storage>(args, part, i / kColumns, i % kColumns, SumOf(shared, i / kColumns, i % kColumns));
    }
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_GRAD_TILE_CUH_
