#include <algorithm>
#include <limits>

#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

namespace blocksparse {
namespace {

std::string Text(int64_t value) { return std::to_string(value); }

std::string CheckIndptr(const Grid& grid, const std::vector<int32_t>& indptr, int64_t num_blocks) {
  const int64_t columns = grid.columns.lines;
  if (indptr[0] != 0) return "indptr[0] must be 0, got " + Text(indptr[0]);
  for (int64_t j = 0; j < columns; ++j) {
    if (indptr[j + 1] < indptr[j]) {
      return "indptr must not decrease, got indptr[" + Text(j) + "] = " + Text(indptr[j]) + " and indptr[" +
             Text(j + 1) + "] = " + Text(indptr[j + 1]);
    }
  }
  if (indptr[columns] == num_blocks) return "";
  return "indptr must end at the number of blocks, " + Text(num_blocks) + ", got indptr[" + Text(columns) +
         "] = " + Text(indptr[columns]);
}

// Reads each index once, since it may change meanwhile; `last` becomes the last block row of the column.
std::string CheckColumn(const Grid& grid, int64_t column, const int32_t* indices, int64_t first, int64_t end,
                        int64_t* last) {
  *last = -1;
  for (int64_t k = first; k < end; ++k) {
    const int64_t row = __atomic_load_n(indices + k, __ATOMIC_RELAXED);
    if (row < 0 || row >= grid.rows.lines) {
      return "indices[" + Text(k) + "] = " + Text(row) + " is not in [0, " + Text(grid.rows.lines) +
             "), the block rows of the matrix";
    }
    if (row <= *last) {
      return "indices must strictly increase within a block column, got indices[" + Text(k - 1) +
             "] = " + Text(*last) + " and indices[" + Text(k) + "] = " + Text(row) + " in block column " +
             Text(column);
    }
    *last = row;
  }
  return "";
}

}  // namespace

std::string BuildColumnIndex(const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                             int64_t num_blocks, ColumnIndex* index) {
  const int64_t columns = grid.columns.lines;
  constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max();
  if (num_blocks > kMaxBlocks) return "there may be at most " + Text(kMaxBlocks) + " blocks, got " + Text(num_blocks);
  if (indptr_size != columns + 1) {
    return "indptr must have " + Text(columns + 1) + " elements (block columns + 1, for " +
           Text(grid.columns.features) + " output features in blocks of width " + Text(grid.columns.block) +
           " and " + Text(grid.columns.gates) + " gates), got " + Text(indptr_size);
  }
  index->grid = grid;
  index->num_blocks = num_blocks;
  index->start.assign(indptr, indptr + indptr_size);
  std::string error = CheckIndptr(grid, index->start, num_blocks);
  if (!error.empty()) return error;
  index->full_end.resize(columns);
  index->y_offset.resize(columns);
  index->extent.resize(columns);
  index->most_blocks = 0;
  for (int64_t j = 0; j < columns; ++j) {
    const int64_t first = index->start[j];
    const int64_t end = index->start[j + 1];
    int64_t last;
    error = CheckColumn(grid, j, indices, first, end, &last);
    if (!error.empty()) return error;
    // The block row at the edge comes last in its column, if it is there at all.
    const bool edge = grid.rows.ragged() && last == grid.rows.lines - 1;
    index->full_end[j] = static_cast<int32_t>(end - edge);
    index->y_offset[j] = static_cast<int32_t>(grid.columns.Offset(j));
    index->extent[j] = static_cast<int32_t>(grid.columns.Extent(j));
    index->most_blocks = std::max(index->most_blocks, end - first);
  }
  return "";
}

std::string CheckInt8Sums(const ColumnIndex& index) {
  constexpr int64_t kMaxRows = (int64_t{1} << 31) / (128 * 255);
  const int64_t height = index.grid.rows.block;
  if (index.most_blocks == 0 || height <= kMaxRows / index.most_blocks) return "";
  return "sums of int8 x over " + Text(index.most_blocks) + " blocks of height " + Text(height) +
         " may exceed 32 bits: at most " + Text(kMaxRows) + " rows are allowed, use x_dtype float32";
}

}  // namespace blocksparse
