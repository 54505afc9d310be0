#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

#include <set>
#include <utility>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"

namespace {

using blocksparse::BlockIndex;
using blocksparse::BsrMatrix;
using blocksparse_test::RandomMatrix;

BlockIndex Build(const BsrMatrix& w, bool by_column) {
  BlockIndex index;
  const std::string error = BuildBlockIndex(w.grid, w.indptr.data(), w.indptr.size(), w.indices.data(),
                                            w.indices.size(), by_column, &index);
  CHECK_TRUE(error.empty(), error);
  return index;
}

// Every block is listed once, under its line, with its offset, and the ragged ones last.
void ListsEveryBlock(const BsrMatrix& w, bool by_column) {
  const BlockIndex index = Build(w, by_column);
  std::set<int32_t> seen;
  for (int64_t line = 0; line < index.line_axis().lines; ++line) {
    for (int32_t e = index.start[line]; e < index.start[line + 1]; ++e) {
      const int32_t k = index.position[e];
      CHECK_TRUE(seen.insert(k).second, "block listed twice");
      int64_t row = 0;
      while (w.indptr[row + 1] <= k) ++row;
      const int64_t column = w.indices[k];
      const int64_t cross = by_column ? row : column;
      CHECK_EQUAL(line, by_column ? column : row);
      CHECK_EQUAL(int64_t{index.offset[e]}, index.other_axis().Offset(cross));
      const bool full = index.other_axis().Extent(cross) == index.other_axis().block;
      CHECK_EQUAL(full, e < index.full_end[line]);
    }
  }
  CHECK_EQUAL(seen.size(), w.indices.size());
}

void SplitsBalance() {
  const BsrMatrix w = RandomMatrix(512, 512, 1, 8, 8, 0.3, 5);
  const BlockIndex index = Build(w, true);
  for (int64_t parts : {1, 2, 3, 7, 64, 100}) {
    const std::vector<int64_t> bounds = SplitLines(index, parts);
    CHECK_EQUAL(bounds.front(), 0);
    CHECK_EQUAL(bounds.back(), index.line_axis().lines);
    for (int64_t p = 0; p < parts; ++p) {
      CHECK_TRUE(bounds[p] <= bounds[p + 1], "bounds rise");
      if (parts > 3) continue;
      const int64_t blocks = index.start[bounds[p + 1]] - index.start[bounds[p]];
      CHECK_TRUE(blocks <= index.num_blocks / parts + 64, "a part has too many blocks");
    }
  }
}

}  // namespace

int main() {
  for (int64_t gates : {1, 3, 4}) {
    for (double density : {-1.0, 0.0, 0.1, 0.5, 1.0}) {
      for (bool by_column : {false, true}) {
        ListsEveryBlock(RandomMatrix(37, 60, gates, 4, 4, density, 1), by_column);
        ListsEveryBlock(RandomMatrix(35, 84, gates, 5, 3, density, 2), by_column);
        ListsEveryBlock(RandomMatrix(3, 12, gates, 16, 16, density, 3), by_column);
      }
    }
  }
  SplitsBalance();
  return blocksparse_test::Finish();
}
