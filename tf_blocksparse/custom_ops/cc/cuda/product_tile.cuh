// A product on CUDA cores: a thread block makes a tile of y, each thread a part of it in registers.
//
// The blocks of a line are summed over as if they were one tall matrix, kDepth steps at a time, so that blocks of 4
// rows fill a slice as those of 64 do. While a slice is multiplied, the next one is on its way into registers.
#ifndef TF_BLOCKSPARSE_CUDA_PRODUCT_TILE_CUH_
#define TF_BLOCKSPARSE_CUDA_PRODUCT_TILE_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/epilogue.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_walk.cuh"

namespace blocksparse {
namespace cuda {

// kBlockK: see Step. kChunkK and kChunkN divide block_k and block_n: elements that are moved together.
template <typename Format, bool kTransposed, int kBlockK, int kChunkK, int kChunkN, int kRows, int kColumns,
          int kThreadRows, int kThreadColumns>
struct ProductTile {
  typedef typename Format::Storage Storage;
  static constexpr int kDepth = 16;
  static constexpr int kAcross = kColumns / kThreadColumns;
  static constexpr int kThreads = kRows / kThreadRows * kAcross;
  static constexpr int kChunksK = kDepth / kChunkK;
  static constexpr int kRowStep = kThreads / kChunksK;
  static constexpr int kChunksX = (kRows + kRowStep - 1) / kRowStep;
  static constexpr int kChunkB = kTransposed ? kChunkK : kChunkN;
  static constexpr int kAllB = kDepth * kColumns / kChunkB;
  static constexpr int kChunksB = (kAllB + kThreads - 1) / kThreads;
  static_assert(kThreads % kChunksK == 0 && kRows % kThreadRows == 0 && kColumns % kThreadColumns == 0, "");

  struct Slices {
    float x[kDepth][kRows + 4];
    float b[kDepth][(kColumns + 3) / 4 * 4 + 4];
  };
  union Shared {
    Slices slices;
    float tile[kRows][kColumns + 1];
  };

  Chunk<Storage, kChunkK> x_[kChunksX];
  Chunk<Storage, kChunkB> b_[kChunksB];
  float sums_[kThreadRows][kThreadColumns];

  // All threads: global memory to registers.
  DEVICE void Fetch(const ProductArgs& args, const Tile& tile, unsigned k) {
    const Storage* blocks = static_cast<const Storage*>(args.blocks);
    const Step step = Step::Get<kBlockK>(args, tile.item, k + threadIdx.x % kChunksK * kChunkK);
#pragma unroll
    for (int i = 0; i < kChunksX; ++i) {
      const int row = tile.first_row + threadIdx.x / kChunksK + i * kRowStep;
      const Storage* x = static_cast<const Storage*>(args.x) + static_cast<size_t>(row) * args.x_features;
      x_[i] = LoadChunk<Storage, kChunkK>(x + step.feature, row < args.batch ? step.valid : 0, args.x_aligned);
    }
#pragma unroll
    for (int i = 0; i < kChunksB; ++i) {
      const int number = threadIdx.x + i * kThreads;
      if constexpr (kTransposed) {
        const int column = tile.first_column + number / kChunksK;
        const bool inside = column < tile.item.extent && number < kAllB;
        b_[i] = LoadChunk<Storage, kChunkB>(blocks + BlockElement<true>(args, step, column), inside ? step.valid : 0,
                                            args.blocks_aligned);
      } else {
        const Step own = Step::Get<kBlockK>(args, tile.item, k + number / (kColumns / kChunkB));
        const int column = tile.first_column + number % (kColumns / kChunkB) * kChunkB;
        const bool inside = own.valid > 0 && number < kAllB;
        b_[i] = LoadChunk<Storage, kChunkB>(blocks + BlockElement<false>(args, own, column),
                                            inside ? tile.item.extent - column : 0, args.blocks_aligned);
      }
    }
  }

  // Registers to shared memory.
  DEVICE void Put(Slices& slices) {
    const int depth = threadIdx.x % kChunksK * kChunkK;
#pragma unroll
    for (int i = 0; i < kChunksX; ++i) {
      const int row = threadIdx.x / kChunksK + i * kRowStep;
      if (row >= kRows) break;
#pragma unroll
      for (int c = 0; c < kChunkK; ++c) slices.x[depth + c][row] = ToFloat(x_[i].at[c]);
    }
#pragma unroll
    for (int i = 0; i < kChunksB; ++i) {
      const int number = threadIdx.x + i * kThreads;
      if (number >= kAllB) break;
#pragma unroll
      for (int c = 0; c < kChunkB; ++c) {
        if constexpr (kTransposed) {
          slices.b[depth + c][number / kChunksK] = ToFloat(b_[i].at[c]);
        } else {
          const int column = number % (kColumns / kChunkB) * kChunkB + c;
          slices.b[number / (kColumns / kChunkB)][column] = ToFloat(b_[i].at[c]);
        }
      }
    }
  }

  DEVICE void Multiply(const Slices& slices) {
    const int row = threadIdx.x / kAcross * kThreadRows;
    const int column = threadIdx.x % kAcross * kThreadColumns;
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
      const auto x = *reinterpret_cast<const Chunk<float, kThreadRows>*>(&slices.x[k][row]);
      const auto b = *reinterpret_cast<const Chunk<float, kThreadColumns>*>(&slices.b[k][column]);
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
        for (int j = 0; j < kThreadColumns; ++j) sums_[i][j] += x.at[i] * b.at[j];
      }
    }
  }

  static DEVICE void Run(const ProductArgs& args) {
    const Tile tile = Tile::Get<kRows, kColumns>(args);
    if (tile.first_column >= tile.item.extent) return;
    Shared& shared = SharedMemory<Shared>();
    ProductTile work = {};
    const unsigned steps = Steps(args, tile.item);
    if (steps > 0) work.Fetch(args, tile, 0);
    for (unsigned k = 0; k < steps; k += kDepth) {
      __syncthreads();  // the slice before has been read
      work.Put(shared.slices);
      __syncthreads();
      if (k + kDepth < steps) work.Fetch(args, tile, k + kDepth);
      work.Multiply(shared.slices);
    }
    __syncthreads();
    const int row = threadIdx.x / kAcross * kThreadRows;
    const int column = threadIdx.x % kAcross * kThreadColumns;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) shared.tile[row + i][column + j] = work.sums_[i][j];
    }
    __syncthreads();
    WriteTile<Storage, kRows, kColumns, kThreads>(args, tile.item, tile.first_row, tile.first_column, shared.tile);
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_PRODUCT_TILE_CUH_
