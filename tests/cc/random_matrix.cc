#include "tests/cc/random_matrix.h"

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>

namespace blocksparse_test {

using blocksparse::Axis;
using blocksparse::BsrMatrix;
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

BsrMatrix RandomMatrix(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, double density,
                       uint32_t seed, bool integers, Order order) {
  BsrMatrix w;
  w.order = order;
  const std::string error = blocksparse::MakeGrid(in, out, gates, height, width, &w.grid);
  if (!error.empty()) throw std::invalid_argument(error);
  const Axis& rows = w.grid.rows;
  const Axis& columns = w.grid.columns;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  const int64_t one = static_cast<int64_t>(random() % (rows.lines * columns.lines));
  const int64_t lines = order == Order::kRow ? rows.lines : columns.lines;
  const int64_t cross = order == Order::kRow ? columns.lines : rows.lines;
  w.indptr.push_back(0);
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t c = 0; c < cross; ++c) {
      const bool keep = density < 0 ? line * cross + c == one : uniform(random) < density;
      if (keep) w.indices.push_back(static_cast<int32_t>(c));
    }
    w.indptr.push_back(static_cast<int32_t>(w.indices.size()));
  }
  const int64_t size = static_cast<int64_t>(w.indices.size()) * height * width;
  w.blocks = integers ? RandomIntegers(size, seed + 1) : RandomFloats(size, seed + 1);
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t k = w.indptr[line]; k < w.indptr[line + 1]; ++k) {
      const int64_t i = order == Order::kRow ? line : w.indices[k];
      const int64_t j = order == Order::kRow ? w.indices[k] : line;
      for (int64_t e = 0; e < height * width; ++e) {
        const bool inside = e / width < rows.Extent(i) && e % width < columns.Extent(j);
        if (!inside) w.blocks[k * height * width + e] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  return w;
}

void ThreadedFor(int64_t n, const std::function<void(int64_t)>& task) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < n; ++i) threads.emplace_back(task, i);
  for (std::thread& thread : threads) thread.join();
}

int64_t FirstDifference(const std::vector<float>& got, const std::vector<double>& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(got[i] - expected[i]) <= tolerance)) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace blocksparse_test
