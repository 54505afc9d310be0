// Products with chosen blocks, their gradients and the choice as CUDA kernels, on the emulator: nothing here runs on a
// GPU. Operands are integers, so that results must be equal; whatever must not be read is NaN, and so is what is written
// before it is.
#include <cmath>

#include "tests/cc/check.h"
#include "tests/cc/cuda_dynamic.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/cuda/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;
using cuda::Role;

constexpr ThreadOrder kThreadOrders[] = {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled};

// One case after the other takes another order, another device, another alignment.
Emulation Next() {
  static int count = 0;
  ++count;
  Emulation emulation = {};
  emulation.order = kThreadOrders[count % 3];
  emulation.device.multiprocessors = count / 3 % 3 == 0 ? 1 : count / 3 % 3 == 1 ? 8 : 132;
  emulation.aligned = count % 5 != 0;
  return emulation;
}

void AllShapes() {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1},  {4, 4},   {3, 5},   {16, 16}, {1, 16},   {16, 1},
                                                {32, 8}, {64, 64}, {70, 20}, {20, 70}, {128, 128}, {2, 200}};
  for (const auto& [height, width] : shapes) {
    Sample sample("cuda dynamic " + std::to_string(height) + "x" + std::to_string(width));
    for (const int64_t batch : {1, 2, 8, 9, 20}) {
      for (const double share : {0.05, 0.4, 1.0}) {
        if (!sample.Takes() || (height * width > 4096 && batch > 9)) continue;
        const int64_t rows = height * width > 1000 ? 2 : 7;
        const int64_t in = rows * height - (batch % 2 == 0 ? height / 2 : 0);
        const int64_t out = 3 * width - (batch % 3 == 0 ? width / 2 : 0);
        CheckDynamic(Next(), MakeDynamicProblem(in, out, height, width, batch, share));
      }
    }
  }
}

void NoChoicesAndChoicesThatComeTwice() {
  CheckDynamic(Next(), MakeDynamicProblem(40, 24, 8, 8, 5, 0.0));
  CheckDynamic(Next(), MakeDynamicProblem(40, 24, 8, 8, 0, 0.5));
  for (int i = 0; i < 3; ++i) CheckDynamic(Next(), MakeDynamicProblem(40, 24, 8, 8, 11, 0.5, true));
}

// Long lines are summed in parts, and long batches done in several launches.
void Parts() {
  for (const ThreadOrder order : kThreadOrders) {
    Emulation emulation = Next();
    emulation.order = order;
    emulation.device.multiprocessors = 132;
    CheckDynamic(emulation, MakeDynamicProblem(1200, 24, 4, 8, 3, 0.3));
    CheckDynamic(emulation, MakeDynamicProblem(60, 900, 20, 3, 9, 0.3));
    emulation.device.max_grid = 120;
    emulation.device.multiprocessors = 1;
    CheckDynamic(emulation, MakeDynamicProblem(48, 40, 8, 8, 200, 0.1));
  }
}

// The table of choices of a matrix of so many blocks is that of a part of the batch.
void TablesOfAPart() {
  const DynamicProblem p = MakeDynamicProblem(1500, 1500, 1, 1, 13, 0.00001);
  cuda::DynamicGradPlan plan;
  CHECK_TRUE(cuda::PlanDynamicGrad(p.grid, {}, p.batch, p.count, &plan).empty() && plan.launch_rows < p.batch,
             "the batch is done in parts");
  Emulation emulation = Next();
  emulation.order = ThreadOrder::kForward;
  Compare(p.name + " y in parts", EmulatedDynamic(emulation, p, false), ExpectedProduct(p));
}

void Epilogues() {
  const DynamicProblem p = MakeDynamicProblem(40, 33, 8, 16, 9, 0.5);
  const std::vector<float> bias = RandomIntegers(33, 9);
  for (int activation = 0; activation < 4; ++activation) {
    std::vector<double> expected = ExpectedProduct(p);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double y = expected[i] + bias[i % 33];
      expected[i] = activation == 0   ? y
                    : activation == 1 ? std::max(y, 0.0)
                    : activation == 2 ? std::tanh(y)
                                      : 1 / (1 + std::exp(-y));
    }
    for (const int multiprocessors : {1, 132}) {
      Emulation emulation = Next();
      emulation.device.multiprocessors = multiprocessors;
      Compare("activation " + std::to_string(activation), EmulatedDynamic(emulation, p, false, {&bias, activation}),
              expected, 1e-6);
    }
  }
}

// An id of no block reads nothing, and is seen in what its example gives.
void BadIds() {
  for (const int32_t bad : {-1, 15, 1 << 30, -(1 << 30)}) {
    DynamicProblem p = MakeDynamicProblem(40, 24, 8, 8, 3, 0.4);
    p.ids[p.count + 2] = bad;
    for (const bool transposed : {false, true}) {
      const std::vector<float> y = EmulatedDynamic(Next(), p, transposed);
      const int64_t features = static_cast<int64_t>(y.size()) / 3;
      for (size_t i = 0; i < y.size(); ++i) {
        CHECK_TRUE(std::isnan(y[i]) == (static_cast<int64_t>(i) / features == 1), "which rows are NaN");
      }
    }
    const std::vector<float> dgates = EmulatedDynamicGates(Next(), p);
    for (int64_t i = 0; i < static_cast<int64_t>(dgates.size()); ++i) {
      CHECK_TRUE(std::isnan(dgates[i]) == (i == p.count + 2), "which gates are NaN");
    }
    for (const float value : EmulatedDynamicGrad(Next(), p)) CHECK_TRUE(!std::isnan(value), "of the blocks none");
  }
}

void AllChoices() {
  for (const int64_t n : {1, 7, 256, 300, 1000}) {
    for (const int64_t count : {int64_t{1}, n / 3, n - 1, n}) {
      if (count < 1) continue;
      CheckChoice(Next(), RandomFloats(5 * n, 3), 5, count);
      CheckChoice(Next(), RandomIntegers(3 * n, 4), 3, count);  // with many that are equal
      CheckChoice(Next(), std::vector<float>(n, 0.0f), 1, count);
    }
  }
  Emulation emulation = Next();
  emulation.device.max_grid = 2;
  CheckChoice(emulation, RandomFloats(5 * 40, 5), 5, 11);
  std::vector<float> scores = RandomFloats(40, 6);
  scores[7] = NAN;
  const Chosen chosen = EmulatedChoice(Next(), scores, 1, 3, 1e-3f);
  CHECK_TRUE(std::count(chosen.ids.begin(), chosen.ids.end(), 7) == 1, "NaN is larger than any number");
  for (const float gate : chosen.gates) CHECK_TRUE(std::isnan(gate), "a mean with NaN");
}

void EveryKernelRan() {
  const std::vector<cuda::KernelInfo>& table = cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].role < Role::kDynamicProduct || table[i].role > Role::kChooseBlocks) continue;
    for (const ThreadOrder order : kThreadOrders) {
      CHECK_TRUE(Ran().count({static_cast<int>(i), order}) == 1,
                 std::string(table[i].name) + " did not run in order " + std::to_string(static_cast<int>(order)));
    }
  }
}

}  // namespace

int main() {
  AllShapes();
  NoChoicesAndChoicesThatComeTwice();
  Parts();
  TablesOfAPart();
  Epilogues();
  BadIds();
  AllChoices();
  if (Sample("all").all()) EveryKernelRan();
  return Finish();
}
