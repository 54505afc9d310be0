#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"

namespace {

using blocksparse::BlockIndex;
using blocksparse::BsrMatrix;
using blocksparse::Order;
using blocksparse_test::RandomMatrix;

BlockIndex Build(const BsrMatrix& w, bool by_column) {
  BlockIndex index;
  const std::string error = BuildBlockIndex(w.grid, w.order, w.indptr.data(), w.indptr.size(), w.indices.data(),
                                            w.indices.size(), by_column, &index);
  CHECK_TRUE(error.empty(), error);
  return index;
}

// Every block is listed once, under its line, with its offset, and the ragged ones last.
void ListsEveryBlock(const BsrMatrix& w, bool by_column) {
  const BlockIndex index = Build(w, by_column);
  std::set<int64_t> seen;
  std::vector<int32_t> buffer(index.num_blocks);
  const int32_t* offsets = index.Offsets(0, index.line_axis().lines, buffer.data());
  for (int64_t line = 0; line < index.line_axis().lines; ++line) {
    for (int32_t e = index.start[line]; e < index.start[line + 1]; ++e) {
      const int64_t k = index.Position(e);
      CHECK_TRUE(seen.insert(k).second, "block listed twice");
      int64_t stored_line = 0;
      while (w.indptr[stored_line + 1] <= k) ++stored_line;
      const bool across = by_column != (w.order == blocksparse::Order::kColumn);
      const int64_t cross = across ? stored_line : w.indices[k];
      CHECK_EQUAL(line, across ? w.indices[k] : stored_line);
      const bool full = index.other_axis().Extent(cross) == index.other_axis().block;
      CHECK_EQUAL(full, e < index.full_end[line]);
      CHECK_EQUAL(index.Offset(e, full), index.other_axis().Offset(cross));
      CHECK_EQUAL(int64_t{offsets[e]}, index.other_axis().Offset(cross));
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

// Indices that change after they were checked name wrong blocks, but never one outside of the matrix.
void OverwrittenIndicesStayInside() {
  for (int64_t in : {36, 37}) {  // blocks fit; the last block row is ragged
    BsrMatrix w = RandomMatrix(in, 60, 3, 4, 4, 1.0, 1, true, Order::kColumn);
    const BlockIndex index = Build(w, true);
    std::vector<int32_t> buffer(index.num_blocks);
    for (int32_t value : {-1, INT32_MIN, INT32_MAX, 1 << 30, 9, 10}) {
      std::fill(w.indices.begin(), w.indices.end(), value);
      const int32_t* offsets = index.Offsets(0, index.line_axis().lines, buffer.data());
      for (int64_t line = 0; line < index.line_axis().lines; ++line) {
        for (int32_t e = index.start[line]; e < index.start[line + 1]; ++e) {
          const bool full = e < index.full_end[line];
          const int64_t extent = full ? 4 : index.other_axis().EdgeExtent();
          CHECK_TRUE(offsets[e] >= 0 && offsets[e] + extent <= in, "an offset outside of the matrix");
          CHECK_EQUAL(int64_t{offsets[e]}, index.Offset(e, full));
        }
      }
    }
  }
}

// The walk in stored order costs memory by the line, not by the block.
void StoredOrderNeedsNoListOfBlocks() {
  const BsrMatrix w = RandomMatrix(512, 512, 4, 8, 8, 0.5, 5, true, Order::kColumn);
  CHECK_TRUE(Build(w, true).in_stored_order(), "the forward product reads blocks as they lie");
  CHECK_EQUAL(Build(w, true).position.size() + Build(w, true).offset.size(), 0u);
  CHECK_TRUE(!Build(w, false).in_stored_order(), "the other walk has a list");
}

}  // namespace

int main() {
  for (int64_t gates : {1, 3, 4}) {
    for (double density : {-1.0, 0.0, 0.1, 0.5, 1.0}) {
      for (bool by_column : {false, true}) {
        for (Order order : {Order::kRow, Order::kColumn}) {
          ListsEveryBlock(RandomMatrix(37, 60, gates, 4, 4, density, 1, true, order), by_column);
          ListsEveryBlock(RandomMatrix(35, 84, gates, 5, 3, density, 2, true, order), by_column);
          ListsEveryBlock(RandomMatrix(3, 12, gates, 16, 16, density, 3, true, order), by_column);
        }
      }
    }
  }
  SplitsBalance();
  OverwrittenIndicesStayInside();
  StoredOrderNeedsNoListOfBlocks();
  return blocksparse_test::Finish();
}
