#include "tests/cc/products.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "tests/cc/check.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace blocksparse_test {

using namespace blocksparse;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Of a sum of so many products of operands from the normal distribution: the largest error of the tests, a sum of 4
// standard deviations, is about half of this.
double Tolerance(int64_t terms) {
  return 48 * std::numeric_limits<float>::epsilon() * std::sqrt(static_cast<double>(std::max<int64_t>(terms, 1)));
}

double Tolerance(const BlockIndex& index) { return Tolerance(index.max_entries * index.other_axis().block); }

const char* Name(Pattern pattern) {
  switch (pattern) {
    case Pattern::kRandom:
      return "random";
    case Pattern::kBanded:
      return "banded";
    case Pattern::kEmptyLines:
      return "empty lines";
    case Pattern::kHeavyRow:
      return "heavy row";
    case Pattern::kHeavyColumn:
      return "heavy column";
  }
  return "?";
}

}  // namespace

const std::vector<std::pair<int64_t, int64_t>>& BlockShapes() {
  static const auto* shapes = new std::vector<std::pair<int64_t, int64_t>>{
      {1, 1},   {3, 5},  {4, 4},  {12, 2}, {8, 8},  {16, 16}, {32, 32}, {1, 16},  {16, 1},  {4, 16}, {64, 64},
      {8, 4},   {8, 32}, {2, 8},  {5, 16}, {12, 4}, {20, 8},  {1, 128}, {24, 12}, {7, 3},   {128, 128}};
  return *shapes;
}

Case MakeCase(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, int64_t batch, double density,
              Order order, Pattern pattern, Numbers numbers) {
  const std::string name = std::string(Name(pattern)) + (order == Order::kRow ? " rows " : " columns ") +
                           std::to_string(in) + "x" + std::to_string(out) + " gates " + std::to_string(gates) +
                           " blocks " + std::to_string(height) + "x" + std::to_string(width) + " batch " +
                           std::to_string(batch) + " density " + std::to_string(density);
  const uint32_t seed = static_cast<uint32_t>(height * 131 + width);
  return {name,
          PatternMatrix(pattern, in, out, gates, height, width, density, seed, numbers == Numbers::kIntegers, order),
          batch};
}

BlockIndex Index(const BsrMatrix& w, bool by_column) {
  BlockIndex index;
  const std::string error = BuildBlockIndex(w.grid, w.order, w.indptr.data(), w.indptr.size(), w.indices.data(),
                                            w.indices.size(), by_column, &index);
  CHECK_TRUE(error.empty(), error);
  return index;
}

Buffer::Buffer(int64_t size, bool aligned) : size_(size) {
  const int64_t skipped = aligned ? 0 : 1;
  if (posix_memalign(&memory_, 64, (size + skipped) * sizeof(float)) != 0) throw std::bad_alloc();
  data_ = static_cast<float*>(memory_) + skipped;
  std::fill_n(data_, size, kNaN);
}

Buffer::Buffer(const std::vector<float>& values, bool aligned) : Buffer(static_cast<int64_t>(values.size()), aligned) {
  std::copy(values.begin(), values.end(), data_);
}

Buffer::~Buffer() { std::free(memory_); }

std::vector<float> Product(const KernelTable& table, const BsrMatrix& w, const BlockIndex& index,
                           const std::vector<float>& x, int64_t batch, const RunOptions& options) {
  const ProductPlan plan = PlanProduct(table, index, batch, options.threads);
  Buffer given(x, options.aligned);
  Buffer blocks(w.blocks, options.aligned);
  Buffer workspace(plan.workspace_floats, true);
  Buffer y(batch * index.line_axis().features, options.aligned);
  RunProduct(plan, given.data(), blocks.data(), options.epilogue, y.data(), workspace.data(), ThreadedFor);
  return y.values();
}

std::vector<float> Grad(const KernelTable& table, const BsrMatrix& w, const BlockIndex& index,
                        const std::vector<float>& x, const std::vector<float>& dy, int64_t batch,
                        const RunOptions& options) {
  const GradPlan plan = PlanGrad(table, index, batch, options.threads);
  Buffer given(x, options.aligned);
  Buffer above(dy, options.aligned);
  Buffer workspace(plan.workspace_floats, true);
  Buffer dblocks(static_cast<int64_t>(w.blocks.size()), options.aligned);
  RunGrad(plan, given.data(), above.data(), dblocks.data(), workspace.data(), ThreadedFor);
  return dblocks.values();
}

void Compare(const std::string& what, const std::vector<float>& got, const std::vector<double>& expected,
             double tolerance) {
  CHECK_EQUAL(got.size(), expected.size());
  if (got.size() != expected.size()) return;
  const int64_t at = FirstDifference(got, expected, tolerance);
  const std::string values = at < 0 ? ""
                                    : ": element " + std::to_string(at) + " is " + std::to_string(got[at]) +
                                          ", expected " + std::to_string(expected[at]);
  CHECK_TRUE(at < 0, what + values);
}

int CheckProducts(const Case& c, Numbers numbers) {
  const int64_t in = c.w.grid.rows.features;
  const int64_t out = c.w.grid.columns.features;
  const bool floats = numbers == Numbers::kFloats;
  const auto random = floats ? RandomFloats : RandomIntegers;
  const std::vector<float> x = random(c.batch * in, 7);
  const std::vector<float> dy = random(c.batch * out, 8);
  const std::vector<double> y = ReferenceProduct(c.w, x, c.batch);
  const std::vector<double> dx = ReferenceGradX(c.w, dy, c.batch);
  const std::vector<double> dblocks = ReferenceGradBlocks(c.w, x, dy, c.batch);
  const BlockIndex by_column = Index(c.w, true);
  const BlockIndex by_row = Index(c.w, false);
  int split = 0;
  for (const KernelTable* table : SupportedTables()) {
    for (int64_t threads : {1, 2, 3}) {
      const std::string what = c.name + " " + table->isa + " threads " + std::to_string(threads);
      const RunOptions options = {threads};
      const auto runs = [&](int64_t workers) {
        split += workers > 1;
        return threads == 1 || workers > 1;
      };
      if (runs(PlanProduct(*table, by_column, c.batch, threads).workers)) {
        Compare(what + " y", Product(*table, c.w, by_column, x, c.batch, options), y,
                floats ? Tolerance(by_column) : 0);
      }
      if (runs(PlanProduct(*table, by_row, c.batch, threads).workers)) {
        Compare(what + " dx", Product(*table, c.w, by_row, dy, c.batch, options), dx, floats ? Tolerance(by_row) : 0);
      }
      if (runs(PlanGrad(*table, by_row, c.batch, threads).workers)) {
        Compare(what + " dblocks", Grad(*table, c.w, by_row, x, dy, c.batch, options), dblocks,
                floats ? Tolerance(c.batch) : 0);
      }
    }
  }
  return split;
}

}  // namespace blocksparse_test
