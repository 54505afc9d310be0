#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_choose.h"

#include <algorithm>
#include <cstring>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {
namespace {

// A digit of a key in the search for the smallest that is chosen; three make 32 bits.
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// max(score, 0) as an integer that orders likewise: the bits of floats from 0 on do, and those of NaN come last. In
// integers, since TensorFlow's threads take denormal numbers for zeros.
uint32_t KeyOf(float score) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const bool negative = bits >> 31;
  const bool missing = (bits & 0x7fffffff) > 0x7f800000;
  return missing ? ~uint32_t{0} : negative ? 0 : bits;
}

// The count-th largest key, by counting digits from the highest on, and how many of the chosen are equal to it.
struct Threshold {
  uint32_t key;
  int64_t equal;
};

Threshold FindThreshold(const float* scores, int64_t blocks, int64_t count) {
  uint32_t key = 0;
  uint32_t known = 0;  // the bits of `key` that are found
  int64_t left = count;
  for (int shift : {32 - kDigitBits, 32 - 2 * kDigitBits, 0}) {
    int32_t counts[kDigits] = {};
    for (int64_t i = 0; i < blocks; ++i) {
      const uint32_t each = KeyOf(scores[i]);
      if ((each & known) == key) ++counts[(each >> shift) % kDigits];
    }
    // The last digit shares a bit with the one before: what is known fixes it.
    int digit = kDigits - 1;
    for (; digit > 0 && counts[digit] < left; --digit) left -= counts[digit];
    key |= static_cast<uint32_t>(digit) << shift;
    known |= static_cast<uint32_t>(kDigits - 1) << shift;
  }
  return {key, left};
}

void ChooseRow(const BlockChoice& choice, int64_t row) {
  const float* scores = choice.scores + row * choice.blocks;
  int32_t* ids = choice.ids + row * choice.count;
  float* gates = choice.gates + row * choice.count;
  Threshold threshold = FindThreshold(scores, choice.blocks, choice.count);
  double sum = 0;
  int64_t k = 0;
  for (int64_t i = 0; i < choice.blocks && k < choice.count; ++i) {
    const uint32_t key = KeyOf(scores[i]);
    if (key < threshold.key || (key == threshold.key && threshold.equal-- <= 0)) continue;
    ids[k] = static_cast<int32_t>(i);
    gates[k] = key == 0 ? 0.0f : scores[i];
    sum += gates[k++];
  }
  // Fewer than were counted only if the scores have changed meanwhile.
  for (; k < choice.count; ++k) ids[k] = 0, gates[k] = 0.0f;
  const float mean = static_cast<float>(sum / static_cast<double>(choice.blocks));
  const float divisor = mean < choice.epsilon ? choice.epsilon : mean;  // NaN stays
  for (int64_t i = 0; i < choice.count; ++i) gates[i] /= divisor;
}

}  // namespace

void ChooseBlocks(const BlockChoice& choice, int64_t threads, const ParallelFor& parallel_for) {
  if (choice.batch == 0 || choice.count == 0) return;
  constexpr double kNanosecondsPerBlock = 4;
  const double nanoseconds = static_cast<double>(choice.batch) * static_cast<double>(choice.blocks) * kNanosecondsPerBlock;
  const int64_t workers = std::min(UsefulWorkers(nanoseconds, threads), choice.batch);
  const auto work = [&](int64_t worker) {
    for (int64_t row = choice.batch * worker / workers; row < choice.batch * (worker + 1) / workers; ++row) {
      ChooseRow(choice, row);
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    parallel_for(workers, work);
  }
}

}  // namespace blocksparse
