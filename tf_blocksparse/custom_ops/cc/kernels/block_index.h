// The blocks of a matrix listed the way a product walks them, prepared once and used by every call.
//
// y = x W makes one block column of y after another, and for each needs the blocks of that column; they lie
// scattered in `blocks`, which is in block row order. dx = dy W^T makes one block row after another. Both are
// "for each output line, for each block of the line": one structure serves them, listed by column or by row.
#ifndef TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_
#define TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

namespace blocksparse {

// Entries that kernels may read past the end of a line's list, to prefetch blocks.
constexpr int kIndexPadding = 16;

struct BlockIndex {
  Grid grid;
  bool by_column = false;
  int64_t num_blocks = 0;

  // Line l owns entries start[l] .. start[l + 1]. Those before full_end[l] are full along the other axis, those
  // from there on lie at its ragged edge, where only grid axis EdgeExtent() features are real.
  std::vector<int32_t> start;
  std::vector<int32_t> full_end;
  std::vector<int32_t> offset;    // first feature of the entry's block on the other axis
  std::vector<int32_t> position;  // the block's place in `blocks`

  const Axis& line_axis() const { return by_column ? grid.columns : grid.rows; }
  const Axis& other_axis() const { return by_column ? grid.rows : grid.columns; }
};

// Copies, checks the copy and builds: a caller's array that changes meanwhile can give wrong numbers, but never
// an index outside of the matrix. Returns an empty string, or the text of an error.
std::string BuildBlockIndex(const Grid& grid, const int32_t* indptr, int64_t indptr_size,
                            const int32_t* indices, int64_t num_blocks, bool by_column, BlockIndex* index);

// Splits the lines into `parts` runs with about equal numbers of blocks; returns parts + 1 boundaries.
std::vector<int64_t> SplitLines(const BlockIndex& index, int64_t parts);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_BLOCK_INDEX_H_
