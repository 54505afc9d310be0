// The product in which every example has chosen its blocks, and its gradients, against plain loops in double: every
// instruction set, every kernel of the lists, ragged sides, batch sizes, shares of blocks, threads. Operands are
// integers, so that every result is exact and must be equal; what lies outside of W, and every block that nobody wants,
// is NaN, and so is what is written before it is.
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "tests/cc/check.h"
#include "tests/cc/dynamic_problem.h"
#include "tests/cc/products.h"
#include "tests/cc/random_matrix.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

// Memory that ends where it ends, for AddressSanitizer to see.
struct Grouped {
  std::vector<float> workspace;
  Groups groups;
};

std::string Group(const DynamicProblem& p, GroupOrder order, ZeroGates zeros, Grouped* grouped) {
  CHECK_EQUAL(CheckChoices(p.grid, p.choices()).size(), 0u);
  grouped->workspace.assign(GroupWords(p.grid, p.choices(), zeros), kNaN);
  return GroupByBlock(p.grid, p.choices(), order, zeros, grouped->workspace.data(), &grouped->groups);
}

struct Level {
  std::string name;
  const KernelTable* common;
  const DynamicTable* table;
};

std::vector<Level> Levels() {
  std::vector<Level> levels;
  for (const KernelTable* common : SupportedTables()) {
    levels.push_back({common->isa, common, ChooseDynamicTable(common->isa)});
    CHECK_TRUE(std::strcmp(levels.back().table->isa, common->isa) == 0, common->isa);
  }
  CHECK_EQUAL(levels.size(), SupportedDynamicTables().size());
  return levels;
}

std::vector<float> Product(const Level& level, const DynamicProblem& p, int64_t threads, const Epilogue& epilogue = {}) {
  const DynamicKernels kernels(*level.table, *level.common, DynamicType::kFloat32);
  Grouped grouped;
  CHECK_EQUAL(Group(p, GroupOrder::kByColumn, ZeroGates::kDrop, &grouped).size(), 0u);
  Buffer x(p.x, false);
  Buffer blocks(p.blocks, false);
  Buffer y(p.batch * p.grid.columns.features, false);
  const DynamicOperands operands = {x.data(), blocks.data(), nullptr, epilogue, y.data()};
  RunDynamicProduct(kernels, p.grid, p.batch, grouped.groups, threads, operands, ThreadedFor);
  return y.values();
}

struct FloatGradients {
  std::vector<float> dx;
  std::vector<float> dgates;
  std::vector<float> dblocks;
};

FloatGradients Gradient(const Level& level, const DynamicProblem& p, int64_t threads) {
  const DynamicKernels kernels(*level.table, *level.common, DynamicType::kFloat32);
  Grouped all;
  Grouped nonzero;
  CHECK_EQUAL(Group(p, GroupOrder::kByRow, ZeroGates::kKeep, &all).size(), 0u);
  CHECK_EQUAL(Group(p, GroupOrder::kByRow, ZeroGates::kDrop, &nonzero).size(), 0u);
  Buffer dx(p.batch * p.grid.rows.features, false);
  Buffer dgates(p.batch * p.count, false);
  Buffer dblocks(static_cast<int64_t>(p.blocks.size()), false);
  Buffer x(p.x, false);
  Buffer dz(p.dz, false);
  Buffer blocks(p.blocks, false);
  DynamicGradPlan plan = PlanInputGradients(kernels, p.grid, all.groups, threads);
  std::vector<float> workspace(plan.workspace_floats, kNaN);
  RunInputGradients(plan, kernels, p.grid, p.batch, all.groups,
                    {dz.data(), x.data(), blocks.data(), dx.data(), dgates.data()}, workspace.data(), ThreadedFor);
  plan = PlanBlockGradients(kernels, p.grid, nonzero.groups, threads);
  workspace.assign(plan.workspace_floats, kNaN);
  RunBlockGradients(plan, kernels, p.grid, nonzero.groups, x.data(), dz.data(), dblocks.data(), workspace.data(),
                    ThreadedFor);
  return {dx.values(), dgates.values(), dblocks.values()};
}

