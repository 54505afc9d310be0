// The blocks of a matrix listed the way a product walks them, prepared once and used by every call.
//
// y = x W makes one block column of y after another, and for each needs the blocks of that column; dx = dy W^T makes
// one block row after another. Both are "for each output line, for each block of the line": one structure serves
// them, listed by column or by row. Where the blocks are stored in the order of the walk, the list is the caller's own
// `indices`, and the index adds a few bytes a line; else it is 8 bytes a block.
#ifndef TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_
#define TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

namespace blocksparse {

// Entries of `position` that kernels may read past the end of a line's list, to prefetch blocks.
constexpr int kIndexPadding = 16;

struct BlockIndex {
  Grid grid;
  bool by_column = false;
  int64_t num_blocks = 0;
  int64_t max_entries = 0;  // the most of a line

  // Line l owns entries start[l] .. start[l + 1]. Those before full_end[l] are full along the other axis, those
  // from there on lie at its ragged edge, where only grid axis EdgeExtent() features are real.
  std::vector<int32_t> start;
  std::vector<int32_t> full_end;

  // First features of the entries' blocks on the other axis, and the blocks' places in `blocks`. Both are empty where
  // the blocks are stored in the order of the walk: entry e is block e, and `indices`, the caller's, says where it is.
  std::vector<int32_t> offset;
  std::vector<int32_t> position;
  const int32_t* indices = nullptr;

  const Axis& line_axis() const { return by_column ? grid.columns : grid.rows; }
  const Axis& other_axis() const { return by_column ? grid.rows : grid.columns; }
  bool in_stored_order() const { return indices != nullptr; }
  int64_t Position(int64_t entry) const { return in_stored_order() ? entry : position[entry]; }

  // First feature of the entry's block on the other axis; `full` says on which side of full_end the entry is. It is
  // inside of the matrix even where another thread has overwritten `indices` since they were checked.
  int64_t Offset(int64_t entry, bool full) const;
  // The offsets of the entries of the lines [first, end): written to `buffer`, one for each, in stored order.
  const int32_t* Offsets(int64_t first_line, int64_t end_line, int32_t* buffer) const;
};

// Checks and builds. `indices` must outlive the index; what it holds may change, which gives wrong numbers, but never
// an index outside of the matrix. Returns an empty string, or the text of an error.
std::string BuildBlockIndex(const Grid& grid, Order order, const int32_t* indptr, int64_t indptr_size,
                            const int32_t* indices, int64_t num_blocks, bool by_column, BlockIndex* index);

// Splits the lines into `parts` runs with about equal numbers of blocks; returns parts + 1 boundaries.
std::vector<int64_t> SplitLines(const BlockIndex& index, int64_t parts);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_
