// The CUDA kernels and the code that launches them, on the emulator: nothing here runs on a GPU.
//
// All three products of every number format against plain loops in double, over block shapes, ragged sides, gates,
// patterns, storage orders, batch sizes, numbers of multiprocessors and alignments; the threads of a block take turns in
// three orders. Outputs and scratch memory are NaN at first.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/cc/check.h"
#include "tests/cc/cuda_numbers.h"
#include "tests/cc/cuda_products.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;
using cuda::Role;
using cuda::Type;

constexpr ThreadOrder kThreadOrders[] = {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled};
constexpr int64_t kMultiprocessors[] = {1, 8, 132};

// One case after the other takes another order, another device, another alignment.
Emulation Next(const Numeric& numeric) {
  static int count = 0;
  ++count;
  Emulation emulation = {};
  emulation.numeric = numeric;
  emulation.order = kThreadOrders[count % 3];
  emulation.device.architecture = 80;
  emulation.device.multiprocessors = kMultiprocessors[count / 3 % 3];
  emulation.aligned = count % 5 != 0;
  return emulation;
}

// The shapes that have kernels of their own, multiples, and some that have none.
const std::pair<int64_t, int64_t> kShapes[] = {{4, 4},   {8, 8},   {16, 16}, {32, 32}, {64, 64}, {128, 128}, {12, 2},
                                               {1, 16},  {16, 1},  {3, 5},   {1, 1},   {48, 32}, {16, 64},   {20, 8},
                                               {64, 16}, {96, 40}, {2, 200}, {130, 3}, {5, 16}};

void AllShapes() {
  for (const auto& [height, width] : kShapes) {
    Sample sample("cuda shapes " + std::to_string(height) + "x" + std::to_string(width));
    const bool large = height * width > 48 * 48;
    for (const Numeric& numeric : Numerics()) {
      for (const int64_t batch : {1, 5, 8, 9, 70, 140}) {
        if (large && batch > 70) continue;
        for (const Order order : {Order::kRow, Order::kColumn}) {
          if (!sample.Takes() || (batch > 9 && order == (batch == 70 ? Order::kRow : Order::kColumn))) continue;
          const int64_t gate = (large ? 1 : 3) * width + (batch % 2 == 0 ? (width + 1) / 2 : 0);
          const int64_t in = (large ? 2 : 5) * height + (batch % 5 == 0 ? height / 2 : 0);
          CheckEmulated(Next(numeric), MakeCase(in, 2 * gate, 2, height, width, batch, 0.5, order));
        }
      }
    }
  }
}

void AllPatterns() {
  const Pattern patterns[] = {Pattern::kRandom, Pattern::kBanded, Pattern::kEmptyLines, Pattern::kHeavyRow,
                              Pattern::kHeavyColumn};
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{4, 4}, {16, 16}, {7, 3}}) {
    for (const Numeric& numeric : Numerics()) {
      Sample sample(std::string("cuda patterns ") + numeric.name + std::to_string(height));
      for (const Pattern pattern : patterns) {
        for (const double density : {0.0, 0.3, 1.0}) {
          for (const int64_t batch : {0, 2, 33}) {
            if (!sample.Takes()) continue;
            CheckEmulated(Next(numeric),
                          MakeCase(9 * height + 1, 9 * width, 1, height, width, batch, density, Order::kRow, pattern));
          }
        }
      }
    }
  }
}

// Long lines and long batches are split, and their parts are added up.
void Splits() {
  for (const Numeric& numeric : Numerics()) {
    for (const ThreadOrder order : kThreadOrders) {
      Emulation emulation = Next(numeric);
      emulation.order = order;
      emulation.device.multiprocessors = 132;
      CheckEmulated(emulation, MakeCase(1500, 20, 1, 4, 4, order == ThreadOrder::kForward ? 3 : 20, 0.8));
      CheckEmulated(emulation, MakeCase(1500, 16, 1, 16, 16, order == ThreadOrder::kForward ? 20 : 3, 0.9));
      CheckEmulated(emulation, MakeCase(40, 24, 1, 16, 16, 300, 0.5));
    }
  }
}

// Where a launch cannot have as many thread blocks as the product takes, it does a part of the batch.
void ManyLaunches() {
  for (const Numeric& numeric : Numerics()) {
    Emulation emulation = Next(numeric);
    emulation.device.max_grid = 40;
    const Case c = MakeCase(32, 64, 1, 4, 4, 300, 0.5);
    const std::vector<float> x = RandomIntegers(c.batch * 32, 7);
    std::vector<double> expected = ReferenceProduct(c.w, x, c.batch);
    for (double& y : expected) y = Rounded(y, numeric.type);
    Compare(c.name + " in parts, " + numeric.name, EmulatedProduct(emulation, c.w, false, x, c.batch), expected);
  }
}

double Activated(double y, int activation) {
  switch (activation) {
    case 1:
      return y < 0 ? 0 : y;
    case 2:
      return std::tanh(y);
    case 3:
      return 1 / (1 + std::exp(-y));
    default:
      return y;
  }
}

// Half an ulp of the result, and what rounding the operands and adding them up may do.
double Tolerance(const Numeric& numeric, int64_t terms) {
  const double operand = numeric.tf32 ? 0x1p-11 : 0x1p-24;
  const double result = numeric.type == Type::kFloat16 ? 0x1p-11 : numeric.type == Type::kBFloat16 ? 0x1p-8 : 0x1p-23;
  return 8 * std::sqrt(static_cast<double>(terms)) * operand + 8 * result;
}

