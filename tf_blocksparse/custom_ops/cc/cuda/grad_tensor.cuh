// The gradient of the blocks on tensor cores, for blocks whose sides are multiples of 16.
#ifndef TF_BLOCKSPARSE_CUDA_GRAD_TENSOR_CUH_
#define TF_BLOCKSPARSE_CUDA_GRAD_TENSOR_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/grad_walk.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/tensor_tile.cuh"

namespace blocksparse {
namespace cuda {

// Tiles of kSide x kSide.
template <typename Format, int kSide>
struct GradTensor {
  typedef typename Format::Storage Storage;
  typedef WordsOf<Format> Of;
  typedef TensorTile<Format, kSide, kSide> Sums;
  static constexpr int kThreads = kTensorThreads;
  static constexpr int kWords = Sums::kDeep > 1 ? 8 * Sums::kDeep : kWordsDeep;
  static constexpr int kDepth = kWords * Of::kPerWord;  // rows of the batch in a slice
  static constexpr int kAll = kWords * kSide / Of::kPerChunk;
  static constexpr int kGroups = (kAll + kThreads - 1) / kThreads;

  struct Slices {
    unsigned x[kSide][kWords + Sums::kStride];
    unsigned dy[kSide][kWords + Sums::kStride];
  };
  union Shared {
    Slices slices;
    float tile[kSide][kSide + 1];
  };

  Words x_[kGroups][Of::kPerWord];
  Words dy_[kGroups][Of::kPerWord];
  Sums sums_;

  // Chunks along the features, of the rows of the batch that make a word.
  static DEVICE void Fetch(const void* from, int features, int first, int left, bool aligned, int row, int end,
                           Words (&chunks)[kGroups][Of::kPerWord]) {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int number = threadIdx.x + i * kThreads;
      const int feature = number / kWords * Of::kPerChunk;
#pragma unroll
      for (int line = 0; line < Of::kPerWord; ++line) {
        const int at = row + number % kWords * Of::kPerWord + line;
        const bool inside = number < kAll && at < end;
        chunks[i][line] = Of::Load(static_cast<const Storage*>(from) + static_cast<size_t>(at) * features + first +
                                       feature, inside ? left - feature : 0, aligned);
      }
    }
  }

  static DEVICE void Put(const Words (&chunks)[kGroups][Of::kPerWord], unsigned (&slice)[kSide][kWords + Sums::kStride]) {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int number = threadIdx.x + i * kThreads;
      if (number >= kAll) break;
#pragma unroll
      for (int c = 0; c < Of::kPerChunk; ++c) {
        slice[number / kWords * Of::kPerChunk + c][number % kWords] = TensorWord(Of::Across(chunks[i], c), Format());
      }
    }
  }

  DEVICE void FetchBoth(const GradArgs& args, const GradPart& part, int row) {
    Fetch(args.x, args.x_features, part.place.row + part.first_row, part.RowsLeft(), args.x_aligned, row, part.end,
          x_);
    Fetch(args.dy, args.y_features, part.place.column + part.first_column, part.ColumnsLeft(), args.dy_aligned, row,
          part.end, dy_);
  }

  static DEVICE void Run(const GradArgs& args) {
    const GradPart part = GradPart::Get<kSide, kSide>(args);
    Shared& shared = SharedMemory<Shared>();
    GradTensor work = {};
    work.FetchBoth(args, part, part.begin);
    for (int row = part.begin; row < part.end; row += kDepth) {
      __syncthreads();  // the slice before has been read
      Put(work.x_, shared.slices.x);
      Put(work.dy_, shared.slices.dy);
      __syncthreads();
      if (row + kDepth < part.end) work.FetchBoth(args, part, row + kDepth);
      work.sums_.template Multiply<kWords>(shared.slices.x, shared.slices.dy);
    }
    __syncthreads();
    work.sums_.Put(shared.tile);
#pragma unroll 1
    for (int i = threadIdx.x; i < kSide * kSide; i += kThreads) {
      WriteGrad<Storage>(args, part, i / kSide, i % kSide, shared.tile[i / kSide][i % kSide]);
    }
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_GRAD_TENSOR_CUH_
