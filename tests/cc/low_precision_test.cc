// Products with bfloat16 and int8 blocks against plain loops: block shapes, ragged sides, gates, batch sizes,
// densities, tables of kernels, threads. Operands are integers that all types hold, so that every result is exact and
// must be equal; what lies outside of W is NaN or 99.
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A matrix in block row order as this product takes it.
struct Stored {
  BlockType type;
  ColumnIndex index;
  std::vector<int32_t> indptr;
  std::vector<int32_t> indices;
  std::vector<uint8_t> bytes;  // from bytes[1] on: tensors need not be aligned
  std::vector<float> scales;
};

uint16_t Bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return 0x7fc0;
  const uint32_t rest = bits & 0xffff;
  const uint32_t high = bits >> 16;
  return static_cast<uint16_t>(high + (rest > 0x8000 || (rest == 0x8000 && (high & 1))));
}

float FromBfloat16(uint16_t high) {
  const uint32_t bits = uint32_t{high} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

Stored Store(const BsrMatrix& w, BlockType type) {
  const int64_t height = w.grid.rows.block;
  const int64_t width = w.grid.columns.block;
  const int64_t p = RowsPerWord(type);
  const int64_t words = (height + p - 1) / p;
  Stored stored{type, {}, {0}, {}, {0}, {}};
  for (int64_t j = 0; j < w.grid.columns.lines; ++j) {
    for (int64_t i = 0; i < w.grid.rows.lines; ++i) {
      for (int64_t k = w.indptr[i]; k < w.indptr[i + 1]; ++k) {
        if (w.indices[k] != j) continue;
        stored.indices.push_back(static_cast<int32_t>(i));
        for (int64_t e = 0; e < words * width * p; ++e) {
          const int64_t row = e / (width * p) * p + e % p;
          const float value = row < height ? w.blocks[(k * height + row) * width + e / p % width] : kNaN;
          if (type == BlockType::kInt8) {
            stored.bytes.push_back(static_cast<uint8_t>(std::isnan(value) ? 99 : static_cast<int>(value)));
          } else {
            stored.bytes.push_back(static_cast<uint8_t>(Bfloat16(value) & 0xff));
            stored.bytes.push_back(static_cast<uint8_t>(Bfloat16(value) >> 8));
          }
        }
      }
    }
    stored.indptr.push_back(static_cast<int32_t>(stored.indices.size()));
  }
  if (type == BlockType::kInt8) {
    for (int64_t c = 0; c < w.grid.columns.features; ++c) stored.scales.push_back(c % 3 == 0 ? 0.5f : 2.0f);
  }
  const std::string error = BuildColumnIndex(w.grid, stored.indptr.data(), stored.indptr.size(),
                                             stored.indices.data(), stored.indices.size(), &stored.index);
  CHECK_TRUE(error.empty(), error);
  return stored;
}

// Integers; the largest of each row is 127, so that quantisation takes them as they are.
std::vector<float> IntegerRows(int64_t batch, int64_t in) {
  std::vector<float> x = RandomIntegers(batch * in, 7);
  for (float& value : x) value *= 31.0f;
  for (int64_t b = 0; b < batch; ++b) x[b * in + b % in] = b % 2 == 0 ? 127.0f : -127.0f;
  return x;
}

int threaded_runs = 0;

// Every buffer is exactly as large as it has to be, and what is written starts as NaN.
std::vector<float> Product(const LowPrecisionTables& tables, const Stored& w, XType x_type,
                           const std::vector<float>& x, int64_t batch, int64_t threads,
                           const std::vector<float>& bias = {},
                           Activation activation = Activation::kLinear) {
  const LowPrecisionPlan plan = PlanLowPrecision(tables, *SupportedTables().back(), w.index, w.type, x_type, batch, threads);
  threaded_runs += plan.workers > 1;
  std::vector<float> workspace(plan.workspace_words, kNaN);
  std::vector<float> y(batch * w.index.grid.columns.features, kNaN);
  const LowPrecisionOperands operands = {x.data(), w.bytes.data() + 1, w.indices.data(),
                                         w.scales.empty() ? nullptr : w.scales.data(),
                                         {bias.empty() ? nullptr : bias.data(), activation}, y.data(), workspace.data()};
  RunLowPrecision(plan, operands, ThreadedFor);
  return y;
}

void Compare(const std::string& what, const std::vector<float>& got, const std::vector<double>& expected,
             double tolerance = 0.0) {
  const int64_t at = FirstDifference(got, expected, tolerance);
  CHECK_TRUE(at < 0, what + ": element " + std::to_string(at) + " is " + std::to_string(got[at]) +
                         ", expected " + std::to_string(expected[at]));
}

std::string Name(const LowPrecisionTables& tables) {
  std::string name;
  for (const LowPrecisionTable* table : tables) name += std::string(" ") + table->isa;
  return name;
}

std::vector<XType> XTypesFor(BlockType type) {
  if (type == BlockType::kInt8) return {XType::kFloat32, XType::kInt8};
  return {XType::kFloat32, XType::kBfloat16};
}

std::vector<double> Expected(const BsrMatrix& w, const Stored& stored, const std::vector<float>& x, int64_t batch) {
  std::vector<double> y = ReferenceProduct(w, x, batch);
  const int64_t out = w.grid.columns.features;
  if (stored.scales.empty()) return y;
  for (int64_t e = 0; e < batch * out; ++e) y[e] *= stored.scales[e % out];
  return y;
}

void Run(const std::string& name, const BsrMatrix& w, int64_t batch, std::vector<int64_t> threads = {1}) {
  const std::vector<float> x = IntegerRows(batch, w.grid.rows.features);
  for (BlockType type : {BlockType::kBfloat16, BlockType::kInt8}) {
    const Stored stored = Store(w, type);
    const std::vector<double> expected = Expected(w, stored, x, batch);
    for (XType x_type : XTypesFor(type)) {
      for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
        for (int64_t t : threads) {
          Compare(name + (type == BlockType::kInt8 ? " int8" : " bfloat16") +
                      (x_type == XType::kFloat32 ? " float32" : "") + " batch " + std::to_string(batch) + Name(tables) + " threads " + std::to_string(t),
                  Product(tables, stored, x_type, x, batch, t), expected);
        }
      }
    }
  }
}

