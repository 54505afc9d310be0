#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

#include <algorithm>

namespace blocksparse {
namespace {

// Whether features of the other axis are a multiple of the line's number, and a line's ragged block is its last.
bool Regular(const Axis& other) { return other.gates == 1 || !other.ragged(); }

// The caller's list is the walk. `checked` is the copy of its indices that was checked.
void Borrow(const std::vector<int32_t>& indptr, const std::vector<int32_t>& checked, const int32_t* indices,
            BlockIndex* index) {
  const Axis& other = index->other_axis();
  index->start = indptr;
  index->indices = indices;
  index->full_end.assign(indptr.begin() + 1, indptr.end());
  if (!other.ragged()) return;
  for (size_t l = 0; l < index->full_end.size(); ++l) {
    int32_t* end = &index->full_end[l];
    if (*end > indptr[l] && checked[*end - 1] == other.lines - 1) --*end;
  }
}

// Starts of the lines when the blocks are stored across them.
std::vector<int32_t> CountLines(const std::vector<int32_t>& indices, int64_t lines) {
  std::vector<int32_t> start(lines + 1, 0);
  for (int32_t line : indices) ++start[line + 1];
  for (int64_t l = 0; l < lines; ++l) start[l + 1] += start[l];
  return start;
}

// Counting sort of the blocks by line. Two passes put the full blocks of each line before its ragged ones.
void Sort(const std::vector<int32_t>& indptr, const std::vector<int32_t>& indices, bool across, BlockIndex* index) {
  const Axis& other = index->other_axis();
  index->start = across ? CountLines(indices, index->line_axis().lines) : indptr;
  index->full_end.assign(index->start.begin(), index->start.end() - 1);
  index->offset.assign(index->num_blocks, 0);
  index->position.assign(index->num_blocks + kIndexPadding, 0);
  std::vector<int32_t> edges_next;
  for (const bool edges : {false, true}) {
    if (edges && !other.ragged()) break;
    if (edges) edges_next = index->full_end;
    std::vector<int32_t>& place = edges ? edges_next : index->full_end;
    for (size_t stored = 0; stored + 1 < indptr.size(); ++stored) {
      for (int32_t k = indptr[stored]; k < indptr[stored + 1]; ++k) {
        const int64_t line = across ? indices[k] : static_cast<int64_t>(stored);
        const int64_t cross = across ? static_cast<int64_t>(stored) : indices[k];
        if ((other.Extent(cross) != other.block) != edges) continue;
        const int32_t at = place[line]++;
        index->offset[at] = static_cast<int32_t>(other.Offset(cross));
        index->position[at] = k;
      }
    }
  }
}

}  // namespace

std::string BuildBlockIndex(const Grid& grid, Order order, const int32_t* indptr, int64_t indptr_size,
                            const int32_t* indices, int64_t num_blocks, bool by_column, BlockIndex* index) {
  // Both are checked as copies, so that what was checked is what is built from.
  const std::vector<int32_t> indptr_copy(indptr, indptr + indptr_size);
  const std::vector<int32_t> indices_copy(indices, indices + num_blocks);
  std::string error = CheckBsr(grid, order, indptr_copy.data(), indptr_size, indices_copy.data(), num_blocks);
  if (!error.empty()) return error;
  index->grid = grid;
  index->by_column = by_column;
  index->num_blocks = num_blocks;
  const bool across = by_column != (order == Order::kColumn);
  if (!across && Regular(index->other_axis())) {
    Borrow(indptr_copy, indices_copy, indices, index);
  } else {
    Sort(indptr_copy, indices_copy, across, index);
  }
  for (size_t l = 0; l + 1 < index->start.size(); ++l) {
    index->max_entries = std::max<int64_t>(index->max_entries, index->start[l + 1] - index->start[l]);
  }
  return "";
}

int64_t BlockIndex::Offset(int64_t entry, bool full) const {
  if (!in_stored_order()) return offset[entry];
  const Axis& other = other_axis();
  if (!full) return (other.lines - 1) * other.block;
  // A full entry is not the ragged line, which is the last.
  const uint32_t limit = static_cast<uint32_t>(std::max<int64_t>(other.lines - 1 - other.ragged(), 0));
  const uint32_t line = static_cast<uint32_t>(indices[entry]);
  return int64_t{line < limit ? line : limit} * other.block;
}

const int32_t* BlockIndex::Offsets(int64_t first_line, int64_t end_line, int32_t* buffer) const {
  const int64_t first = start[first_line];
  if (!in_stored_order()) return offset.data() + first;
  const Axis& other = other_axis();
  const uint32_t limit = static_cast<uint32_t>(std::max<int64_t>(other.lines - 1 - other.ragged(), 0));
  const uint32_t scale = static_cast<uint32_t>(other.block);
  const int64_t count = start[end_line] - first;
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t line = static_cast<uint32_t>(indices[first + k]);
    buffer[k] = static_cast<int32_t>((line < limit ? line : limit) * scale);
  }
  if (!other.ragged()) return buffer;
  for (int64_t line = first_line; line < end_line; ++line) {
    for (int64_t k = full_end[line]; k < start[line + 1]; ++k) {
      buffer[k - first] = static_cast<int32_t>(Offset(k, false));
    }
  }
  return buffer;
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
