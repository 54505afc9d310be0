#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

namespace blocksparse {

std::string BuildColumnIndex(const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                             int64_t num_blocks, ColumnIndex* index) {
  const std::string error =
      BuildBlockIndex(grid, Order::kColumn, indptr, indptr_size, indices, num_blocks, /*by_column=*/true, index);
  if (!error.empty()) return error;
  index->y_offset.clear();
  index->extent.clear();
  for (int64_t j = 0; j < grid.columns.lines; ++j) {
    index->y_offset.push_back(static_cast<int32_t>(grid.columns.Offset(j)));
    index->extent.push_back(static_cast<int32_t>(grid.columns.Extent(j)));
  }
  return "";
}

std::string CheckInt8Sums(const ColumnIndex& index) {
  constexpr int64_t kMaxRows = (int64_t{1} << 31) / (128 * 255);
  const int64_t height = index.grid.rows.block;
  if (index.max_entries == 0 || height <= kMaxRows / index.max_entries) return "";
  return "sums of int8 x over " + std::to_string(index.max_entries) + " blocks of height " + std::to_string(height) +
         " may exceed 32 bits: at most " + std::to_string(kMaxRows) + " rows are allowed, use x_dtype float32";
}

}  // namespace blocksparse