const std::vector<std::pair<int64_t, int64_t>>& Shapes() {
  static const auto* shapes = new std::vector<std::pair<int64_t, int64_t>>{
      {4, 4},   {12, 2}, {8, 8}, {16, 16}, {32, 32}, {1, 16}, {16, 1}, {4, 16}, {64, 64},
      {3, 5},   {1, 1},  {8, 4}, {8, 32},  {7, 16},  {5, 8},  {6, 4},  {9, 12}, {2, 48},  {3, 100}};
  return *shapes;
}

void AllShapes() {
  for (const auto& [height, width] : Shapes()) {
    const std::string name = std::to_string(height) + "x" + std::to_string(width);
    Sample sample(name);
    for (int64_t gates : {1, 3}) {
      for (double density : {0.0, -1.0, 0.1, 1.0}) {
        for (int64_t batch : {1, 2, 3, 7, 16, 33}) {
          for (int64_t more : {int64_t{0}, (height + 1) / 2}) {  // ragged, unless a block is one row or column
            if (!sample.Takes()) continue;
            const int64_t wide = more == 0 ? 0 : (width + 1) / 2;
            const BsrMatrix w = RandomMatrix(3 * height + more, gates * (2 * width + wide), gates, height, width,
                                             density, static_cast<uint32_t>(batch));
            Run(name + " gates " + std::to_string(gates) + " density " + std::to_string(density) + " more " +
                    std::to_string(more), w, batch);
          }
        }
      }
    }
  }
}

void BlocksLargerThanTheMatrix() {
  for (int64_t batch : {1, 5}) {
    Run("3x2 in 16x16", RandomMatrix(3, 2, 1, 16, 16, 1.0, 1), batch);
    Run("1x4 in 8x8", RandomMatrix(1, 4, 4, 8, 8, 1.0, 1), batch);
    Run("5x6 in 300x300", RandomMatrix(5, 6, 2, 300, 300, 1.0, 1), batch);
  }
}

void Threaded() {
  const int before = threaded_runs;
  int cases = 0;
  Sample sample("threaded");
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{16, 16}, {4, 4}, {3, 5}}) {
    for (int64_t batch : {30, 70, 300}) {
      if (!sample.Takes()) continue;
      ++cases;
      Run("threads", RandomMatrix(500, 603, 3, height, width, 0.6, 5), batch, {2, 5});
    }
  }
  CHECK_TRUE(threaded_runs - before >= 6 * cases, "the work was split " + std::to_string(threaded_runs - before));
  const BsrMatrix w = RandomMatrix(2000, 2002, 1, 16, 16, 0.9, 6);  // few rows: columns are split
  Run("columns", w, 1, {2});
}

