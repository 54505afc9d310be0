#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

#include <algorithm>

namespace blocksparse {
namespace {

// Counting sort of the blocks by line. Two passes put the full blocks of each line before its ragged ones.
void Fill(const std::vector<int32_t>& indptr, const std::vector<int32_t>& indices, BlockIndex* index) {
  const Axis& lines = index->line_axis();
  const Axis& other = index->other_axis();
  const int64_t grid_rows = index->grid.rows.lines;
  const bool ragged = other.ragged();
  const bool by_column = index->by_column;

  index->start.assign(lines.lines + 1, 0);
  if (by_column) {
    for (int32_t column : indices) ++index->start[column + 1];
    for (int64_t l = 0; l < lines.lines; ++l) index->start[l + 1] += index->start[l];
  } else {
    index->start = indptr;
  }
  index->full_end.assign(index->start.begin(), index->start.end() - 1);
  index->offset.assign(index->num_blocks + kIndexPadding, 0);
  index->position.assign(index->num_blocks + kIndexPadding, 0);

  std::vector<int32_t>& next = index->full_end;
  std::vector<int32_t> edges_next;
  for (const bool edges : {false, true}) {
    if (edges && !ragged) break;
    if (edges) edges_next = next;
    std::vector<int32_t>& place = edges ? edges_next : next;
    for (int64_t row = 0; row < grid_rows; ++row) {
      for (int32_t k = indptr[row]; k < indptr[row + 1]; ++k) {
        const int64_t line = by_column ? indices[k] : row;
        const int64_t cross = by_column ? row : indices[k];
        if ((other.Extent(cross) != other.block) != edges) continue;
        const int32_t at = place[line]++;
        index->offset[at] = static_cast<int32_t>(other.Offset(cross));
        index->position[at] = k;
      }
    }
  }
}

}  // namespace

std::string BuildBlockIndex(const Grid& grid, const int32_t* indptr, int64_t indptr_size,
                            const int32_t* indices, int64_t num_blocks, bool by_column,
                            BlockIndex* index) {
  const std::vector<int32_t> indptr_copy(indptr, indptr + indptr_size);
  const std::vector<int32_t> indices_copy(indices, indices + num_blocks);
  std::string error =
      CheckBsr(grid, indptr_copy.data(), indptr_size, indices_copy.data(), num_blocks);
  if (!error.empty()) return error;
  index->grid = grid;
  index->by_column = by_column;
  index->num_blocks = num_blocks;
  Fill(indptr_copy, indices_copy, index);
  return "";
}

std::vector<int64_t> SplitLines(const BlockIndex& index, int64_t parts) {
  std::vector<int64_t> bounds(parts + 1, 0);
  for (int64_t p = 1; p < parts; ++p) {
    const int64_t target = index.num_blocks * p / parts;
    const auto at = std::lower_bound(index.start.begin(), index.start.end(), target);
    bounds[p] = std::max<int64_t>(bounds[p - 1], at - index.start.begin());
    bounds[p] = std::min<int64_t>(bounds[p], index.line_axis().lines);
  }
  bounds[parts] = index.line_axis().lines;
  return bounds;
}

}  // namespace blocksparse
