// All three products against plain loops: block shapes, ragged sides, gates, batch sizes, densities, patterns, storage
// orders, instruction sets, threads. Operands are small integers, so that every result is exact and must be equal.
#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/sample.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr Order kOrders[] = {Order::kRow, Order::kColumn};
constexpr Pattern kPatterns[] = {Pattern::kRandom, Pattern::kBanded, Pattern::kEmptyLines, Pattern::kHeavyRow,
                                 Pattern::kHeavyColumn};

void AllBatches() {
  for (const auto& [height, width] : BlockShapes()) {
    Sample sample("batches " + std::to_string(height) + "x" + std::to_string(width));
    const bool large = height * width > 64 * 64;
    for (int64_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 47, 64, 70, 150, 300}) {
      for (Order order : kOrders) {
        if (!(large && batch > 70) && sample.Takes()) {
          CheckProducts(MakeCase(3 * height, 4 * width, 1, height, width, batch, 0.5, order));
        }
        if (batch > (large ? 17 : 70) || !sample.Takes()) continue;
        const int64_t gate = (width > 32 ? 1 : 4) * (2 * width + (width + 1) / 2);
        CheckProducts(MakeCase(3 * height + (height + 1) / 2, 3 * gate, 3, height, width, batch, 0.4, order));
      }
    }
  }
}

void AllDensitiesAndGates() {
  for (const auto& [height, width] : BlockShapes()) {
    Sample sample("densities " + std::to_string(height) + "x" + std::to_string(width));
    for (int64_t gates : {1, 3, 4}) {
      for (double density : {0.0, -1.0, 0.1, 0.5, 1.0}) {
        for (int64_t batch : {0, 1, 3, 16, 33}) {
          for (int64_t more : {0, 1}) {  // one row and one column more than full blocks
            for (Order order : kOrders) {
              if (!sample.Takes()) continue;
              CheckProducts(MakeCase((height > 64 ? 2 : 4) * height + more, gates * (2 * width + more), gates, height,
                                     width, batch, density, order));
            }
          }
        }
      }
    }
  }
}

// Nine block rows and nine block columns of each gate, and ragged ones where `more` is 1.
void AllPatterns() {
  for (const auto& [height, width] : BlockShapes()) {
    if (height * width > 64 * 64) continue;
    Sample sample("patterns " + std::to_string(height) + "x" + std::to_string(width));
    for (Pattern pattern : kPatterns) {
      for (double density : {0.3, 1.0}) {
        for (int64_t batch : {1, 4, 19, 64}) {
          for (int64_t more : {0, 1}) {
            for (Order order : kOrders) {
              if ((pattern == Pattern::kHeavyRow || pattern == Pattern::kHeavyColumn) && density < 1) continue;
              if (!sample.Takes() || (height * width > 32 * 32 && batch > 4)) continue;
              const int64_t gates = more == 1 && width < 64 ? 3 : 1;
              CheckProducts(MakeCase(9 * height + more, gates * (9 * width + more), gates, height, width, batch,
                                     density, order, pattern));
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
    CheckProducts(MakeCase(3, 2, 1, 16, 16, batch, 1.0));
    CheckProducts(MakeCase(1, 4, 4, 8, 8, batch, 1.0));
    CheckProducts(MakeCase(5, 6, 2, 300, 300, batch, 1.0));
  }
}

// Large enough for the plan to use threads.
void Threaded() {
  int split = 0;
  int cases = 0;
  Sample sample("threaded");
  for (const auto& [height, width] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {16, 16}, {12, 2}, {3, 5}, {1, 1}, {128, 128}}) {
    for (int64_t batch : {1, 8, 33, 256}) {
      if (!sample.Takes()) continue;
      ++cases;
      const Order order = batch == 8 ? Order::kRow : Order::kColumn;
      split += CheckProducts(MakeCase(500, 600, 3, height, width, batch, 0.6, order));
    }
  }
  if (sample.all()) CHECK_TRUE(split >= 3 * cases, "the work was split");
}

// A matrix so large that several tiles of x share a reading of it, and the work is split by lines.
void LargeMatrix() {
  Sample sample("large");
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{16, 16}, {4, 4}, {5, 7}}) {
    for (int64_t batch : {20, 170}) {
      if (!sample.Takes()) continue;
      CheckProducts(MakeCase(1030, 1100, 2, height, width, batch, 1.0, Order::kColumn));
    }
  }
}

// Lines with very different numbers of blocks: a worker may get one line, or none.
void ThreadedPatterns() {
  Sample sample("threaded patterns");
  int split = 0;
  int cases = 0;
  for (Pattern pattern : kPatterns) {
    for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{4, 4}, {3, 5}, {32, 32}}) {
      for (Order order : kOrders) {
        if (!sample.Takes()) continue;
        ++cases;
        split += CheckProducts(MakeCase(601, 700, 1, height, width, 70, 1.0, order, pattern));
      }
    }
  }
  if (sample.all()) CHECK_TRUE(split >= cases, "the work was split");
}

void FloatsAreClose() {
  for (const auto& [height, width] : BlockShapes()) {
    Sample sample("floats " + std::to_string(height) + "x" + std::to_string(width));
    for (int64_t batch : {1, 8, 33, 150}) {
      if (!sample.Takes()) continue;
      const Case c = MakeCase(256, 256, 1, height, width, batch, 0.5, Order::kColumn, Pattern::kRandom,
                              Numbers::kFloats);
      CheckProducts(c, Numbers::kFloats);
    }
  }
}

}  // namespace

int main() {
  AllBatches();
  AllDensitiesAndGates();
  AllPatterns();
  BlocksLargerThanTheMatrix();
  Threaded();
  ThreadedPatterns();
  LargeMatrix();
  FloatsAreClose();
  return Finish();
}