// Every kernel by itself, whatever a plan would take.
void EveryKernel() {
  for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
    const LowPrecisionTable& table = *tables.front();
    for (int64_t i = 0; i < table.num_kernels; ++i) {
      const LowPrecisionKernel& kernel = table.kernels[i];
      const bool dot = kernel.kind == LowPrecisionKind::kBfloat16Dot || kernel.kind == LowPrecisionKind::kInt8Dot;
      const bool int8 = kernel.kind == LowPrecisionKind::kInt8Dot || kernel.kind == LowPrecisionKind::kInt8Float;
      const LowPrecisionTable alone = {table.isa,      &kernel,        1,
                                       table.int8_words, table.largest, table.quantize, table.pack_bfloat16,
                                       table.round_bfloat16};
      for (int64_t times : {1, 3}) {
        const int64_t height = kernel.height * (kernel.height_multiple ? times : 1);
        const int64_t width = kernel.width * (kernel.width_multiple ? times : 1);
        const int64_t batch = kernel.batch == 0 ? 3 : kernel.batch;
        const BsrMatrix w = RandomMatrix(9 * height + height / 2, 7 * width + width / 2, 1, height, width, 0.5, 3);
        const Stored stored = Store(w, int8 ? BlockType::kInt8 : BlockType::kBfloat16);
        const std::vector<float> x = IntegerRows(batch, w.grid.rows.features);
        const XType x_type = !dot ? XType::kFloat32 : int8 ? XType::kInt8 : XType::kBfloat16;
        const LowPrecisionPlan plan = PlanLowPrecision({&alone}, *SupportedTables().back(), stored.index, stored.type, x_type, batch, 1);
        CHECK_TRUE(plan.table == &alone && plan.kernels[batch] == &kernel, std::string("planned ") + kernel.name);
        if (plan.table != &alone) continue;
        Compare(std::string(table.isa) + " " + kernel.name + " times " + std::to_string(times),
                Product({&alone}, stored, x_type, x, batch, 1), Expected(w, stored, x, batch));
      }
    }
  }
}

// The numbers that the header defines, in plain code.
struct Quantised {
  std::vector<float> q;
  std::vector<double> scale;
};

Quantised Quantise(const std::vector<float>& x, int64_t batch) {
  const int64_t in = static_cast<int64_t>(x.size()) / batch;
  Quantised result;
  for (int64_t b = 0; b < batch; ++b) {
    float largest = 0.0f;
    for (int64_t i = 0; i < in; ++i) largest = std::fmax(largest, std::fabs(x[b * in + i]));
    volatile float factor = 127.0f / largest;
    for (int64_t i = 0; i < in; ++i) {
      volatile float product = x[b * in + i] * factor;
      result.q.push_back(std::nearbyint(product));
    }
    result.scale.push_back(largest / 127.0f);
  }
  return result;
}

// Integer sums are exact: of y all but three roundings are.
void RandomInt8(const std::string& name, BsrMatrix w, const std::vector<float>& x, int64_t batch) {
  for (float& value : w.blocks) value = std::nearbyint(std::fmin(std::fmax(value, -5.0f), 5.0f) * 25.0f);
  const Stored stored = Store(w, BlockType::kInt8);
  const Quantised q = Quantise(x, batch);
  const int64_t out = w.grid.columns.features;
  const std::vector<double> sums = Expected(w, stored, q.q, batch);
  const std::vector<double> expected = Expected(w, stored, x, batch);
  for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
    const std::vector<float> y = Product(tables, stored, XType::kInt8, x, batch, 1);
    for (size_t e = 0; e < y.size(); ++e) {
      const double exact = sums[e] * q.scale[e / out];
      CHECK_TRUE(std::fabs(y[e] - exact) <= 4 * 6e-8 * std::fabs(exact), name + " int8" + Name(tables));
    }
    Compare(name + " int8 float32" + Name(tables), Product(tables, stored, XType::kFloat32, x, batch, 1), expected,
            50 * 64 * 6e-8 * std::sqrt(250.0));
  }
}

