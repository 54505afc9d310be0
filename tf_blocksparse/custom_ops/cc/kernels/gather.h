// Rows of a block-sparse matrix (an embedding look-up), and the gradient of its blocks.
#ifndef TF_BLOCKSPARSE_KERNELS_GATHER_H_
#define TF_BLOCKSPARSE_KERNELS_GATHER_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

// out [num_ids, columns] = rows `ids` of W. The index is by row; every id is a row of it.
void GatherRows(const BlockIndex& index, const float* blocks, const int32_t* ids, int64_t num_ids, float* out,
                int64_t threads, const ParallelFor& parallel_for);

// dblocks [num_blocks, height, width]: dy [num_ids, columns] added to the rows that the ids name.
void GatherRowsGrad(const BlockIndex& index, const float* dy, const int32_t* ids, int64_t num_ids,
                    float* dblocks, int64_t threads, const ParallelFor& parallel_for);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_GATHER_H_
