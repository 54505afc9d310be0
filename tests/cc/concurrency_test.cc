// Several threads use one index and one plan at the same time, as the ops do: the index is kept between calls and
// shared by all of them. Under ThreadSanitizer this also shows a read that is not one.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif

#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/gather.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr int64_t kCallers = 4;
constexpr int64_t kCalls = 3;  // of each caller: two callers then run different parts at once

// Every caller writes `size` floats in call(caller, workspace, output); all must be `expected`.
void Callers(const std::string& what, int64_t workspace_floats, const std::vector<double>& expected,
             const std::function<void(float* workspace, float* output)>& call) {
  std::vector<std::vector<float>> outputs(kCallers, std::vector<float>(expected.size()));
  std::vector<std::thread> threads;
  for (int64_t caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&, caller] {
      std::vector<float> workspace(workspace_floats);
      for (int64_t i = 0; i < kCalls; ++i) {
        std::fill(outputs[caller].begin(), outputs[caller].end(), -1.0f);
        call(workspace.data(), outputs[caller].data());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& output : outputs) Compare(what, output, expected);
}

// `threads` of the plan, inside of each caller.
void SharedPlans(const Case& c, const KernelTable& table, int64_t threads) {
  const std::vector<float> x = RandomIntegers(c.batch * c.w.grid.rows.features, 7);
  const std::vector<float> dy = RandomIntegers(c.batch * c.w.grid.columns.features, 8);
  const std::string what = c.name + " " + table.isa + " threads " + std::to_string(threads);
  const float* blocks = c.w.blocks.data();
  const BlockIndex by_column = Index(c.w, true);
  const BlockIndex by_row = Index(c.w, false);
  const ProductPlan product = PlanProduct(table, by_column, c.batch, threads);
  const ProductPlan transposed = PlanProduct(table, by_row, c.batch, threads);
  const GradPlan grad = PlanGrad(table, by_row, c.batch, threads);
  if (threads > 1) CHECK_TRUE(product.workers > 1 && transposed.workers > 1 && grad.workers > 1, what + " is split");
  Callers(what + " y", product.workspace_floats, ReferenceProduct(c.w, x, c.batch), [&](float* workspace, float* y) {
    RunProduct(product, x.data(), blocks, Epilogue(), y, workspace, ThreadedFor);
  });
  Callers(what + " dx", transposed.workspace_floats, ReferenceGradX(c.w, dy, c.batch),
          [&](float* workspace, float* dx) {
            RunProduct(transposed, dy.data(), blocks, Epilogue(), dx, workspace, ThreadedFor);
          });
  Callers(what + " dblocks", grad.workspace_floats, ReferenceGradBlocks(c.w, x, dy, c.batch),
          [&](float* workspace, float* dblocks) {
            RunGrad(grad, x.data(), dy.data(), dblocks, workspace, ThreadedFor);
          });
}

void SharedIndexOfGather() {
  const BsrMatrix w = RandomMatrix(400, 3000, 1, 8, 8, 0.5, 9);
  const BlockIndex index = Index(w, false);
  const std::vector<double> dense = ReferenceDense(w);
  std::vector<int32_t> ids;
  std::vector<double> expected;
  for (int32_t id = 0; id < 400; id += 3) {
    ids.push_back(id);
    expected.insert(expected.end(), dense.begin() + id * 3000, dense.begin() + (id + 1) * 3000);
  }
  Callers("gather", 0, expected, [&](float*, float* rows) {
    GatherRows(index, w.blocks.data(), ids.data(), static_cast<int64_t>(ids.size()), rows, 2, ThreadedFor);
  });
}

void ActiveTableIsChosenOnce() {
  std::vector<const KernelTable*> tables(kCallers);
  std::vector<std::thread> threads;
  for (int64_t caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&, caller] {
      std::string error;
      tables[caller] = ActiveTable(&error);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const KernelTable* table : tables) CHECK_TRUE(table != nullptr && table == tables[0], "one table for all");
}

// How often each of n tasks was called.
std::vector<int> Counts(const ParallelFor& parallel_for, int64_t n) {
  std::vector<std::atomic<int>> counts(n);
  parallel_for(n, [&](int64_t i) { counts[i].fetch_add(1); });
  return std::vector<int>(counts.begin(), counts.end());
}

// A busy pool may run what it was given at once, after the call, or never.
void HelpersMayComeLateOrNever() {
  std::vector<std::function<void()>> kept;
  std::vector<std::thread> threads;
  const std::vector<std::function<void(std::function<void()>)>> pools = {
      [](std::function<void()>) {},
      [](std::function<void()> helper) { helper(); },
      [&](std::function<void()> helper) { kept.push_back(std::move(helper)); },
      [&](std::function<void()> helper) { threads.emplace_back(std::move(helper)); },
  };
  for (const auto& pool : pools) {
    for (int64_t n : {1, 2, 3, 50}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        CHECK_TRUE(Counts(WithHelpers(pool), n) == std::vector<int>(n, 1), "each task once");
      }
    }
  }
  for (const std::function<void()>& helper : kept) helper();  // the tasks are long gone
  for (std::thread& thread : threads) thread.join();
}

#if defined(__linux__)
// A processor does the tasks in an order of its own, the same in every call, so that it meets the same part of the
// weights every time.
void ProcessorsKeepTheirTasks() {
  cpu_set_t allowed;
  CHECK_TRUE(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
  const ParallelFor parallel_for = WithHelpers([](std::function<void()>) {});
  const int64_t n = 2 * static_cast<int64_t>(std::thread::hardware_concurrency());
  std::vector<int64_t> first_tasks;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &allowed)) continue;
    std::thread([&] {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(processor, &one);
      CHECK_TRUE(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");
      for (int repeat = 0; repeat < 3; ++repeat) {
        std::vector<int64_t> order;
        parallel_for(n, [&](int64_t i) { order.push_back(i); });
        if (repeat == 0) first_tasks.push_back(order[0]);
        const int64_t first = first_tasks.back();
        CHECK_TRUE(order[0] == first && order[1] == first + 1, "its own tasks");
        for (int64_t i = 2; i < n; ++i) CHECK_TRUE(order[i] == (first + 1 - i + n) % n, "then those of others");
      }
    }).join();
  }
  // Processors whose numbers have gaps may have to begin at the same place.
  const bool gaps = CPU_COUNT(&allowed) != n / 2 || !CPU_ISSET(n / 2 - 1, &allowed);
  for (int64_t i = 0; i < n / 2 && !gaps; ++i) CHECK_TRUE(first_tasks[i] == 2 * i, "each processor begins elsewhere");
}
#endif

}  // namespace

int main() {
  HelpersMayComeLateOrNever();
#if defined(__linux__)
  ProcessorsKeepTheirTasks();
#endif
  ActiveTableIsChosenOnce();
  for (const KernelTable* table : SupportedTables()) {
    Sample sample(table->isa);
    for (Order order : {Order::kRow, Order::kColumn}) {
      for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {16, 16}, {3, 5}}) {
        for (int64_t batch : {3, 40}) {
          if (!sample.Takes()) continue;
          SharedPlans(MakeCase(11 * height, 2 * (7 * width + 1), 2, height, width, batch, 0.5, order), *table, 1);
        }
        if (!sample.Takes() && height != 4) continue;  // plans that are split are what this test is about
        SharedPlans(MakeCase(301, 400, 2, height, width, 90, 0.6, order), *table, 3);
      }
    }
  }
  SharedIndexOfGather();
  return Finish();
}