// The error of a float32 sum of K products of size 1 grows like eps * sqrt(K).
void RandomBfloat16(const std::string& name, BsrMatrix w, const std::vector<float>& x, int64_t batch) {
  std::vector<float> rounded = x;
  for (float& value : rounded) value = FromBfloat16(Bfloat16(value));
  for (float& value : w.blocks) value = FromBfloat16(Bfloat16(value));
  const Stored stored = Store(w, BlockType::kBfloat16);
  for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
    const double tolerance = 64 * 6e-8 * std::sqrt(250.0);
    Compare(name + " bfloat16" + Name(tables), Product(tables, stored, XType::kBfloat16, x, batch, 1),
            ReferenceProduct(w, rounded, batch), tolerance);
    Compare(name + " bfloat16 float32" + Name(tables), Product(tables, stored, XType::kFloat32, x, batch, 1),
            ReferenceProduct(w, x, batch), tolerance);
  }
}

void RandomNumbers() {
  Sample sample("random numbers");
  for (const auto& [height, width] : Shapes()) {
    for (int64_t batch : {1, 3, 9}) {
      if (!sample.Takes()) continue;
      const BsrMatrix w = RandomMatrix(250, 270, 3, height, width, 0.5, 9, false);
      const std::vector<float> x = RandomFloats(batch * 250, 10);
      const std::string name = "random " + std::to_string(height) + "x" + std::to_string(width);
      RandomInt8(name, w, x, batch);
      RandomBfloat16(name, w, x, batch);
    }
  }
}

// Rows that no scale serves; the others are as they were.
void OddRows() {
  const BsrMatrix w = RandomMatrix(70, 40, 1, 4, 4, 0.5, 11);
  for (BlockType type : {BlockType::kBfloat16, BlockType::kInt8}) {
    const Stored stored = Store(w, type);
    const XType x_type = XTypesFor(type)[1];
    std::vector<float> x = IntegerRows(5, 70);
    const std::vector<double> expected = Expected(w, stored, x, 5);
    for (int64_t i = 0; i < 70; ++i) x[3 * 70 + i] = i == 8 ? 1e-31f : 1e-40f;
    for (const float odd : {kNaN, kInfinity, -kInfinity}) {
      x[1 * 70 + 69] = odd;
      for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
        const std::vector<float> y = Product(tables, stored, x_type, x, 5, 1);
        for (int64_t e = 0; e < 5 * 40; ++e) {
          const int64_t row = e / 40;
          const std::string what = "odd row " + std::to_string(row) + Name(tables);
          if (row == 1 && type == BlockType::kInt8) CHECK_TRUE(std::isnan(y[e]), what);
          if (row == 3) CHECK_TRUE(std::fabs(y[e]) < 1e-28f && (type != BlockType::kInt8 || y[e] == 0.0f), what);
          if (row != 1 && row != 3) CHECK_TRUE(y[e] == expected[e], what);
        }
        if (type == BlockType::kBfloat16) {  // NaN in the columns with a block there, and in no other
          for (int64_t c = 0; c < 40; ++c) {
            bool there = false;
            for (int64_t k = stored.indptr[c / 4]; k < stored.indptr[c / 4 + 1]; ++k) there |= stored.indices[k] == 17;
            CHECK_TRUE(std::isfinite(y[40 + c]) == !there, "odd column" + Name(tables));
          }
        }
      }
    }
  }
}

void BiasAndActivations() {
  const BsrMatrix w = RandomMatrix(40, 60, 2, 8, 8, 0.5, 12);
  const std::vector<float> bias = RandomIntegers(60, 13);
  const std::vector<float> x = RandomFloats(3 * 40, 14);
  const Stored stored = Store(w, BlockType::kBfloat16);
  const std::vector<double> linear = ReferenceProduct(w, x, 3);
  for (const bool with_bias : {false, true}) {
    for (const auto activation : {Activation::kLinear, Activation::kRelu,
                                  Activation::kTanh, Activation::kSigmoid}) {
      std::vector<double> expected = linear;
      for (size_t e = 0; e < expected.size(); ++e) {
        double& y = expected[e];
        if (with_bias) y += bias[e % 60];
        if (activation == Activation::kRelu) y = std::fmax(y, 0.0);
        if (activation == Activation::kTanh) y = std::tanh(y);
        if (activation == Activation::kSigmoid) y = 1 / (1 + std::exp(-y));
      }
      for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
        Compare("activation" + Name(tables), Product(tables, stored, XType::kFloat32, x, 3, 1,
                with_bias ? bias : std::vector<float>{}, activation), expected, 2e-5);
      }
    }
  }
}

