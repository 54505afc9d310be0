// activation(y + bias) against the functions of <cmath> in double: on floats of every size, by itself, and fused to the
// products with every kernel that the chooser takes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Function {
  Activation activation;
  const char* name;
  double (*exact)(double);
  double epsilons;  // bound of the relative error, in units of 2^-23, with any instruction set
  double absolute;  // the largest error of results too small for that
};

// The sigmoid stops falling at x = -87, where it is 1.6e-38.
const Function kFunctions[] = {
    {Activation::kLinear, "linear", [](double x) { return x; }, 0, 0},
    {Activation::kRelu, "relu", [](double x) { return x < 0 ? 0.0 : x; }, 0, 0},
    {Activation::kTanh, "tanh", [](double x) { return std::tanh(x); }, 2, 0},
    {Activation::kSigmoid, "sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }, 1.25, 1.7e-38},
};

bool Near(const Function& function, float got, double expected) {
  if (std::isnan(expected)) return std::isnan(got);
  return got == expected ||
         std::fabs(got - expected) <= function.epsilons * kEpsilon * std::fabs(expected) + function.absolute;
}

// Both zeros, both infinities, NaN, denormals, and of every exponent and sign 2048 floats.
std::vector<float> FloatsOfEverySize() {
  std::vector<float> floats = {0.0f, -0.0f, kInfinity, -kInfinity, kNaN, std::numeric_limits<float>::max()};
  for (uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (uint32_t step = 0; step < 2048; ++step) {
      const uint32_t bits = exponent << 23 | (step * 4093 + exponent * 7) % (1u << 23);
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      floats.push_back(value);
      floats.push_back(-value);
    }
  }
  return floats;
}

// In rows of 1000 and a few, which no vector divides.
void FinishOfEveryFloat(const KernelTable& table, const Function& function) {
  constexpr int64_t kFeatures = 1003;
  std::vector<float> x = FloatsOfEverySize();
  x.resize(x.size() / kFeatures * kFeatures + kFeatures, 0.5f);
  std::vector<float> y = x;
  table.finish(y.data(), kFeatures, static_cast<int64_t>(x.size()) / kFeatures, kFeatures, nullptr,
               function.activation);
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK_TRUE(Near(function, y[i], function.exact(x[i])),
               std::string(table.isa) + " " + function.name + "(" + std::to_string(x[i]) + ") is " +
                   std::to_string(y[i]));
  }
}

// Every number of features about the vector's, with a stride: what lies between the rows is left alone.
void FinishKeepsToItsFeatures(const KernelTable& table, const Function& function) {
  for (int64_t features = 0; features <= 2 * table.lanes + 3; ++features) {
    for (bool with_bias : {false, true}) {
      const int64_t rows = 3;
      const int64_t stride = features + 2;
      const std::vector<float> before = RandomFloats(rows * stride, 5);
      const std::vector<float> bias = RandomFloats(features, 6);
      Buffer y(before, false);
      Buffer added(bias, false);
      table.finish(y.data(), stride, rows, features, with_bias ? added.data() : nullptr, function.activation);
      for (int64_t i = 0; i < rows * stride; ++i) {
        const int64_t f = i % stride;
        const float sum = before[i] + (with_bias && f < features ? bias[f] : 0.0f);
        const bool right =
            f < features ? Near(function, y.data()[i], function.exact(sum)) : y.data()[i] == before[i];
        CHECK_TRUE(right, std::string(table.isa) + " " + function.name + " of " + std::to_string(features) +
                              " features, at " + std::to_string(i));
      }
    }
  }
}

std::vector<float> Sixteenths(std::vector<float> values) {
  for (float& value : values) value /= 16;
  return values;
}

// y = activation(x W + bias). All operands are multiples of 1/16, so that x W + bias is exact and the only error is
// that of the activation; most sums lie between -4 and 4, where the functions bend.
void Fused(const Case& c) {
  const int64_t out = c.w.grid.columns.features;
  const std::vector<float> x = Sixteenths(RandomIntegers(c.batch * c.w.grid.rows.features, 7));
  const std::vector<float> bias = Sixteenths(RandomIntegers(out, 9));
  const std::vector<double> product = ReferenceProduct(c.w, x, c.batch);
  const BlockIndex index = Index(c.w, true);
  for (const KernelTable* table : SupportedTables()) {
    for (const Function& function : kFunctions) {
      for (bool with_bias : {false, true}) {
        RunOptions options;
        options.threads = 2;
        options.epilogue = {with_bias ? bias.data() : nullptr, function.activation};
        const std::vector<float> y = Product(*table, c.w, index, x, c.batch, options);
        for (size_t i = 0; i < y.size(); ++i) {
          const double expected = function.exact(product[i] + (with_bias ? bias[i % out] : 0.0f));
          CHECK_TRUE(Near(function, y[i], expected),
                     c.name + " " + table->isa + " " + function.name + (with_bias ? " with bias" : "") + ": element " +
                         std::to_string(i) + " is " + std::to_string(y[i]) + ", expected " + std::to_string(expected));
        }
      }
    }
  }
}

void FusedToEveryProduct() {
  for (const auto& [height, width] : BlockShapes()) {
    Sample sample("epilogue " + std::to_string(height) + "x" + std::to_string(width));
    for (int64_t batch : {1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 33, 70}) {
      if (height * width > 64 * 64 && batch > 9) continue;
      for (Order order : {Order::kRow, Order::kColumn}) {
        for (int64_t more : {0, 1}) {  // ragged sides, and gates
          if (!sample.Takes()) continue;
          const int64_t gates = more == 0 ? 1 : 3;
          Fused(MakeCase(3 * height + more, gates * (2 * width + more), gates, height, width, batch, 0.5, order));
        }
      }
    }
  }
  for (double density : {0.0, -1.0}) {  // lines without blocks are finished too
    for (int64_t batch : {1, 20}) Fused(MakeCase(25, 38, 2, 4, 4, batch, density, Order::kColumn));
  }
  for (int64_t batch : {2, 100}) {  // by several threads
    Fused(MakeCase(301, 600, 3, 8, 8, batch, 0.6, Order::kColumn));
    Fused(MakeCase(301, 600, 1, 4, 4, batch, 1.0, Order::kColumn, Pattern::kEmptyLines));
  }
}

}  // namespace

int main() {
  for (const KernelTable* table : SupportedTables()) {
    for (const Function& function : kFunctions) {
      FinishOfEveryFloat(*table, function);
      FinishKeepsToItsFeatures(*table, function);
    }
  }
  FusedToEveryProduct();
  return Finish();
}
