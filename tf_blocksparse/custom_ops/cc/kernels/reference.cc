#include "tf_blocksparse/custom_ops/cc/kernels/reference.h"

namespace blocksparse {
namespace {

// Calls visit(element of blocks, row of W, column of W) for every stored element inside of W.
template <typename Visit>
void ForEachElement(const BsrMatrix& w, const Visit& visit) {
  const Axis& rows = w.grid.rows;
  const Axis& columns = w.grid.columns;
  for (size_t line = 0; line + 1 < w.indptr.size(); ++line) {
    for (int64_t k = w.indptr[line]; k < w.indptr[line + 1]; ++k) {
      const int64_t i = w.order == Order::kRow ? static_cast<int64_t>(line) : w.indices[k];
      const int64_t j = w.order == Order::kRow ? w.indices[k] : static_cast<int64_t>(line);
      for (int64_t r = 0; r < rows.Extent(i); ++r) {
        for (int64_t c = 0; c < columns.Extent(j); ++c) {
          visit((k * rows.block + r) * columns.block + c, rows.Offset(i) + r, columns.Offset(j) + c);
        }
      }
    }
  }
}

}  // namespace

std::vector<double> ReferenceDense(const BsrMatrix& w) {
  std::vector<double> dense(w.grid.rows.features * w.grid.columns.features, 0.0);
  ForEachElement(w, [&](int64_t e, int64_t row, int64_t column) {
    dense[row * w.grid.columns.features + column] = w.blocks[e];
  });
  return dense;
}

std::vector<double> ReferenceProduct(const BsrMatrix& w, const std::vector<float>& x, int64_t batch) {
  const int64_t in = w.grid.rows.features;
  const int64_t out = w.grid.columns.features;
  std::vector<double> y(batch * out, 0.0);
  ForEachElement(w, [&](int64_t e, int64_t row, int64_t column) {
    for (int64_t b = 0; b < batch; ++b) y[b * out + column] += double{x[b * in + row]} * w.blocks[e];
  });
  return y;
}

std::vector<double> ReferenceGradX(const BsrMatrix& w, const std::vector<float>& dy, int64_t batch) {
  const int64_t in = w.grid.rows.features;
  const int64_t out = w.grid.columns.features;
  std::vector<double> dx(batch * in, 0.0);
  ForEachElement(w, [&](int64_t e, int64_t row, int64_t column) {
    for (int64_t b = 0; b < batch; ++b) dx[b * in + row] += double{dy[b * out + column]} * w.blocks[e];
  });
  return dx;
}

std::vector<double> ReferenceGradBlocks(const BsrMatrix& w, const std::vector<float>& x,
                                        const std::vector<float>& dy, int64_t batch) {
  const int64_t in = w.grid.rows.features;
  const int64_t out = w.grid.columns.features;
  std::vector<double> dblocks(w.blocks.size(), 0.0);
  ForEachElement(w, [&](int64_t e, int64_t row, int64_t column) {
    for (int64_t b = 0; b < batch; ++b) dblocks[e] += double{x[b * in + row]} * dy[b * out + column];
  });
  return dblocks;
}

}  // namespace blocksparse
