#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_choose.h"

#include <algorithm>
#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {
namespace {

// The smallest key that is chosen, or one between it and the next smaller, and how many that are equal to it.
struct Threshold {
  int32_t key;
  int64_t equal;
};

// Finds bit after bit by counting. A vector counts 16 keys at once: several times as fast as a histogram of digits, whose
// counts wait for one another where scores are alike.
Threshold FindThreshold(const DynamicTable& table, const int32_t* keys, int64_t n, int64_t wanted) {
  int32_t key = 0;
  for (int bit = 30; bit >= 0; --bit) {
    const int32_t candidate = key | (int32_t{1} << bit);
    const int64_t count = table.count_keys(keys, n, candidate);
    if (count >= wanted) key = candidate;
    if (count == wanted) return {key, wanted};
  }
  const int64_t larger = key == INT32_MAX ? 0 : table.count_keys(keys, n, key + 1);
  return {key, wanted - larger};
}

void ChooseRow(const DynamicTable& table, const BlockChoice& choice, int64_t row, int32_t* keys) {
  const float* scores = choice.scores + row * choice.blocks;
  int32_t* ids = choice.ids + row * choice.count;
  float* gates = choice.gates + row * choice.count;
  table.order_keys(scores, choice.blocks, keys);
  const Threshold threshold = FindThreshold(table, keys, choice.blocks, choice.count);
  int64_t k = 0;
  int64_t equal = threshold.equal;
  // Writes first and counts then: which one is chosen cannot be foretold.
  for (int64_t i = 0; i < choice.blocks && k < choice.count; ++i) {
    const bool same = keys[i] == threshold.key;
    const bool chosen = (keys[i] > threshold.key) | (same & (equal > 0));
    equal -= same;
    ids[k] = static_cast<int32_t>(i);
    gates[k] = keys[i] == 0 ? 0.0f : scores[i];
    k += chosen;
  }
  double sum = 0;
  for (int64_t i = 0; i < choice.count; ++i) sum += gates[i];
  const float mean = static_cast<float>(sum / static_cast<double>(choice.blocks));
  const float divisor = mean < choice.epsilon ? choice.epsilon : mean;  // NaN stays
  for (int64_t i = 0; i < choice.count; ++i) gates[i] /= divisor;
}

}  // namespace

int64_t ChooseWorkers(const BlockChoice& choice, int64_t threads) {
  constexpr double kNanosecondsPerBlock = 4;
  const double blocks = static_cast<double>(choice.batch) * static_cast<double>(choice.blocks);
  return std::max<int64_t>(std::min(UsefulWorkers(blocks * kNanosecondsPerBlock, threads), choice.batch), 1);
}

void ChooseBlocks(const DynamicTable& table, const BlockChoice& choice, int64_t workers, int32_t* keys,
                  const ParallelFor& parallel_for) {
  if (choice.count == 0) return;
  const auto work = [&](int64_t worker) {
    for (int64_t row = choice.batch * worker / workers; row < choice.batch * (worker + 1) / workers; ++row) {
      ChooseRow(table, choice, row, keys + worker * choice.blocks);
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    parallel_for(workers, work);
  }
}

}  // namespace blocksparse
