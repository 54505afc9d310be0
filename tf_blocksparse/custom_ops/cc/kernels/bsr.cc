#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

#include <limits>

namespace blocksparse {
namespace {

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();

std::string Text(int64_t value) { return std::to_string(value); }

std::string CheckSize(const char* name, int64_t value) {
  if (value >= 1 && value <= kMaxSize) return "";
  return std::string(name) + " must be from 1 to " + Text(kMaxSize) + ", got " + Text(value);
}

Axis MakeAxis(int64_t features, int64_t gates, int64_t block) {
  Axis axis;
  axis.features = features;
  axis.block = block;
  axis.gates = gates;
  axis.gate_features = features / gates;
  axis.gate_lines = (axis.gate_features + block - 1) / block;
  axis.lines = gates * axis.gate_lines;
  return axis;
}

}  // namespace

std::string MakeGrid(int64_t in_features, int64_t out_features, int64_t gates, int64_t block_height,
                     int64_t block_width, Grid* grid) {
  std::string error = CheckSize("in_features", in_features);
  if (error.empty()) error = CheckSize("out_features", out_features);
  if (error.empty()) error = CheckSize("gates", gates);
  if (error.empty()) error = CheckSize("block height", block_height);
  if (error.empty()) error = CheckSize("block width", block_width);
  if (!error.empty()) return error;
  if (out_features % gates != 0) {
    return "out_features must be a multiple of gates, got out_features = " + Text(out_features) +
           " and gates = " + Text(gates);
  }
  grid->rows = MakeAxis(in_features, 1, block_height);
  grid->columns = MakeAxis(out_features, gates, block_width);
  return "";
}

std::string CheckBsr(const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                     int64_t num_blocks) {
  const int64_t grid_rows = grid.rows.lines;
  const int64_t grid_cols = grid.columns.lines;
  if (num_blocks > kMaxSize) {
    return "there may be at most " + Text(kMaxSize) + " blocks, got " + Text(num_blocks);
  }
  if (indptr_size != grid_rows + 1) {
    return "indptr must have " + Text(grid_rows + 1) + " elements (block rows + 1, for " +
           Text(grid.rows.features) + " input features in blocks of height " + Text(grid.rows.block) +
           "), got " + Text(indptr_size);
  }
  if (indptr[0] != 0) return "indptr[0] must be 0, got " + Text(indptr[0]);
  for (int64_t row = 0; row < grid_rows; ++row) {
    if (indptr[row + 1] < indptr[row]) {
      return "indptr must not decrease, got indptr[" + Text(row) + "] = " + Text(indptr[row]) +
             " and indptr[" + Text(row + 1) + "] = " + Text(indptr[row + 1]);
    }
  }
  if (indptr[grid_rows] != num_blocks) {
    return "indptr must end at the number of blocks, " + Text(num_blocks) + ", got indptr[" +
           Text(grid_rows) + "] = " + Text(indptr[grid_rows]);
  }
  for (int64_t row = 0; row < grid_rows; ++row) {
    for (int64_t k = indptr[row]; k < indptr[row + 1]; ++k) {
      if (indices[k] < 0 || indices[k] >= grid_cols) {
        return "indices[" + Text(k) + "] = " + Text(indices[k]) + " is not in [0, " + Text(grid_cols) +
               "), the block columns of the matrix";
      }
      if (k > indptr[row] && indices[k] <= indices[k - 1]) {
        return "indices must strictly increase within a block row, got indices[" + Text(k - 1) +
               "] = " + Text(indices[k - 1]) + " and indices[" + Text(k) + "] = " + Text(indices[k]) +
               " in block row " + Text(row);
      }
    }
  }
  return "";
}

}  // namespace blocksparse
