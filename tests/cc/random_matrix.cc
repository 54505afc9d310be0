#include "tests/cc/random_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>

namespace blocksparse_test {

using blocksparse::Axis;
using blocksparse::BsrMatrix;
using blocksparse::Grid;
using blocksparse::Order;

std::vector<float> RandomIntegers(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(size);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 9) - 4);
  return values;
}

std::vector<float> RandomFloats(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

namespace {

// Whether block (i, j) is kept, i a block row.
using Keep = std::function<bool(int64_t i, int64_t j)>;

// Elements of edge blocks that lie outside of the matrix become NaN.
void SpoilPadding(BsrMatrix* w) {
  const Axis& rows = w->grid.rows;
  const Axis& columns = w->grid.columns;
  const int64_t size = w->grid.block_elements();
  for (int64_t line = 0; line + 1 < static_cast<int64_t>(w->indptr.size()); ++line) {
    for (int64_t k = w->indptr[line]; k < w->indptr[line + 1]; ++k) {
      const int64_t i = w->order == Order::kRow ? line : w->indices[k];
      const int64_t j = w->order == Order::kRow ? w->indices[k] : line;
      for (int64_t e = 0; e < size; ++e) {
        const bool inside = e / columns.block < rows.Extent(i) && e % columns.block < columns.Extent(j);
        if (!inside) w->blocks[k * size + e] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
}

BsrMatrix MakeMatrix(const Grid& grid, Order order, const Keep& keep, uint32_t seed, bool integers) {
  BsrMatrix w;
  w.grid = grid;
  w.order = order;
  const bool by_row = order == Order::kRow;
  const int64_t lines = by_row ? grid.rows.lines : grid.columns.lines;
  const int64_t cross = by_row ? grid.columns.lines : grid.rows.lines;
  w.indptr.push_back(0);
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t c = 0; c < cross; ++c) {
      if (keep(by_row ? line : c, by_row ? c : line)) w.indices.push_back(static_cast<int32_t>(c));
    }
    w.indptr.push_back(static_cast<int32_t>(w.indices.size()));
  }
  const int64_t size = static_cast<int64_t>(w.indices.size()) * grid.block_elements();
  w.blocks = integers ? RandomIntegers(size, seed + 1) : RandomFloats(size, seed + 1);
  SpoilPadding(&w);
  return w;
}

Grid GridOf(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width) {
  Grid grid;
  const std::string error = blocksparse::MakeGrid(in, out, gates, height, width, &grid);
  if (!error.empty()) throw std::invalid_argument(error);
  return grid;
}

}  // namespace

BsrMatrix RandomMatrix(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, double density,
                       uint32_t seed, bool integers, Order order) {
  const Grid grid = GridOf(in, out, gates, height, width);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  const int64_t one = static_cast<int64_t>(random() % (grid.rows.lines * grid.columns.lines));
  const Keep keep = [&](int64_t i, int64_t j) {
    return density < 0 ? i * grid.columns.lines + j == one : uniform(random) < density;
  };
  return MakeMatrix(grid, order, keep, seed, integers);
}

BsrMatrix PatternMatrix(Pattern pattern, int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width,
                        double density, uint32_t seed, bool integers, Order order) {
  if (pattern == Pattern::kRandom) return RandomMatrix(in, out, gates, height, width, density, seed, integers, order);
  const Grid grid = GridOf(in, out, gates, height, width);
  const int64_t rows = grid.rows.lines;
  const int64_t columns = grid.columns.lines;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  const Keep keep = [&](int64_t i, int64_t j) {
    const bool chosen = uniform(random) < density;
    switch (pattern) {
      case Pattern::kBanded:  // two blocks to each side, whatever the grid's proportions
        return chosen && std::abs(i * columns - j * rows) <= 2 * std::max(rows, columns);
      case Pattern::kEmptyLines:
        return chosen && i % 2 == 1 && j % 3 != 2;
      case Pattern::kHeavyRow:
        return i == rows / 2 || uniform(random) < 0.02;
      case Pattern::kHeavyColumn:
        return j == columns / 2 || uniform(random) < 0.02;
      case Pattern::kRandom:
        break;
    }
    return chosen;
  };
  return MakeMatrix(grid, order, keep, seed, integers);
}

void ThreadedFor(int64_t n, const std::function<void(int64_t)>& task) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n; ++i) threads.emplace_back(task, i);
  for (std::thread& thread : threads) thread.join();
}

int64_t FirstDifference(const std::vector<float>& got, const std::vector<double>& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool both_nan = std::isnan(got[i]) && std::isnan(expected[i]);
    const bool same = std::fabs(got[i] - expected[i]) <= tolerance || got[i] == expected[i] || both_nan;
    if (!same) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace blocksparse_test
