// A product on tensor cores, for blocks whose sides are multiples of 16. See product_tile.cuh for the walk, and
// tensor_tile.cuh for the multiplication.
#ifndef TF_BLOCKSPARSE_CUDA_PRODUCT_TENSOR_CUH_
#define TF_BLOCKSPARSE_CUDA_PRODUCT_TENSOR_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/epilogue.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_walk.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/tensor_tile.cuh"

namespace blocksparse {
namespace cuda {

template <typename Format, bool kTransposed, int kRows, int kColumns>
struct ProductTensor {
  typedef typename Format::Storage Storage;
  typedef WordsOf<Format> Of;
  typedef TensorTile<Format, kRows, kColumns> Sums;
  static constexpr int kThreads = kTensorThreads;
  static constexpr int kDepth = kWordsDeep * Of::kPerWord;
  static constexpr int kChunksK = kWordsDeep / 4;
  static constexpr int kRowStep = kThreads / kChunksK;
  static constexpr int kChunksX = kRows / kRowStep;
  // Chunks of the block lie along the sum where it is transposed, else across it, kPerWord lines to a word.
  static constexpr int kGroups = kTransposed ? kColumns * kChunksK : kWordsDeep * kColumns / Of::kPerChunk;
  static constexpr int kLines = kTransposed ? 1 : Of::kPerWord;
  static constexpr int kGroupsB = (kGroups + kThreads - 1) / kThreads;

  struct Slices {
    unsigned x[kRows][kWordsDeep + Sums::kStride];
    unsigned b[kColumns][kWordsDeep + Sums::kStride];
  };
  union Shared {
    Slices slices;
    float tile[kRows][kColumns + 1];
  };

  Words x_[kChunksX];
  Words b_[kGroupsB][kLines];
  Sums sums_;

  DEVICE void Fetch(const ProductArgs& args, const Tile& tile, unsigned k) {
    const Step step = Step::Get<0>(args, tile.item, k + threadIdx.x % kChunksK * Of::kPerChunk);
#pragma unroll
    for (int i = 0; i < kChunksX; ++i) {
      const int row = tile.first_row + threadIdx.x / kChunksK + i * kRowStep;
      const Storage* x = static_cast<const Storage*>(args.x) + static_cast<size_t>(row) * args.x_features;
      x_[i] = Of::Load(x + step.feature, row < args.batch ? step.valid : 0, args.x_aligned);
    }
    FetchBlocks(args, tile, k, step);
  }

  DEVICE void FetchBlocks(const ProductArgs& args, const Tile& tile, unsigned k, const Step& step) {
    const Storage* blocks = static_cast<const Storage*>(args.blocks);
#pragma unroll
    for (int i = 0; i < kGroupsB; ++i) {
      const int number = threadIdx.x + i * kThreads;
#pragma unroll
      for (int line = 0; line < kLines; ++line) {
        if constexpr (kTransposed) {
          const int column = tile.first_column + number / kChunksK;
          const bool inside = column < tile.item.extent && number < kGroups;
          b_[i][line] = Of::Load(blocks + BlockElement<true>(args, step, column), inside ? step.valid : 0,
                                 args.blocks_aligned);
        } else {
          const Step own = Step::Get<0>(args, tile.item, k + number % kWordsDeep * kLines + line);
          const int column = tile.first_column + number / kWordsDeep * Of::kPerChunk;
          const bool inside = own.valid > 0 && number < kGroups;
          b_[i][line] = Of::Load(blocks + BlockElement<false>(args, own, column),
                                 inside ? tile.item.extent - column : 0, args.blocks_aligned);
        }
      }
    }
  }

  DEVICE void Put(Slices& slices) {
#pragma unroll
    for (int i = 0; i < kChunksX; ++i) {
      PutWords(slices.x[threadIdx.x / kChunksK + i * kRowStep], x_[i]);
    }
#pragma unroll
    for (int i = 0; i < kGroupsB; ++i) {
      const int number = threadIdx.x + i * kThreads;
      if (number >= kGroups) break;
      if constexpr (kTransposed) {
        PutWords(slices.b[number / kChunksK], b_[i][0]);
      } else {
#pragma unroll
        for (int c = 0; c < Of::kPerChunk; ++c) {
          slices.b[number / kWordsDeep * Of::kPerChunk + c][number % kWordsDeep] =
              TensorWord(Of::Across(b_[i], c), Format());
        }
      }
    }
  }

  static DEVICE void PutWords(unsigned* line, const Words& words) {
    Words rounded;
#pragma unroll
    for (int w = 0; w < 4; ++w) rounded.at[w] = TensorWord(words.at[w], Format());
    reinterpret_cast<Words*>(line)[threadIdx.x % kChunksK] = rounded;
  }

  static DEVICE void Run(const ProductArgs& args) {
    const Tile tile = Tile::Get<kRows, kColumns>(args);
    if (tile.first_column >= tile.item.extent) return;
    Shared& shared = SharedMemory<Shared>();
    ProductTensor work = {};
    const unsigned steps = Steps(args, tile.item);
    if (steps > 0) work.Fetch(args, tile, 0);
    for (unsigned k = 0; k < steps; k += kDepth) {
      __syncthreads();  // the slice before has been read
      work.Put(shared.slices);
      __syncthreads();
      if (k + kDepth < steps) work.Fetch(args, tile, k + kDepth);
      work.sums_.template Multiply<kWordsDeep>(shared.slices.x, shared.slices.b);
    }
    __syncthreads();
    work.sums_.Put(shared.tile);
    WriteTile<Storage, kRows, kColumns, kThreads>(args, tile.item, tile.first_row, tile.first_column, shared.tile);
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_PRODUCT_TENSOR_CUH_
