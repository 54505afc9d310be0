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

std::string CheckBsr(const Grid& grid, Order order, const int32_t* indptr, int64_t indptr_size,
                     const int32_t* indices, int64_t num_blocks) {
  const bool by_row = order == Order::kRow;
  const Axis& axis = by_row ? grid.rows : grid.columns;
  const int64_t lines = axis.lines;
  const int64_t cross_lines = by_row ? grid.columns.lines : grid.rows.lines;
  const std::string line_name = by_row ? "block row" : "block column";
  const std::string cross_name = by_row ? "block columns" : "block rows";
  if (num_blocks > kMaxSize) {
    return "there may be at most " + Text(kMaxSize) + " blocks, got " + Text(num_blocks);
  }
  if (indptr_size != lines + 1) {
    return "indptr must have " + Text(lines + 1) + " elements (" + line_name + "s + 1, for " + Text(axis.features) +
           (by_row ? " input features in blocks of height " : " output features in blocks of width ") +
           Text(axis.block) + "), got " + Text(indptr_size);
  }
  if (indptr[0] != 0) return "indptr[0] must be 0, got " + Text(indptr[0]);
  for (int64_t line = 0; line < lines; ++line) {
    if (indptr[line + 1] < indptr[line]) {
      return "indptr must not decrease, got indptr[" + Text(line) + "] = " + Text(indptr[line]) + " and indptr[" +
             Text(line + 1) + "] = " + Text(indptr[line + 1]);
    }
  }
  if (indptr[lines] != num_blocks) {
    return "indptr must end at the number of blocks, " + Text(num_blocks) + ", got indptr[" + Text(lines) +
           "] = " + Text(indptr[lines]);
  }
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t k = indptr[line]; k < indptr[line + 1]; ++k) {
      if (indices[k] < 0 || indices[k] >= cross_lines) {
        return "indices[" + Text(k) + "] = " + Text(indices[k]) + " is not in [0, " + Text(cross_lines) + "), the " +
               cross_name + " of the matrix";
      }
      if (k > indptr[line] && indices[k] <= indices[k - 1]) {
        return "indices must strictly increase within a " + line_name + ", got indices[" + Text(k - 1) +
               "] = " + Text(indices[k - 1]) + " and indices[" + Text(k) + "] = " + Text(indices[k]) + " in " +
               line_name + " " + Text(line);
      }
    }
  }
  return "";
}

}  // namespace blocksparse