void Run(const DynamicProblem& p, const std::vector<int64_t>& threads = {1}) {
  const std::vector<double> y = ExpectedProduct(p);
  const Gradients d = ExpectedGradients(p);
  for (const Level& level : Levels()) {
    for (int64_t t : threads) {
      const std::string name = p.name + " " + level.name + " threads " + std::to_string(t);
      Compare(name + " y", Product(level, p, t), y);
      const FloatGradients got = Gradient(level, p, t);
      Compare(name + " dx", got.dx, d.dx);
      Compare(name + " dgates", got.dgates, d.dgates);
      Compare(name + " dblocks", got.dblocks, d.dblocks);
    }
  }
}

void Grids() {
  Sample sample("dynamic grids");
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1},   {4, 4},   {3, 5},   {16, 16},  {1, 16},  {16, 1},
                                                           {8, 32},  {64, 24}, {32, 64}, {128, 128}, {40, 200}};
  for (const auto& [height, width] : shapes) {
    for (int64_t batch : {1, 2, 3, 5, 8, 15, 64, 70}) {
      if (height * width < 16 && batch > 3) continue;
      for (double share : {0.0, 0.1, 0.6, 1.0}) {
        if (!sample.Takes()) continue;
        Run(MakeDynamicProblem(96, 128, height, width, batch, share));
        Run(MakeDynamicProblem(101, 131, height, width, batch, share));
        Run(MakeDynamicProblem(5, 3, height, width, batch, share, true));
      }
    }
  }
  for (int64_t batch : {1, 9, 70}) Run(MakeDynamicProblem(60, 70, 8, 16, batch, 0.5, true));
}

// Floats, whose sums depend on their order: the bits are those of one thread and of each example by itself.
void SameBits() {
  int split = 0;
  for (const Level& level : Levels()) {
    for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {128, 128}, {50, 70}, {20, 12}}) {
      for (int64_t batch : {1, 7, 16}) {
        DynamicProblem p = MakeDynamicProblem(1500, 1601, height, width, batch, 0.6);
        p.gates = RandomFloats(batch * p.count, 13);
        p.x = RandomFloats(batch * 1500, 14);
        p.dz = RandomFloats(batch * 1601, 15);
        p.blocks = RandomFloats(static_cast<int64_t>(p.blocks.size()), 16);
        Spoil(&p);
        const std::vector<float> one = Product(level, p, 1);
        const FloatGradients d = Gradient(level, p, 1);
        for (int64_t threads : {2, 3, 5}) {
          const std::string name = p.name + " " + level.name + " threads " + std::to_string(threads);
          CHECK_TRUE(Product(level, p, threads) == one, name);
          const FloatGradients other = Gradient(level, p, threads);
          CHECK_TRUE(other.dx == d.dx && other.dgates == d.dgates && other.dblocks == d.dblocks, name);
          Grouped grouped;
          CHECK_EQUAL(Group(p, GroupOrder::kByRow, ZeroGates::kKeep, &grouped).size(), 0u);
          const DynamicKernels kernels(*level.table, *level.common, DynamicType::kFloat32);
          split += PlanInputGradients(kernels, p.grid, grouped.groups, threads).workers > 1;
        }
        for (int64_t b : {int64_t{0}, batch - 1}) {
          DynamicProblem alone = p;
          alone.batch = 1;
          alone.ids.assign(p.ids.begin() + b * p.count, p.ids.begin() + (b + 1) * p.count);
          alone.gates.assign(p.gates.begin() + b * p.count, p.gates.begin() + (b + 1) * p.count);
          alone.x.assign(p.x.begin() + b * 1500, p.x.begin() + (b + 1) * 1500);
          const std::vector<float> row(one.begin() + b * 1601, one.begin() + (b + 1) * 1601);
          CHECK_TRUE(Product(level, alone, 1) == row, p.name + " alone " + level.name);
        }
      }
    }
  }
  CHECK_TRUE(split > 0, "work was split");
}

