// y = activation(x W + bias) where each example has chosen the blocks of W that count for it, and the gradients of that:
// only the chosen blocks are read, each once for all examples that share it.
//
// For example e, with gates g and blocks B: y[e, columns of block] is the sum over its choices k of
// g[e, k] * (x[e, rows of block] B[id]), summed over a block's rows first and then over the blocks by rising block row,
// whatever the order of the choices, the other examples of the batch and the number of threads: results are the same to
// the last bit.
#ifndef TF_BLOCKSPARSE_KERNELS_DYNAMIC_H_
#define TF_BLOCKSPARSE_KERNELS_DYNAMIC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_groups.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/epilogue.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

// The tables that this processor can run, best last.
std::vector<const DynamicTable*> SupportedDynamicTables();

// That of the same instruction set as `isa`, the name of a table of isa.h.
const DynamicTable* ChooseDynamicTable(const std::string& isa);

// The kernels of one instruction set for one type of blocks.
class DynamicKernels {
 public:
  // `common` packs and finishes.
  DynamicKernels(const DynamicTable& table, const KernelTable& common, DynamicType type);

  const KernelTable& common() const { return *common_; }
  int64_t element_bytes() const { return element_bytes_; }

  // Kernels for the first of `columns` and `examples`; null for 0 of either.
  const DynamicKernel* Choose(int64_t columns, int64_t examples) const;
  // The same for exactly so many columns, which Choose gave.
  const DynamicKernel* ChooseOf(int64_t columns, int64_t examples) const;

  // The product of job.entries[0 .. examples) and columns [0, columns).
  void Multiply(DynamicJob job, int64_t columns, int64_t examples) const;

 private:
  const KernelTable* common_;
  int64_t element_bytes_;
  std::vector<const DynamicKernel*> kernels_;
};

struct DynamicOperands {
  const float* x;       // [batch, in]
  const void* blocks;   // [grid rows * grid columns, height, width], of the kernels' type
  const float* scales;  // [blocks], which the blocks' elements are multiplied by, or null
  Epilogue epilogue;
  float* y;  // [batch, out]
};

// `groups` by column.
void RunDynamicProduct(const DynamicKernels& kernels, const Grid& grid, int64_t batch, const Groups& groups,
                       int64_t threads, const DynamicOperands& operands, const ParallelFor& parallel_for);

// Gradients to x and to the gates of the same product: dx [batch, in], dgates [batch, count], where dgates is
// x[e, rows] B dz[e, columns]^T.
struct DynamicInputGradients {
  const float* dz;  // [batch, out]
  const float* x;
  const float* blocks;
  float* dx;
  float* dgates;
};

struct DynamicGradPlan {
  int64_t workers;
  std::vector<int64_t> bounds;  // [workers + 1] of block rows or of groups
  int64_t chunk;                // examples at a time
  int64_t worker_floats;
  int64_t workspace_floats;
};

// `groups` by row, with zero gates kept.
DynamicGradPlan PlanInputGradients(const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
                                   int64_t threads);
void RunInputGradients(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid, int64_t batch,
                       const Groups& groups, const DynamicInputGradients& operands, float* workspace,
                       const ParallelFor& parallel_for);

// Gradient to the blocks: dblocks[id] is the sum over the examples that want it of gate * x[e, rows]^T dz[e, columns],
// and 0 outside of W. `groups` by row, with zero gates dropped.
DynamicGradPlan PlanBlockGradients(const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
                                   int64_t threads);
void RunBlockGradients(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid,
                       const Groups& groups, const float* x, const float* dz, float* dblocks, float* workspace,
                       const ParallelFor& parallel_for);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_DYNAMIC_H_
