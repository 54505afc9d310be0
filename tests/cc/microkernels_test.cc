// Every kernel of every list by itself, called through the job structures, whatever the chooser would take: none
// can be in the list and untested.
#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"

#include <cmath>
#include <limits>
#include <set>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"
#include "tests/cc/sample.h"
#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> Transposed(const std::vector<float>& x, int64_t rows, int64_t features, int64_t lanes) {
  std::vector<float> tile(features * lanes, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t f = 0; f < features; ++f) tile[f * lanes + r] = x[r * features + f];
  }
  return tile;
}

BlockIndex Index(const BsrMatrix& w, bool by_column) {
  BlockIndex index;
  CHECK_EQUAL(BuildBlockIndex(w.grid, w.order, w.indptr.data(), w.indptr.size(), w.indices.data(), w.indices.size(),
                              by_column, &index).size(), 0u);
  return index;
}

// Block shapes that the rule admits.
std::vector<std::pair<int64_t, int64_t>> ShapesFor(const ShapeRule& rule) {
  if (rule.height == 0) return {{3, 5}, {1, 1}, {16, 16}, {9, 21}};
  std::vector<std::pair<int64_t, int64_t>> shapes = {{rule.height, rule.width == 0 ? 7 : rule.width}};
  if (rule.multiple) {
    shapes.push_back({2 * rule.height, shapes[0].second});
    shapes.push_back({3 * rule.height, shapes[0].second});
  }
  return shapes;
}

void Product(const std::string& name, const MicroKernel& kernel, int64_t height, int64_t width, double density,
             Order order) {
  const bool transposed = kernel.kind == Kind::kTransposedTile;
  const bool tile = kernel.kind != Kind::kProductRows;
  const BsrMatrix w = RandomMatrix(9 * height, 7 * width, 1, height, width, density, 3, true, order);
  const BlockIndex index = Index(w, !transposed);
  const int64_t rows = kernel.batch == 0 ? 5 : kernel.batch;
  const int64_t in = index.other_axis().features;
  const int64_t out = index.line_axis().features;
  const std::vector<float> x = RandomIntegers(rows * in, 4);
  const std::vector<float> packed = tile ? Transposed(x, rows, in, rows) : x;
  const std::vector<double> expected = transposed ? ReferenceGradX(w, x, rows) : ReferenceProduct(w, x, rows);
  std::vector<float> y(rows * out, kNaN);
  ProductJob job = {};
  job.blocks = w.blocks.data();
  job.height = height;
  job.width = width;
  job.depth = index.other_axis().block;
  job.outputs = index.line_axis().block;
  job.rows = rows;
  job.x = packed.data();
  job.x_stride = tile ? rows : in;
  job.y_stride = tile ? rows : out;
  std::vector<int32_t> buffer(index.num_blocks);
  job.offset = index.Offsets(0, index.line_axis().lines, buffer.data());
  job.position = index.in_stored_order() ? nullptr : index.position.data();
  job.start = index.start.data();
  job.end = index.start.data() + 1;
  job.lines = index.line_axis().lines;
  job.y = y.data();
  kernel.product(job);
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t f = 0; f < out; ++f) {
      const float got = tile ? y[f * rows + b] : y[b * out + f];
      CHECK_TRUE(got == expected[b * out + f], name + " row " + std::to_string(b) + " feature " + std::to_string(f) + " is " + std::to_string(got));
    }
  }
}

void Grad(const std::string& name, const MicroKernel& kernel, int64_t height, int64_t width, double density,
          int64_t batch) {
  const BsrMatrix w = RandomMatrix(5 * height, 7 * width, 1, height, width, density, 3);
  const BlockIndex index = Index(w, false);
  const int64_t in = w.grid.rows.features;
  const int64_t out = w.grid.columns.features;
  const std::vector<float> x = RandomIntegers(batch * in, 4);
  const std::vector<float> dy = RandomIntegers(batch * out, 5);
  const std::vector<double> once = ReferenceGradBlocks(w, x, dy, batch);
  std::vector<float> dblocks(w.blocks.size(), kNaN);
  std::vector<int32_t> offsets(index.num_blocks);
  for (int pass = 1; pass <= 2; ++pass) {  // the second adds
    GradJob job = {};
    job.x_stride = in;
    job.dy = dy.data();
    job.dy_stride = out;
    job.height = job.real_height = height;
    job.width = job.real_width = width;
    job.rows = batch;
    job.accumulate = pass == 2;
    for (int64_t line = 0; line < w.grid.rows.lines; ++line) {
      const int64_t first = index.start[line];
      job.x = x.data() + w.grid.rows.Offset(line);
      job.dblocks = dblocks.data() + first * height * width;
      job.list = {index.Offsets(line, line + 1, offsets.data()), nullptr, index.start[line + 1] - first};
      CHECK_TRUE(index.in_stored_order(), "blocks of a row lie one after another");
      kernel.grad(job);
    }
    for (size_t e = 0; e < dblocks.size(); ++e) {
      CHECK_TRUE(dblocks[e] == pass * once[e], name + " element " + std::to_string(e) + " is " + std::to_string(dblocks[e]));
    }
  }
}

void PackAndUnpack(const KernelTable& table) {
  for (int64_t lanes : {table.lanes, 2 * table.lanes, 4 * table.lanes}) {
    for (int64_t rows : {int64_t{1}, lanes / 2 + 1, lanes}) {
      for (int64_t features : {1, 3, 4, 15, 16, 17, 40}) {
        const std::vector<float> x = RandomIntegers(rows * features, 6);
        std::vector<float> tile(features * lanes, kNaN);
        table.pack(x.data(), features, rows, features, lanes, tile.data());
        CHECK_TRUE(tile == Transposed(x, rows, features, lanes), std::string("pack ") + table.isa);
        std::vector<float> back(rows * features, kNaN);
        table.unpack(tile.data(), lanes, rows, features, back.data(), features);
        CHECK_TRUE(back == x, std::string("unpack ") + table.isa);
      }
    }
  }
}

}  // namespace

int main() {
  for (const KernelTable* table : SupportedTables()) {
    PackAndUnpack(*table);
    std::set<std::string> names;
    for (int64_t i = 0; i < table->num_kernels; ++i) {
      const MicroKernel& kernel = table->kernels[i];
      CHECK_TRUE(names.insert(kernel.name).second, std::string("two kernels named ") + kernel.name);
      Sample sample(kernel.name);  // at least one case of every kernel
      for (const auto& [height, width] : ShapesFor(kernel.shape)) {
        for (double density : {-1.0, 0.5, 1.0}) {
          const std::string name = std::string(table->isa) + " " + kernel.name + " " + std::to_string(height) +
                                   "x" + std::to_string(width);
          for (Order order : {Order::kRow, Order::kColumn}) {
            if (kernel.product == nullptr || !sample.Takes()) continue;
            Product(name, kernel, height, width, density, order);
          }
          for (int64_t batch : {1, 3, 16, 37, 64}) {
            if (kernel.grad == nullptr || !sample.Takes()) continue;
            Grad(name, kernel, height, width, density, batch);
          }
        }
      }
    }
  }
  return Finish();
}
