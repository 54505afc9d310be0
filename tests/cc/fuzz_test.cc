// Hostile matrices: grids, indptr and indices that a stranger's file may hold. Each is refused with a text that has the
// bad value in it, exactly if plain rules say that it is bad; what is not refused is multiplied, and the results are
// those of plain loops. Indices that change after they were checked may give any numbers, but no bad access: the run
// under AddressSanitizer is what this test is for.
//
//   fuzz_test [COUNT [SEED]]     # 30,000 cases by default, or what TF_BLOCKSPARSE_TEST_EVERY leaves of them
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/random_matrix.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/gather.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace blocksparse_test {
namespace {

using namespace blocksparse;

constexpr int64_t kHostileSizes[] = {0, -1, -5, int64_t{1} << 31, int64_t{1} << 33, int64_t{1} << 62, INT64_MAX, INT64_MIN};
constexpr int32_t kHostileIndices[] = {-1, INT32_MIN, INT32_MAX, INT32_MAX - 1, 1 << 30, 1000};

class Fuzzer {
 public:
  explicit Fuzzer(uint64_t seed) : random_(seed) {}

  void Grids() {
    int64_t sizes[5] = {Below(40) + 1, (Below(6) + 1) * 12, 1, Below(9) + 1, Below(9) + 1};
    sizes[2] = sizes[1] / 12 * (Below(2) + 1);  // a divisor or not
    const bool hostile = Below(2) == 0;
    if (hostile) sizes[Below(5)] = kHostileSizes[Below(8)];
    bool good = true;
    for (const int64_t size : sizes) good = good && size >= 1 && size <= INT32_MAX;
    good = good && sizes[1] % sizes[2] == 0;
    Grid grid;
    const std::string error = MakeGrid(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], &grid);
    CHECK_TRUE(error.empty() == good, "a grid: " + error);
  }

  void Matrix() {
    const int64_t gates = Below(3) + 1;
    const Order order = Below(2) == 0 ? Order::kRow : Order::kColumn;
    const int64_t in = Below(30) + 1;
    const int64_t out = gates * (Below(20) + 1);
    BsrMatrix w = RandomMatrix(in, out, gates, Below(9) + 1, Below(9) + 1, Below(11) / 10.0, Seed(), true, order);
    const int64_t mutations = Below(4);
    for (int64_t i = 0; i < mutations; ++i) Mutate(&w);
    const int64_t num_blocks = static_cast<int64_t>(w.indices.size());
    const std::string bad = Rules(w);
    for (const bool by_column : {true, false}) {
      BlockIndex index;
      const std::string error =
          BuildBlockIndex(w.grid, w.order, w.indptr.data(), static_cast<int64_t>(w.indptr.size()), w.indices.data(),
                          num_blocks, by_column, &index);
      CHECK_TRUE(error.empty() == bad.empty(), "the rules say \"" + bad + "\", the check \"" + error + "\"");
      if (error.empty() != bad.empty()) return;
      if (!bad.empty()) {
        CHECK_CONTAINS(error, bad);
        continue;
      }
      w.blocks.resize(num_blocks * w.grid.block_elements(), 1.0f);
      Multiply(&w, index, by_column);
    }
  }

 private:
  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  uint32_t Seed() { return static_cast<uint32_t>(random_()); }

  int32_t Hostile() { return Below(2) == 0 ? kHostileIndices[Below(6)] : static_cast<int32_t>(Below(40)) - 4; }

  void Mutate(BsrMatrix* w) {
    std::vector<int32_t>& list = Below(2) == 0 ? w->indptr : w->indices;
    const int64_t size = static_cast<int64_t>(list.size());
    switch (Below(6)) {
      case 0:
        if (size > 0) list[Below(size)] = Hostile();
        break;
      case 1:
        if (size > 1) std::swap(list[Below(size)], list[Below(size)]);
        break;
      case 2:
        if (size > 0) list.pop_back();
        break;
      case 3:
        list.push_back(Hostile());
        break;
      case 4:
        if (size > 1) list[Below(size)] = list[Below(size)];  // twice the same
        break;
      default:
        list.clear();
    }
  }

  // What is wrong by plain rules: a piece of text that the error must have in it, or empty.
  static std::string Rules(const BsrMatrix& w) {
    const bool by_row = w.order == Order::kRow;
    const int64_t lines = by_row ? w.grid.rows.lines : w.grid.columns.lines;
    const int64_t cross = by_row ? w.grid.columns.lines : w.grid.rows.lines;
    const int64_t count = static_cast<int64_t>(w.indices.size());
    if (static_cast<int64_t>(w.indptr.size()) != lines + 1) return "got " + std::to_string(w.indptr.size());
    if (w.indptr[0] != 0) return "indptr[0] must be 0, got " + std::to_string(w.indptr[0]);
    for (int64_t i = 0; i < lines; ++i) {
      if (w.indptr[i + 1] < w.indptr[i]) return "= " + std::to_string(w.indptr[i + 1]);
    }
    if (w.indptr[lines] != count) return "= " + std::to_string(w.indptr[lines]);
    for (int64_t i = 0; i < lines; ++i) {
      for (int32_t k = w.indptr[i]; k < w.indptr[i + 1]; ++k) {
        const std::string text = "indices[" + std::to_string(k) + "] = " + std::to_string(w.indices[k]);
        if (w.indices[k] < 0 || w.indices[k] >= cross) return text;
        if (k > w.indptr[i] && w.indices[k] <= w.indices[k - 1]) return text;
      }
    }
    return "";
  }

  void Multiply(BsrMatrix* w, const BlockIndex& index, bool by_column) {
    const auto tables = SupportedTables();
    const KernelTable& table = *tables[Below(static_cast<int64_t>(tables.size()))];
    const int64_t batch = Below(20);
    const RunOptions options = {Below(3) + 1, Below(2) == 0, {}};
    const std::vector<float> x = RandomIntegers(batch * w->grid.rows.features, Seed());
    const std::vector<float> dy = RandomIntegers(batch * w->grid.columns.features, Seed());
    if (by_column) {
      Compare("y", Product(table, *w, index, x, batch, options), ReferenceProduct(*w, x, batch));
    } else {
      Compare("dx", Product(table, *w, index, dy, batch, options), ReferenceGradX(*w, dy, batch));
      Compare("dblocks", Grad(table, *w, index, x, dy, batch, options), ReferenceGradBlocks(*w, x, dy, batch));
      if (w->order == Order::kRow && w->grid.columns.gates == 1) Gather(*w, index);
    }
    // Behind the back of the check.
    const std::vector<int32_t> kept = w->indices;
    for (int32_t& i : w->indices) i = Below(3) == 0 ? Hostile() : i;
    Product(table, *w, index, by_column ? x : dy, batch, options);
    if (!by_column) Grad(table, *w, index, x, dy, batch, options);
    w->indices = kept;
  }

  void Gather(const BsrMatrix& w, const BlockIndex& index) {
    const int64_t columns = w.grid.columns.features;
    std::vector<int32_t> ids(Below(6));
    for (int32_t& id : ids) id = static_cast<int32_t>(Below(w.grid.rows.features));
    const std::vector<double> dense = ReferenceDense(w);
    std::vector<double> expected;
    for (const int32_t id : ids) expected.insert(expected.end(), &dense[id * columns], &dense[id * columns] + columns);
    std::vector<float> out(ids.size() * columns, -1.0f);
    GatherRows(index, w.blocks.data(), ids.data(), static_cast<int64_t>(ids.size()), out.data(), 2, ThreadedFor);
    Compare("rows", out, expected);
  }

  std::mt19937_64 random_;
};

}  // namespace
}  // namespace blocksparse_test

int main(int argc, char** argv) {
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 30000;
  blocksparse_test::Fuzzer fuzzer(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  blocksparse_test::Sample sample("fuzz");
  int64_t cases = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (argc <= 1 && !sample.Takes()) continue;
    ++cases;
    fuzzer.Grids();
    fuzzer.Matrix();
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
  return blocksparse_test::Finish();
}
