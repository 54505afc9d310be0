// A product on some lines of a matrix for rows that one kernel call does: what is whole, what is ragged, and the
// workspace that both need. The drivers of whole products and of sequences are built of these.
#ifndef TF_BLOCKSPARSE_KERNELS_LINE_PRODUCT_H_
#define TF_BLOCKSPARSE_KERNELS_LINE_PRODUCT_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"

namespace blocksparse {

inline bool IsTile(const MicroKernel& kernel) { return kernel.kind != Kind::kProductRows; }
inline bool AnyShape(const MicroKernel& kernel) { return kernel.shape.height == 0; }

class LineProduct {
 public:
  // Floats beyond the lines' own that Tile() may write, and that `beside` of Rows() holds.
  static int64_t SlackFloats(const MicroKernel& kernel, const Axis& lines);

  LineProduct(const KernelTable& table, const BlockIndex& index, const float* blocks);

  // Makes the entries of the lines [first, end) ready for Tile() and Rows(); writes their offsets to `list`, one int32
  // for each, which has to live as long, unless the index has a list of its own.
  void Load(int64_t first_line, int64_t end_line, int32_t* list);

  // y[f * lanes + r] for the features f of the lines [line, end_line), of tile[feature * lanes + r]; `lanes` are the
  // kernel's. Returns the number of features. Writes up to a line more.
  int64_t Tile(const MicroKernel& kernel, const float* tile, int64_t line, int64_t end_line, float* y);

  // y[r * y_stride + f] of x[r * x_stride + feature]; y points at the lines' first feature. Returns the number of
  // features.
  int64_t Rows(const MicroKernel& kernel, const float* x, int64_t x_stride, int64_t rows, int64_t line,
               int64_t end_line, float* y, int64_t y_stride, float* beside);

 private:
  int64_t EqualLines(int64_t line, int64_t end_line) const;
  void RunLines(const MicroKernel& kernel, int64_t line, int64_t count, int64_t outputs, int64_t step);

  const KernelTable& table_;
  const BlockIndex& index_;
  const Axis& lines_;
  const float* blocks_;
  ProductJob job_ = {};
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_LINE_PRODUCT_H_
