// What the products read and write: buffers that are not aligned, and NaN, which shows where a number went.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Case Ragged(int64_t height, int64_t width, int64_t batch, Order order) {
  return MakeCase(5 * height + height / 2, 2 * (3 * width + width / 3), 2, height, width, batch, 0.5, order);
}

// The products of c with operands `x` and `dy`, against the loops; both agree on where NaN is.
void CheckWith(const Case& c, const std::vector<float>& x, const std::vector<float>& dy, bool aligned) {
  const std::vector<double> y = ReferenceProduct(c.w, x, c.batch);
  const std::vector<double> dx = ReferenceGradX(c.w, dy, c.batch);
  const std::vector<double> dblocks = ReferenceGradBlocks(c.w, x, dy, c.batch);
  const BlockIndex by_column = Index(c.w, true);
  const BlockIndex by_row = Index(c.w, false);
  RunOptions options;
  options.aligned = aligned;
  for (const KernelTable* table : SupportedTables()) {
    const std::string what = c.name + " " + table->isa + (aligned ? " aligned" : " unaligned");
    Compare(what + " y", Product(*table, c.w, by_column, x, c.batch, options), y);
    Compare(what + " dx", Product(*table, c.w, by_row, dy, c.batch, options), dx);
    Compare(what + " dblocks", Grad(*table, c.w, by_row, x, dy, c.batch, options), dblocks);
  }
}

std::vector<float> Inputs(const Case& c) { return RandomIntegers(c.batch * c.w.grid.rows.features, 7); }
std::vector<float> Outputs(const Case& c) { return RandomIntegers(c.batch * c.w.grid.columns.features, 8); }

void UnalignedBuffers(const Case& c) {
  for (bool aligned : {true, false}) CheckWith(c, Inputs(c), Outputs(c), aligned);
}

int64_t CountNaN(const std::vector<double>& values, int64_t first, int64_t end) {
  int64_t count = 0;
  for (int64_t i = first; i < end; ++i) count += std::isnan(values[i]);
  return count;
}

// One NaN in x and one in dy reach what they are multiplied into and nothing else: no other row of the batch that
// shares a tile with it, no other block. The NaN that lie around the ragged edges of W reach nothing, ever.
void NaNStaysWhereItBelongs(const Case& c) {
  const int64_t in = c.w.grid.rows.features;
  const int64_t out = c.w.grid.columns.features;
  for (int64_t row : {int64_t{0}, c.batch / 2, c.batch - 1}) {
    std::vector<float> x = Inputs(c);
    std::vector<float> dy = Outputs(c);
    x[row * in + in - 1] = kNaN;  // the feature at the ragged edge
    dy[row * out + out / 2] = kNaN;
    const std::vector<double> y = ReferenceProduct(c.w, x, c.batch);
    CHECK_TRUE(CountNaN(y, 0, c.batch * out) == CountNaN(y, row * out, (row + 1) * out), "the loops keep rows apart");
    CheckWith(c, x, dy, true);
  }
}

// The last feature of x is used, so that its NaN shows.
void NaNIsSeen() {
  const Case c = MakeCase(10, 12, 1, 4, 4, 3, 1.0);
  std::vector<float> x = Inputs(c);
  x[2 * 10 + 9] = kNaN;
  const std::vector<double> y = ReferenceProduct(c.w, x, 3);
  CHECK_EQUAL(CountNaN(y, 0, 24), 0);
  CHECK_EQUAL(CountNaN(y, 24, 36), 12);
  CheckWith(c, x, Outputs(c), true);
}

// 0 * NaN is NaN: a stored block is multiplied, whatever it holds.
void InfinityAndZeroMakeNaN() {
  Case c = MakeCase(16, 16, 1, 4, 4, 5, 1.0);
  std::fill(c.w.blocks.begin(), c.w.blocks.end(), 0.0f);
  std::vector<float> x = Inputs(c);
  x[16] = std::numeric_limits<float>::infinity();
  CHECK_EQUAL(CountNaN(ReferenceProduct(c.w, x, 5), 0, 80), 16);
  CheckWith(c, x, Outputs(c), true);
}

}  // namespace

int main() {
  for (const auto& [height, width] : BlockShapes()) {
    Sample sample("memory " + std::to_string(height) + "x" + std::to_string(width));
    for (int64_t batch : {1, 2, 5, 8, 16, 37, 70}) {
      if (height * width > 64 * 64 && batch > 16) continue;
      for (Order order : {Order::kRow, Order::kColumn}) {
        if (!sample.Takes()) continue;
        const Case c = Ragged(height, width, batch, order);
        UnalignedBuffers(c);
        NaNStaysWhereItBelongs(c);
      }
    }
  }
  NaNIsSeen();
  InfinityAndZeroMakeNaN();
  return Finish();
}