void Epilogues() {
  for (const Numeric& numeric : Numerics()) {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{16, 16}, {32, 64}, {5, 3}}) {
      for (int activation = 0; activation < 4; ++activation) {
        for (const int64_t batch : {2, 17}) {
          const Case c = MakeCase(6 * height, 2 * width + 1, 1, height, width, batch, 0.4, Order::kRow,
                                  Pattern::kRandom, Numbers::kFloats);
          BsrMatrix w = c.w;
          std::vector<float> x = RandomFloats(batch * 6 * height, 3);
          std::vector<float> bias = RandomFloats(2 * width + 1, 4);
          for (std::vector<float>* operand : {&w.blocks, &x, &bias}) {
            for (float& value : *operand) value = Rounded(value, numeric.type);
          }
          std::vector<double> expected = ReferenceProduct(w, x, batch);
          for (size_t i = 0; i < expected.size(); ++i) {
            expected[i] = Activated(expected[i] + bias[i % bias.size()], activation);
          }
          double largest = 1;
          for (const double value : expected) largest = std::max(largest, std::fabs(value));
          Compare(c.name + " activation " + std::to_string(activation) + " " + numeric.name,
                  EmulatedProduct(Next(numeric), w, false, x, batch, {&bias, activation}), expected,
                  Tolerance(numeric, 6 * height) * largest);
        }
      }
    }
  }
}

// NaN and infinity go where they belong and nowhere else.
void SpecialValues() {
  for (const Numeric& numeric : Numerics()) {
    for (const int64_t batch : {2, 20}) {
      const Case c = MakeCase(32, 32, 1, 16, 16, batch, 1.0);
      std::vector<float> x = RandomIntegers(batch * 32, 5);
      x[1 * 32 + 17] = NAN;
      x[0] = INFINITY;
      for (const int activation : {0, 1}) {
        const std::vector<float> y = EmulatedProduct(Next(numeric), c.w, false, x, batch, {nullptr, activation});
        for (int64_t i = 0; i < batch * 32; ++i) {
          const bool expected = i / 32 == 1 || (i / 32 == 0 && c.w.blocks[i / 16 * 256 + i % 16] == 0);
          CHECK_TRUE(std::isnan(y[i]) == expected, c.name + " element " + std::to_string(i) + " is " +
                                                       std::to_string(y[i]) + " in " + numeric.name);
        }
      }
    }
  }
}

void EveryKernelRan() {
  const std::vector<cuda::KernelInfo>& table = cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].role >= Role::kDynamicProduct) continue;  // see cuda_dynamic_test.cc and cuda_sequence_test.cc
    for (const ThreadOrder order : kThreadOrders) {
      CHECK_TRUE(Ran().count({static_cast<int>(i), order}) == 1,
                 std::string(table[i].name) + " did not run in order " + std::to_string(static_cast<int>(order)));
    }
  }
}

// There is a kernel for every choice; an older GPU gets one that it has.
void Choices() {
  for (const int architecture : {70, 72, 75, 80, 86, 90, 100, 120}) {
    for (const Numeric& numeric : Numerics()) {
      for (const Role role : {Role::kProduct, Role::kGradX, Role::kFewRows, Role::kGradBlocks, Role::kCombine,
                              Role::kGradCombine}) {
        for (const auto& [height, width] : kShapes) {
          cuda::KernelChoice choice = {role, numeric.type, numeric.tf32, architecture, 5, height, width};
          const int kernel = cuda::ChooseKernel(choice);
          CHECK_TRUE(kernel >= 0, "no kernel");
          if (kernel >= 0) CHECK_TRUE(cuda::KernelTable()[kernel].min_architecture <= architecture, "too new a kernel");
        }
      }
    }
  }
  const auto name = [](Role role, Type type, bool tf32, int architecture, int64_t k, int64_t n) {
    return std::string(cuda::KernelTable()[cuda::ChooseKernel({role, type, tf32, architecture, 100, k, n})].name);
  };
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat32, false, 80, 128, 128), "product_f32_64");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat32, true, 80, 32, 32), "product_tf32_32");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat32, true, 75, 32, 32), "product_f32_32");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat32, true, 80, 12, 2), "product_f32_12x2");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat16, false, 75, 16, 16), "product_f16_16");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat16, false, 70, 16, 16), "product_f16_any");
  CHECK_CONTAINS(name(Role::kProduct, Type::kFloat32, false, 80, 3, 5), "product_f32_any");
  CHECK_CONTAINS(name(Role::kGradX, Type::kFloat32, false, 80, 2, 12), "grad_x_f32_12x2");
  CHECK_CONTAINS(name(Role::kGradBlocks, Type::kFloat32, false, 80, 64, 64), "grad_blocks_f32_64");
  CHECK_CONTAINS(name(Role::kGradBlocks, Type::kBFloat16, false, 80, 32, 32), "grad_blocks_bf16_32");
}

void TooManyRows() {
  const Case c = MakeCase(8, 8, 1, 4, 4, 1, 1.0);
  const cuda::ProductPattern pattern = cuda::MakeProductPattern(Index(c.w, true), 8);
  cuda::KernelChoice choice = {};
  choice.batch = int64_t{1} << 31;
  cuda::ProductPlan plan;
  CHECK_CONTAINS(PlanProduct(pattern, {}, false, choice, &plan), "batch may be at most");
}

}  // namespace

int main() {
  AllShapes();
  AllPatterns();
  Splits();
  ManyLaunches();
  Epilogues();
  SpecialValues();
  Choices();
  TooManyRows();
  if (Sample("all").all()) EveryKernelRan();
  return Finish();
}