// The same numbers in memory, at an odd address.
std::vector<uint8_t> Stored(const std::vector<float>& values, DynamicType type) {
  std::vector<uint8_t> bytes = {0};
  for (const float value : values) {
    uint8_t float_bytes[4];
    std::memcpy(float_bytes, &value, 4);
    if (type == DynamicType::kFloat32) bytes.insert(bytes.end(), float_bytes, float_bytes + 4);
    if (type == DynamicType::kBfloat16) bytes.insert(bytes.end(), float_bytes + 2, float_bytes + 4);
    if (type == DynamicType::kInt8) bytes.push_back(static_cast<uint8_t>(static_cast<int>(value)));
  }
  return bytes;
}

// Every kernel of every list by itself, whatever the chooser would take.
void Kernels() {
  for (const Level& level : Levels()) {
    std::set<std::string> names;
    std::set<DynamicType> ones;
    for (int64_t i = 0; i < level.table->num_kernels; ++i) {
      const DynamicKernel& kernel = level.table->kernels[i];
      CHECK_TRUE(names.insert(kernel.name).second, std::string("two kernels named ") + kernel.name);
      if (kernel.columns == 1 && kernel.examples == 1) ones.insert(kernel.type);
      for (int64_t depth : {1, 2, 7, 64}) {
        const int64_t stride = kernel.columns + 3;
        const int64_t examples = kernel.examples;
        const std::vector<float> w = RandomIntegers((depth - 1) * stride + kernel.columns, 1);
        const std::vector<float> x = RandomIntegers((examples + 1) * depth, 2);
        std::vector<float> y = RandomIntegers((examples + 1) * kernel.columns, 3);
        std::vector<double> expected(y.begin(), y.end());
        std::vector<DynamicEntry> entries;
        for (int64_t e = 0; e < examples; ++e) {
          entries.push_back({static_cast<int32_t>(e == 1 ? 0 : examples - e), static_cast<float>(e % 5 - 2)});
        }
        for (const DynamicEntry& entry : entries) {
          for (int64_t c = 0; c < kernel.columns; ++c) {
            double sum = 0;
            for (int64_t d = 0; d < depth; ++d) sum += double{x[entry.example * depth + d]} * w[d * stride + c];
            expected[entry.example * kernel.columns + c] += sum * entry.gate * 2;
          }
        }
        DynamicJob job = {};
        const bool is_float = kernel.type == DynamicType::kFloat32;  // 4 bytes off a multiple of 64, but no odd address
        const std::vector<uint8_t> bytes = Stored(w, kernel.type);
        Buffer buffer(w, false);
        job.block = is_float ? static_cast<const void*>(buffer.data()) : bytes.data() + 1;
        job.ahead = nullptr;
        job.rows_ahead = std::min<int64_t>(depth, 4);
        job.stride = stride;
        job.depth = depth;
        job.scale = 2.0f;
        job.entries = entries.data();
        job.x = x.data();
        job.x_stride = depth;
        job.y = y.data();
        job.y_stride = kernel.columns;
        kernel.multiply(job);
        Compare(level.name + " " + kernel.name + " depth " + std::to_string(depth), y, expected);
      }
    }
    CHECK_EQUAL(ones.size(), 3u);  // of any type, one serves a single column of a single example
  }
}

void Epilogues() {
  const DynamicProblem p = MakeDynamicProblem(101, 131, 32, 48, 9, 0.5);
  std::vector<double> expected = ExpectedProduct(p);
  const std::vector<float> bias = RandomIntegers(131, 9);
  for (size_t e = 0; e < expected.size(); ++e) expected[e] = std::max(expected[e] + bias[e % 131], 0.0);
  Epilogue epilogue;
  epilogue.bias = bias.data();
  epilogue.activation = Activation::kRelu;
  for (const Level& level : Levels()) Compare("relu " + level.name, Product(level, p, 1, epilogue), expected);
}