void NoRows() {
  const BsrMatrix w = RandomMatrix(40, 60, 2, 8, 8, 0.5, 12);
  for (BlockType type : {BlockType::kBfloat16, BlockType::kInt8}) {
    for (XType x_type : XTypesFor(type)) {
      CHECK_TRUE(Product(SupportedLowPrecisionTables().back(), Store(w, type), x_type, {}, 0, 2).empty(), "no rows");
    }
  }
}

void BadPatterns() {
  Grid grid;
  CHECK_TRUE(MakeGrid(10, 12, 1, 4, 4, &grid).empty(), "3x3 blocks");
  struct Bad {
    std::vector<int32_t> indptr;
    std::vector<int32_t> indices;
    const char* error;
  };
  const std::vector<Bad> all = {
      {{0, 1, 2}, {0, 1}, "indptr must have 4 elements (block columns + 1, for 12 output features in blocks of"},
      {{1, 1, 2, 2}, {0, 1}, "indptr[0] must be 0, got 1"},
      {{0, 2, 1, 2}, {0, 1}, "indptr must not decrease, got indptr[1] = 2 and indptr[2] = 1"},
      {{0, 1, 2, 3}, {0, 1}, "indptr must end at the number of blocks, 2, got indptr[3] = 3"},
      {{0, -7, 2, 2}, {0, 1}, "indptr[1] = -7"},
      {{0, 2, 2, 2}, {0, 3}, "indices[1] = 3 is not in [0, 3), the block rows"},
      {{0, 2, 2, 2}, {-1, 2}, "indices[0] = -1 is not in [0, 3)"},
      {{0, 0, 2, 2}, {1, 1}, "got indices[0] = 1 and indices[1] = 1 in block column 1"},
      {{0, 2, 2, 2}, {2, 0}, "strictly increase within a block column, got indices[0] = 2 and indices[1] = 0"},
  };
  for (const Bad& bad : all) {
    ColumnIndex index;
    CHECK_CONTAINS(BuildColumnIndex(grid, bad.indptr.data(), bad.indptr.size(), bad.indices.data(),
                                    bad.indices.size(), &index), bad.error);
  }
  ColumnIndex index;
  index.grid = grid;
  index.max_entries = 16448;
  CHECK_TRUE(CheckInt8Sums(index).empty(), "65,792 rows");
  index.max_entries = 16449;
  CHECK_CONTAINS(CheckInt8Sums(index), "over 16449 blocks of height 4 may exceed 32 bits: at most 65793 rows");
}

// The largest sum that the check lets pass.
void LargestSums() {
  Grid grid;
  CHECK_TRUE(MakeGrid(65792, 16, 1, 16, 16, &grid).empty(), "grid");
  BsrMatrix w = {grid, std::vector<float>(65792 * 16, -127.0f), {}, {0}};
  for (int32_t i = 0; i < grid.rows.lines; ++i) {
    w.indices.push_back(0);
    w.indptr.push_back(i + 1);
  }
  const Stored stored = Store(w, BlockType::kInt8);
  CHECK_TRUE(CheckInt8Sums(stored.index).empty(), "allowed");
  const std::vector<float> x(65792, 127.0f);
  for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
    const std::vector<float> y = Product(tables, stored, XType::kInt8, x, 1, 1);
    CHECK_EQUAL(y[1], static_cast<float>(-65792 * 127 * 127) * 2.0f);
  }
}

// Indices that change after they were checked: any result, but no access outside of x (AddressSanitizer looks).
void IndicesThatChange() {
  for (const int64_t in : {3, 32, 35}) {
    for (BlockType type : {BlockType::kBfloat16, BlockType::kInt8}) {
      Stored stored = Store(RandomMatrix(in, 32, 1, 8, 8, 1.0, 15), type);
      for (const int32_t bad : {-1, 1 << 30, 3, 4}) {
        for (int32_t& index : stored.indices) index = bad;
        for (XType x_type : XTypesFor(type)) {
          for (const LowPrecisionTables& tables : SupportedLowPrecisionTables()) {
            const std::vector<float> y = Product(tables, stored, x_type, IntegerRows(3, in), 3, 1);
            CHECK_EQUAL(y.size(), 3u * 32u);
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  EveryKernel();
  AllShapes();
  BlocksLargerThanTheMatrix();
  Threaded();
  RandomNumbers();
  OddRows();
  BiasAndActivations();
  NoRows();
  BadPatterns();
  LargestSums();
  IndicesThatChange();
  return Finish();
}
