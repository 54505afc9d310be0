// Examples that have chosen their blocks of a matrix, and what the products of these are, in plain loops of double.
// Operands are integers: results are exact.
#ifndef TF_BLOCKSPARSE_TESTS_DYNAMIC_PROBLEM_H_
#define TF_BLOCKSPARSE_TESTS_DYNAMIC_PROBLEM_H_

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_groups.h"

namespace blocksparse_test {

using blocksparse::Axis;
using blocksparse::Choices;
using blocksparse::Grid;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct DynamicProblem {
  std::string name;
  Grid grid;
  int64_t batch;
  int64_t count;
  std::vector<int32_t> ids;
  std::vector<float> gates;
  std::vector<float> x;
  std::vector<float> dz;
  std::vector<float> blocks;

  Choices choices() const { return {ids.data(), gates.data(), batch, count}; }
  int64_t num_blocks() const { return grid.rows.lines * grid.columns.lines; }
};

// Element (r, c) of block `id` lies in W.
inline bool Inside(const Grid& grid, int64_t id, int64_t r, int64_t c) {
  return r < grid.rows.Extent(id / grid.columns.lines) && c < grid.columns.Extent(id % grid.columns.lines);
}

// Everything outside of W, and of blocks that nobody wants, is NaN.
inline void Spoil(DynamicProblem* p) {
  std::vector<bool> wanted(p->num_blocks());
  for (int32_t id : p->ids) wanted[id] = true;
  const int64_t width = p->grid.columns.block;
  for (int64_t e = 0; e < static_cast<int64_t>(p->blocks.size()); ++e) {
    const int64_t id = e / p->grid.block_elements();
    const int64_t within = e % p->grid.block_elements();
    if (!wanted[id] || !Inside(p->grid, id, within / width, within % width)) p->blocks[e] = kNaN;
  }
}

// `share` of the blocks for each example, distinct but for the first two if `twice`; some gates are zero.
inline DynamicProblem MakeDynamicProblem(int64_t in, int64_t out, int64_t height, int64_t width, int64_t batch, double share,
                    bool twice = false) {
  DynamicProblem p;
  p.name = std::to_string(in) + "x" + std::to_string(out) + " in " + std::to_string(height) + "x" +
           std::to_string(width) + " batch " + std::to_string(batch) + " share " + std::to_string(share);
  CHECK_TRUE(blocksparse::MakeGrid(in, out, 1, height, width, &p.grid).empty(), p.name);
  p.batch = batch;
  p.count = static_cast<int64_t>(share * static_cast<double>(p.num_blocks()) + 0.5);
  std::mt19937 random(static_cast<uint32_t>(in + 7 * out + 31 * batch));
  std::vector<int32_t> all(p.num_blocks());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  for (int64_t b = 0; b < batch; ++b) {
    std::shuffle(all.begin(), all.end(), random);
    p.ids.insert(p.ids.end(), all.begin(), all.begin() + p.count);
    if (twice && p.count > 1) p.ids[b * p.count + 1] = p.ids[b * p.count];
  }
  p.gates = RandomIntegers(batch * p.count, 3);
  p.x = RandomIntegers(batch * in, 4);
  p.dz = RandomIntegers(batch * out, 5);
  p.blocks = RandomIntegers(p.num_blocks() * p.grid.block_elements(), 6);
  Spoil(&p);
  return p;
}

// Calls visit(place of the gate, example, element of blocks, row of W, column of W) for all that is wanted.
template <typename Visit>
void ForEachElement(const DynamicProblem& p, const Visit& visit) {
  const Axis& rows = p.grid.rows;
  const Axis& columns = p.grid.columns;
  for (int64_t e = 0; e < p.batch * p.count; ++e) {
    const int64_t i = p.ids[e] / columns.lines;
    const int64_t j = p.ids[e] % columns.lines;
    for (int64_t r = 0; r < rows.Extent(i); ++r) {
      for (int64_t c = 0; c < columns.Extent(j); ++c) {
        visit(e, e / p.count, p.ids[e] * p.grid.block_elements() + r * columns.block + c, rows.Offset(i) + r,
              columns.Offset(j) + c);
      }
    }
  }
}

inline std::vector<double> ExpectedProduct(const DynamicProblem& p) {
  std::vector<double> y(p.batch * p.grid.columns.features);
  ForEachElement(p, [&](int64_t k, int64_t b, int64_t element, int64_t row, int64_t column) {
    if (p.gates[k] == 0) return;
    y[b * p.grid.columns.features + column] +=
        double{p.gates[k]} * p.x[b * p.grid.rows.features + row] * p.blocks[element];
  });
  return y;
}

struct Gradients {
  std::vector<double> dx;
  std::vector<double> dgates;
  std::vector<double> dblocks;
};

inline Gradients ExpectedGradients(const DynamicProblem& p) {
  const int64_t in = p.grid.rows.features;
  const int64_t out = p.grid.columns.features;
  Gradients d = {std::vector<double>(p.batch * in), std::vector<double>(p.gates.size()),
                 std::vector<double>(p.blocks.size())};
  ForEachElement(p, [&](int64_t k, int64_t b, int64_t element, int64_t row, int64_t column) {
    const double x = p.x[b * in + row];
    const double dz = p.dz[b * out + column];
    d.dgates[k] += x * p.blocks[element] * dz;
    if (p.gates[k] == 0) return;
    d.dx[b * in + row] += double{p.gates[k]} * p.blocks[element] * dz;
    d.dblocks[element] += double{p.gates[k]} * x * dz;
  });
  return d;
}

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_DYNAMIC_PROBLEM_H_
