// Which blocks an example wants: the largest of its block gates, after a ReLU, and what they are multiplied by.
#ifndef TF_BLOCKSPARSE_KERNELS_DYNAMIC_CHOOSE_H_
#define TF_BLOCKSPARSE_KERNELS_DYNAMIC_CHOOSE_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

// Of each row of scores [batch, blocks] the ids of the `count` largest of max(score, 0), by rising id; of equal ones
// those with lower ids. gates[b, k] is max(score, 0) of ids[b, k], divided by the larger of `epsilon` and the mean over
// all blocks of what was chosen. NaN is larger than any number, and its row's gates are NaN.
struct BlockChoice {
  const float* scores;  // [batch, blocks]
  int64_t batch;
  int64_t blocks;
  int64_t count;
  float epsilon;
  int32_t* ids;  // [batch, count]
  float* gates;  // [batch, count]
};

// How many threads share the rows.
int64_t ChooseWorkers(const BlockChoice& choice, int64_t threads);

// `keys` [workers, blocks] is workspace.
void ChooseBlocks(const DynamicTable& table, const BlockChoice& choice, int64_t workers, int32_t* keys,
                  const ParallelFor& parallel_for);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_DYNAMIC_CHOOSE_H_
