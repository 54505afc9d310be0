// A product for few rows of the batch, which takes as long as reading the blocks does: each element of a block is read
// once, by neighbouring threads in the order in which they lie in memory, and multiplied for all rows at once.
//
// The threads are entry_lanes * k_lanes * n_lanes: some of them take every entry_lanes-th block, of that every
// k_lanes-th feature of the sum, for one output feature. What they have then is added up in shared memory.
#ifndef TF_BLOCKSPARSE_CUDA_PRODUCT_FEW_CUH_
#define TF_BLOCKSPARSE_CUDA_PRODUCT_FEW_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/epilogue.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/lanes.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_walk.cuh"

namespace blocksparse {
namespace cuda {

template <typename Format, int kRows>
struct ProductFew {
  typedef typename Format::Storage Storage;
  static constexpr int kThreads = kFewThreads;

  struct Shared {
    float sums[kRows][kThreads];
  };

  static DEVICE void Sum(const ProductArgs& args, const Tile& tile, const Lanes& lanes, int column,
                         float (&sums)[kRows]) {
    const Storage* x = static_cast<const Storage*>(args.x) + static_cast<size_t>(tile.first_row) * args.x_features;
    for (int e = tile.item.first + lanes.entry; e < tile.item.end; e += args.entry_lanes) {
      const Entry entry = args.entries[e];
      const int extent = entry.offset & kEdgeBit ? args.edge_k : args.block_k;
      const int offset = static_cast<int>(entry.offset & ~kEdgeBit);
      const Storage* block = static_cast<const Storage*>(args.blocks) +
                             static_cast<size_t>(entry.position) * args.block_k * args.block_n +
                             static_cast<size_t>(column) * args.n_stride;
#pragma unroll 2
      for (int k = lanes.k; k < extent; k += args.k_lanes) {
        const float w = ToFloat(block[static_cast<size_t>(k) * args.k_stride]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (tile.first_row + r < args.batch) {
            sums[r] += w * ToFloat(x[static_cast<size_t>(r) * args.x_features + offset + k]);
          }
        }
      }
    }
  }

  static DEVICE void Run(const ProductArgs& args) {
    Tile tile = Tile::Get<kRows, 1>(args);
    tile.first_column *= args.n_lanes;
    if (tile.first_column >= tile.item.extent) return;
    Shared& shared = SharedMemory<Shared>();
    const Lanes lanes = Lanes::Get(args);
    const int column = tile.first_column + lanes.n;
    float sums[kRows] = {};
    if (lanes.entry < args.entry_lanes && column < tile.item.extent) Sum(args, tile, lanes, column, sums);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (lanes.entry < args.entry_lanes) {
        shared.sums[r][lanes.Slot(args)] = sums[r];
      }
    }
    __syncthreads();
    const int parts = args.entry_lanes * args.k_lanes;
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * args.n_lanes; i += kThreads) {
      const int r = i / args.n_lanes;
      const int n = i % args.n_lanes;
      if (tile.first_row + r >= args.batch || tile.first_column + n >= tile.item.extent) continue;
      float sum = 0.0f;
      for (int p = 0; p < parts; ++p) sum += shared.sums[r][p * args.n_lanes + n];
      WriteSum<Storage>(args, tile.item, tile.first_row + r, tile.first_column + n, sum);
    }
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_PRODUCT_FEW_CUH_
