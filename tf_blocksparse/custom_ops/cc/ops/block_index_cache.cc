#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"

#include <new>

namespace blocksparse {

using tensorflow::Tensor;

bool SameBuffer(const Tensor& a, const Tensor& b) {
  return a.data() == b.data() && a.NumElements() == b.NumElements();
}

bool SameGrid(const Grid& a, const Grid& b) {
  const auto same = [](const Axis& a, const Axis& b) {
    return a.features == b.features && a.block == b.block && a.gates == b.gates;
  };
  return same(a.rows, b.rows) && same(a.columns, b.columns);
}

IndexCache<BlockIndex>::Build BuildOf(Order order, bool by_column) {
  return [order, by_column](const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                            int64_t num_blocks, BlockIndex* index) -> std::string {
    // Its size grows with both sides of the matrix, one of which may be no more than a number in a file.
    try {
      return BuildBlockIndex(grid, order, indptr, indptr_size, indices, num_blocks, by_column, index);
    } catch (const std::bad_alloc&) {
      return "there is no memory for the index of a matrix of " + std::to_string(grid.rows.features) + "x" +
             std::to_string(grid.columns.features);
    }
  };
}

}  // namespace blocksparse
