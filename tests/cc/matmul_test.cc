// All three products against plain loops: block shapes, ragged sides, gates, batch sizes, densities, instruction
// sets, threads. Operands are small integers, so that every result is exact and must be equal.
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Case {
  std::string name;
  BsrMatrix w;
  int64_t batch;
};

BlockIndex Index(const BsrMatrix& w, bool by_column) {
  BlockIndex index;
  const std::string error = BuildBlockIndex(w.grid, w.order, w.indptr.data(), w.indptr.size(), w.indices.data(),
                                            w.indices.size(), by_column, &index);
  CHECK_TRUE(error.empty(), error);
  return index;
}

// Plans for small matrices use one thread; the tests must also see the work split.
template <typename Plan>
bool Threads(const Plan& plan) {
  return plan.workers > 1;
}

int threaded_runs = 0;

// Every buffer is exactly as large as it has to be and starts as NaN: what is not written shows, and what is read
// or written outside is for AddressSanitizer to see.
std::vector<float> Product(const KernelTable& table, const BsrMatrix& w, const BlockIndex& index,
                           const std::vector<float>& x, int64_t batch, int64_t threads) {
  const ProductPlan plan = PlanProduct(table, index, batch, threads);
  threaded_runs += Threads(plan);
  std::vector<float> workspace(plan.workspace_floats, kNaN);
  std::vector<float> y(batch * index.line_axis().features, kNaN);
  RunProduct(plan, x.data(), w.blocks.data(), Epilogue(), y.data(), workspace.data(), ThreadedFor);
  return y;
}

std::vector<float> Grad(const KernelTable& table, const BsrMatrix& w, const BlockIndex& index,
                        const std::vector<float>& x, const std::vector<float>& dy, int64_t batch,
                        int64_t threads) {
  const GradPlan plan = PlanGrad(table, index, batch, threads);
  threaded_runs += Threads(plan);
  std::vector<float> workspace(plan.workspace_floats, kNaN);
  std::vector<float> dblocks(w.blocks.size(), kNaN);
  RunGrad(plan, x.data(), dy.data(), dblocks.data(), workspace.data(), ThreadedFor);
  return dblocks;
}

void Compare(const std::string& what, const std::vector<float>& got, const std::vector<double>& expected,
             double tolerance) {
  const int64_t at = FirstDifference(got, expected, tolerance);
  const std::string values =
      at < 0 ? "" : ": element " + std::to_string(at) + " is " + std::to_string(got[at]) + ", expected " + std::to_string(expected[at]);
  CHECK_TRUE(at < 0, what + values);
}

void Run(const Case& c, double tolerance = 0.0, bool integers = true) {
  const int64_t in = c.w.grid.rows.features;
  const int64_t out = c.w.grid.columns.features;
  const auto random = integers ? RandomIntegers : RandomFloats;
  const std::vector<float> x = random(c.batch * in, 7);
  const std::vector<float> dy = random(c.batch * out, 8);
  const std::vector<double> y = ReferenceProduct(c.w, x, c.batch);
  const std::vector<double> dx = ReferenceGradX(c.w, dy, c.batch);
  const std::vector<double> dblocks = ReferenceGradBlocks(c.w, x, dy, c.batch);
  const BlockIndex by_column = Index(c.w, true);
  const BlockIndex by_row = Index(c.w, false);
  for (const KernelTable* table : SupportedTables()) {
    for (int64_t threads : {1, 2, 3}) {
      const std::string what = c.name + " " + table->isa + " threads " + std::to_string(threads);
      Compare(what + " y", Product(*table, c.w, by_column, x, c.batch, threads), y, tolerance);
      Compare(what + " dx", Product(*table, c.w, by_row, dy, c.batch, threads), dx, tolerance);
      Compare(what + " dblocks", Grad(*table, c.w, by_row, x, dy, c.batch, threads), dblocks, tolerance);
    }
  }
}

Case Make(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, int64_t batch, double density,
          bool integers = true, Order order = Order::kRow) {
  return {std::string(order == Order::kRow ? "rows " : "columns ") +
          std::to_string(in) + "x" + std::to_string(out) + " gates " + std::to_string(gates) + " blocks " +
              std::to_string(height) + "x" + std::to_string(width) + " batch " + std::to_string(batch) +
              " density " + std::to_string(density),
          RandomMatrix(in, out, gates, height, width, density, static_cast<uint32_t>(height * 131 + width), integers,
                       order),
          batch};
}

const std::vector<std::pair<int64_t, int64_t>>& Shapes() {
  static const auto* shapes = new std::vector<std::pair<int64_t, int64_t>>{
      {1, 1},   {3, 5},   {4, 4},   {12, 2}, {8, 8},  {16, 16}, {32, 32}, {1, 16}, {16, 1}, {4, 16},
      {64, 64}, {8, 4},   {8, 32},  {2, 8},  {5, 16}, {12, 4},  {20, 8},  {1, 128}, {24, 12}, {7, 3}};
  return *shapes;
}

void AllBatches() {
  for (const auto& [height, width] : Shapes()) {
    for (int64_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 47, 64, 70, 150, 300}) {
      for (Order order : {Order::kRow, Order::kColumn}) {
        Run(Make(3 * height, 4 * width, 1, height, width, batch, 0.5, true, order));
        if (batch > 70) continue;
        Run(Make(3 * height + (height + 1) / 2, 12 * (2 * width + (width + 1) / 2), 3, height, width, batch, 0.4,
                 true, order));
      }
    }
  }
}

void AllDensitiesAndGates() {
  for (const auto& [height, width] : Shapes()) {
    for (int64_t gates : {1, 3, 4}) {
      for (double density : {0.0, -1.0, 0.1, 0.5, 1.0}) {
        for (int64_t batch : {0, 1, 3, 16, 33}) {
          for (int64_t more : {0, 1}) {  // one row and one column more than full blocks
            for (Order order : {Order::kRow, Order::kColumn}) {
              Run(Make(4 * height + more, gates * (2 * width + more), gates, height, width, batch, density, true,
                       order));
            }
          }
        }
      }
    }
  }
}

// A block larger than the matrix.
void BlocksLargerThanTheMatrix() {
  for (int64_t batch : {1, 4, 16, 70}) {
    Run(Make(3, 2, 1, 16, 16, batch, 1.0));
    Run(Make(1, 4, 4, 8, 8, batch, 1.0));
    Run(Make(5, 6, 2, 300, 300, batch, 1.0));
  }
}

// Large enough for the plan to use threads.
void Threaded() {
  const int before = threaded_runs;
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {16, 16}, {12, 2}, {3, 5}, {1, 1}}) {
    for (int64_t batch : {1, 8, 33, 256}) {
      Run(Make(500, 600, 3, height, width, batch, 0.6, true, batch == 8 ? Order::kRow : Order::kColumn));
    }
  }
  CHECK_TRUE(threaded_runs - before >= 60, "the work was split");
}

// Floats: the error of a sum of K products, each of size about 1, grows like eps * sqrt(K).
void FloatsAreClose() {
  for (const auto& [height, width] : Shapes()) {
    Run(Make(256, 256, 1, height, width, 33, 0.5, false), 16 * 6e-8 * std::sqrt(256.0) * 4, false);
  }
}

}  // namespace

int main() {
  AllBatches();
  AllDensitiesAndGates();
  BlocksLargerThanTheMatrix();
  Threaded();
  FloatsAreClose();
  return Finish();
}
