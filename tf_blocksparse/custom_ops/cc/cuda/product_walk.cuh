// The axis that a product sums over, as its kernels see it: the blocks of an item one after the other.
#ifndef TF_BLOCKSPARSE_CUDA_PRODUCT_WALK_CUH_
#define TF_BLOCKSPARSE_CUDA_PRODUCT_WALK_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/arguments.h"
#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace blocksparse {
namespace cuda {

// What thread block this is: neighbours do the same blocks for other rows of the batch.
struct Tile {
  Item item;
  int first_row;
  int first_column;

  template <int kRows, int kColumns>
  static DEVICE Tile Get(const ProductArgs& args) {
    const int batch_tile = blockIdx.x % args.batch_tiles;
    const int rest = blockIdx.x / args.batch_tiles;
    return {args.items[rest / args.column_tiles], batch_tile * kRows, rest % args.column_tiles * kColumns};
  }
};

// Step k of an item is feature k % block_k of its entry k / block_k. kBlockK is block_k, or 0 if it is not known.
struct Step {
  size_t position;  // of the block
  int feature;      // of x
  int within;       // feature of the block
  int valid;        // real features of the block from this one on; 0 or less: none, and nothing may be read

  template <int kBlockK>
  static DEVICE Step Get(const ProductArgs& args, const Item& item, unsigned k) {
    const unsigned block_k = kBlockK > 0 ? kBlockK : args.block_k;
    const unsigned number = k / block_k;
    Step step = {0, 0, static_cast<int>(k - number * block_k), 0};
    if (number >= static_cast<unsigned>(item.end - item.first)) return step;
    const Entry entry = args.entries[item.first + number];
    step.position = entry.position;
    step.feature = static_cast<int>(entry.offset & ~kEdgeBit) + step.within;
    step.valid = (entry.offset & kEdgeBit ? args.edge_k : static_cast<int>(block_k)) - step.within;
    return step;
  }
};

// Steps of an item.
DEVICE unsigned Steps(const ProductArgs& args, const Item& item) {
  return static_cast<unsigned>(item.end - item.first) * static_cast<unsigned>(args.block_k);
}

// Element of `blocks` at the step, output feature `column` of the line.
template <bool kTransposed>
DEVICE size_t BlockElement(const ProductArgs& args, const Step& step, int column) {
  const size_t first = step.position * args.block_k * args.block_n;
  return first + (kTransposed ? static_cast<size_t>(column) * args.block_k + step.within
                              : static_cast<size_t>(step.within) * args.block_n + column);
}

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_PRODUCT_WALK_CUH_
