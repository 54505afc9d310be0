// The two products with a block-sparse matrix, y = x W and dx = dy W^T, and the gradient of its blocks: split the
// work over threads, choose micro-kernels, pack activations, call.
//
// Each is a plan, then a run. The plan says how many floats of workspace the run needs, so that the caller's
// allocator provides them and no allocation can fail halfway. A plan refers to the index and the table it was
// made from; a run writes every element of its output.
#ifndef TF_BLOCKSPARSE_KERNELS_MATMUL_H_
#define TF_BLOCKSPARSE_KERNELS_MATMUL_H_

#include <cstdint>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/epilogue.h"
#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

// Consecutive batch rows that one kernel does, in one call a line.
struct Segment {
  const MicroKernel* kernel;
  int64_t first_row;
  int64_t rows;
};

struct ProductPlan {
  const KernelTable* table;
  const BlockIndex* index;  // by column: y = x W; by row: dx = dy W^T
  int64_t batch;
  int64_t workers;
  bool split_lines;  // each worker does all segments for its lines; else all lines for its segments
  std::vector<Segment> segments;
  std::vector<int64_t> bounds;  // [workers + 1] of lines or of segments
  int64_t tile_floats;          // packed x, for each worker
  int64_t output_floats;        // lines of y in tile layout or ragged, for each worker
  int64_t list_floats;          // offsets of a line's blocks, as many as floats, for each worker
  int64_t workspace_floats;     // of all workers
};

ProductPlan PlanProduct(const KernelTable& table, const BlockIndex& index, int64_t batch, int64_t threads);

// x [batch, index.other_axis().features], y [batch, index.line_axis().features].
void RunProduct(const ProductPlan& plan, const float* x, const float* blocks, const Epilogue& epilogue, float* y,
                float* workspace, const ParallelFor& parallel_for);

// The lines [first, end) of each gate of y alone, without an epilogue, by the calling thread; the plan is one for one thread.
void RunProductLines(const ProductPlan& plan, int64_t first_line, int64_t end_line, const float* x,
                     const float* blocks, float* y, float* workspace);

struct GradPlan {
  const KernelTable* table;
  const BlockIndex* index;  // by row
  int64_t batch;
  int64_t workers;
  int64_t chunk;  // batch rows of one pass over the blocks
  const MicroKernel* kernel;
  const MicroKernel* edge_kernel;
  std::vector<int64_t> bounds;  // [workers + 1] of entries of the index
  int64_t panel_floats;         // packed x and dy, for each worker
  int64_t list_floats;          // offsets of a line's blocks, for each worker
  int64_t workspace_floats;
};

GradPlan PlanGrad(const KernelTable& table, const BlockIndex& index, int64_t batch, int64_t threads);

// x [batch, in], dy [batch, out], dblocks [num_blocks, height, width].
void RunGrad(const GradPlan& plan, const float* x, const float* dy, float* dblocks, float* workspace,
             const ParallelFor& parallel_for);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_MATMUL_H_
