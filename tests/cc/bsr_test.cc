#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

#include <vector>

#include "tests/cc/check.h"

namespace {

using blocksparse::CheckBsr;
using blocksparse::Grid;
using blocksparse::MakeGrid;
using blocksparse::Order;

void GridCoversRaggedGates() {
  Grid grid;
  CHECK_EQUAL(MakeGrid(10, 21, 3, 4, 4, &grid).size(), 0u);
  CHECK_EQUAL(grid.rows.lines, 3);
  CHECK_EQUAL(grid.rows.Extent(2), 2);
  CHECK_EQUAL(grid.columns.lines, 6);     // 7 columns a gate: a full block and 3 columns
  CHECK_EQUAL(grid.columns.Offset(3), 11);
  CHECK_EQUAL(grid.columns.Extent(3), 3);
  CHECK_EQUAL(grid.columns.Offset(4), 14);
  CHECK_EQUAL(grid.columns.Extent(4), 4);
  CHECK_TRUE(grid.columns.ragged(), "columns are ragged");
}

void GridRefusesSizes() {
  Grid grid;
  CHECK_CONTAINS(MakeGrid(0, 8, 1, 4, 4, &grid), "in_features must be from 1 to 2147483647, got 0");
  CHECK_CONTAINS(MakeGrid(8, int64_t{1} << 31, 1, 4, 4, &grid), "out_features must be from 1 to 2147483647");
  CHECK_CONTAINS(MakeGrid(8, 8, 0, 4, 4, &grid), "gates must be from 1");
  CHECK_CONTAINS(MakeGrid(8, 8, 1, 0, 4, &grid), "block height must be from 1");
  CHECK_CONTAINS(MakeGrid(8, 8, 1, 4, -1, &grid), "block width must be from 1");
  CHECK_CONTAINS(MakeGrid(8, 8, 3, 4, 4, &grid), "multiple of gates, got out_features = 8 and gates = 3");
}

std::string Check(const std::vector<int32_t>& indptr, const std::vector<int32_t>& indices) {
  Grid grid;
  MakeGrid(8, 12, 1, 4, 4, &grid);  // 2 x 3 blocks
  return CheckBsr(grid, Order::kRow, indptr.data(), indptr.size(), indices.data(), indices.size());
}

void BadIndicesAreNamed() {
  CHECK_EQUAL(Check({0, 2, 3}, {0, 2, 1}).size(), 0u);
  CHECK_EQUAL(Check({0, 0, 0}, {}).size(), 0u);
  CHECK_CONTAINS(Check({0, 3}, {0, 1, 2}), "indptr must have 3 elements");
  CHECK_CONTAINS(Check({1, 2, 3}, {0, 2, 1}), "indptr[0] must be 0, got 1");
  CHECK_CONTAINS(Check({0, 2, 1}, {0}), "indptr[1] = 2 and indptr[2] = 1");
  CHECK_CONTAINS(Check({0, 2, 9}, {0, 2, 1}), "must end at the number of blocks, 3, got indptr[2] = 9");
  CHECK_CONTAINS(Check({0, 1000000, 3}, {0, 2, 1}), "indptr[1] = 1000000 and indptr[2] = 3");
  CHECK_CONTAINS(Check({0, -1, 3}, {0, 2, 1}), "indptr[1] = -1");
  CHECK_CONTAINS(Check({0, 2, 3}, {0, 3, 1}), "indices[1] = 3 is not in [0, 3)");
  CHECK_CONTAINS(Check({0, 2, 3}, {-1, 2, 1}), "indices[0] = -1 is not in [0, 3)");
  CHECK_CONTAINS(Check({0, 2, 3}, {2, 2, 1}), "indices[0] = 2 and indices[1] = 2 in block row 0");
}

void ColumnOrderIsCheckedAlongColumns() {
  Grid grid;
  MakeGrid(8, 12, 1, 4, 4, &grid);
  const auto check = [&](const std::vector<int32_t>& indptr, const std::vector<int32_t>& indices) {
    return CheckBsr(grid, Order::kColumn, indptr.data(), indptr.size(), indices.data(), indices.size());
  };
  CHECK_EQUAL(check({0, 2, 2, 3}, {0, 1, 1}).size(), 0u);
  CHECK_CONTAINS(check({0, 2, 3}, {0, 1, 1}), "indptr must have 4 elements (block columns + 1, for 12 output features");
  CHECK_CONTAINS(check({0, 2, 2, 3}, {0, 2, 1}), "indices[1] = 2 is not in [0, 2), the block rows");
  CHECK_CONTAINS(check({0, 2, 2, 3}, {1, 0, 1}), "strictly increase within a block column");
}

}  // namespace

int main() {
  GridCoversRaggedGates();
  GridRefusesSizes();
  BadIndicesAreNamed();
  ColumnOrderIsCheckedAlongColumns();
  return blocksparse_test::Finish();
}