// The largest of each row, and of equal ones those of lower index, against a stable sort.
void ChosenBlocks() {
  for (const Level& level : Levels()) {
    for (int64_t blocks : {1, 15, 16, 17, 300}) {
      for (int64_t count : {int64_t{0}, int64_t{1}, blocks / 2, blocks}) {
        for (bool integers : {true, false}) {
          const int64_t batch = 7;
          std::vector<float> scores =
              integers ? RandomIntegers(batch * blocks, 1) : RandomFloats(batch * blocks, 1);
          scores[0] = 1e-42f;
          std::vector<int32_t> ids(batch * count, -1);
          std::vector<float> gates(batch * count, kNaN);
          std::vector<int32_t> keys(3 * blocks);
          ChooseBlocks(*level.table, {scores.data(), batch, blocks, count, 1e-3f, ids.data(), gates.data()}, 3,
                       keys.data(), ThreadedFor);
          for (int64_t b = 0; b < batch; ++b) {
            const float* row = scores.data() + b * blocks;
            std::vector<int32_t> expected(blocks);
            for (int64_t i = 0; i < blocks; ++i) expected[i] = static_cast<int32_t>(i);
            std::stable_sort(expected.begin(), expected.end(), [&](int32_t i, int32_t j) {
              return std::max(row[i], 0.0f) > std::max(row[j], 0.0f);
            });
            expected.resize(count);
            std::sort(expected.begin(), expected.end());
            double sum = 0;
            for (int32_t i : expected) sum += std::max(row[i], 0.0f);
            const double divisor = std::max(sum / static_cast<double>(blocks), 1e-3);
            for (int64_t k = 0; k < count; ++k) {
              const std::string name = level.name + " chosen " + std::to_string(k) + " of " + std::to_string(blocks);
              CHECK_TRUE(ids[b * count + k] == expected[k], name);
              CHECK_TRUE(std::abs(gates[b * count + k] - std::max(row[expected[k]], 0.0f) / divisor) < 1e-5, name);
            }
          }
        }
      }
    }
  }
}

// Ids that are no block are refused, wherever they stand; sizes beyond 32 bits, too.
void BadChoices() {
  for (int32_t bad : {-1, 42, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    for (int64_t at : {0, 5, 17}) {
      DynamicProblem p = MakeDynamicProblem(60, 70, 10, 10, 6, 3.0 / 42);
      p.ids[at] = bad;
      p.gates[at] = 0;
      for (GroupOrder order : {GroupOrder::kByRow, GroupOrder::kByColumn}) {
        Grouped grouped;
        CHECK_CONTAINS(Group(p, order, ZeroGates::kDrop, &grouped),
                       "block_ids[" + std::to_string(at / 3) + ", " + std::to_string(at % 3) + "] = " +
                           std::to_string(bad) + " is not in [0, 42)");
      }
    }
  }
  Grid grid;
  CHECK_TRUE(MakeGrid(1 << 20, 1 << 20, 1, 4, 4, &grid).empty(), "a grid of 2^36 blocks");
  CHECK_CONTAINS(CheckChoices(grid, {nullptr, nullptr, 1, 1}), "at most 2147483645 blocks, got 68719476736");
  CHECK_TRUE(MakeGrid(4, 4, 1, 4, 4, &grid).empty(), "a grid of one block");
  CHECK_CONTAINS(CheckChoices(grid, {nullptr, nullptr, int64_t{1} << 40, int64_t{1} << 40}), "at most 2147483645");
  CHECK_CONTAINS(CheckChoices(grid, {nullptr, nullptr, 1 << 16, 1 << 16}), "got shape [65536, 65536]");
  CHECK_EQUAL(CheckChoices(grid, {nullptr, nullptr, int64_t{1} << 40, 0}).size(), 0u);
}

}  // namespace

int main() {
  Kernels();
  BadChoices();
  Epilogues();
  ChosenBlocks();
  Grids();
  if (Sample("dynamic bits").all()) SameBits();
  Run(MakeDynamicProblem(1000, 1100, 64, 48, 16, 0.7), {2, 3});
  return Finish();
}
