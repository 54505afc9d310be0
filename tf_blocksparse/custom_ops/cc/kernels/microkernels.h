// The list of micro-kernels of one instruction set: the only list, read by the chooser and by the tests, so that
// no kernel is used untested. This header is included by sources that are compiled with instruction set flags,
// so it declares data only: an inline function compiled there could be the copy that the linker keeps for all.
#ifndef TF_BLOCKSPARSE_KERNELS_MICROKERNELS_H_
#define TF_BLOCKSPARSE_KERNELS_MICROKERNELS_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/cells.h"

namespace blocksparse {

// The blocks of a line: block k is the position[k]-th of `blocks`, or the k-th where position is null, and meets the
// features from offset[k] on.
struct BlockList {
  const int32_t* offset;
  const int32_t* position;
  int64_t count;
};

// Some consecutive output lines of y = x W (or of dx = dy W^T) for some batch rows: for each, the sum over its blocks.
struct ProductJob {
  const float* blocks;
  const int32_t* offset;    // by entry less `base`, as in BlockList; features are those of x
  const int32_t* position;  // by entry less `base`, or null
  const int32_t* start;     // [lines] first entry of each line
  const int32_t* end;       // [lines]
  int64_t lines;
  int64_t base;
  int64_t height;   // of a block
  int64_t width;    // of a block
  int64_t depth;    // features of x per block; less than the block's own at a ragged edge
  int64_t outputs;  // features of y; likewise
  int64_t rows;     // batch rows; read by the kernels for any shape
  // Rows kernels: x[row * x_stride + feature]. Tile kernels: x[feature * lanes + row].
  const float* x;
  int64_t x_stride;
  float* y;  // points at the first feature of the first line; the others follow
  int64_t y_stride;
  bool accumulate;  // add to y; the kernels for one shape and rows never do
};

// The gradient of some blocks of one block row: blocks[p][r, c] = sum over the batch of x[b, r] dy[b, c].
struct GradJob {
  const float* x;  // x[row * x_stride + r]
  int64_t x_stride;
  const float* dy;  // dy[row * dy_stride + offset of the block + c]
  int64_t dy_stride;
  BlockList list;
  int64_t height;
  int64_t width;
  int64_t real_height;  // rows and columns that are inside of the matrix
  int64_t real_width;
  int64_t rows;  // of the batch
  float* dblocks;
  bool accumulate;
};

using ProductKernel = void (*)(const ProductJob&);
using GradKernel = void (*)(const GradJob&);

enum class Kind {
  kProductRows,     // y = x W on row-major x, `batch` rows a call
  kProductTile,     // y = x W on a transposed tile of `batch` rows
  kTransposedTile,  // dx = dy W^T on a transposed tile of `batch` rows
  kGradBlocks,      // dblocks, up to `batch` rows a call
};

// Serves blocks of this height (or, with `multiple`, any multiple of it) and this width; 0 stands for any.
struct ShapeRule {
  int64_t height;
  int64_t width;
  bool multiple;
};

struct MicroKernel {
  const char* name;
  Kind kind;
  ShapeRule shape;
  int64_t min_batch;  // rows still to do for which the chooser may take it
  int64_t max_batch;
  int64_t batch;  // rows that one call does; 0: all there are
  ProductKernel product;
  GradKernel grad;
};

struct KernelTable {
  const char* isa;
  int64_t lanes;
  const MicroKernel* kernels;  // the chooser takes the first that fits
  int64_t num_kernels;
  // tile[f * lanes + r] = x[r * stride + f] for r < rows, 0 for rows <= r < lanes. `lanes` is a multiple of the
  // vector's lanes.
  void (*pack)(const float* x, int64_t stride, int64_t rows, int64_t features, int64_t lanes, float* tile);
  // y[r * stride + f] = tile[f * lanes + r] for r < rows.
  void (*unpack)(const float* tile, int64_t lanes, int64_t rows, int64_t features, float* y, int64_t stride);
  // y[r * stride + f] = activation(y[r * stride + f] + bias[f]); without bias where it is null.
  void (*finish)(float* y, int64_t stride, int64_t rows, int64_t features, const float* bias, Activation activation);
  // A step of a recurrent cell; and back, where `inner` is a multiple of the vector's lanes.
  void (*cell)(const CellJob& job);
  void (*cell_grad)(const CellGradJob& job);
};

extern const KernelTable kGenericTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
#endif

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_MICROKERNELS_H_
