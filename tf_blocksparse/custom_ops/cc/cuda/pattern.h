// Where the blocks of a matrix lie, as the CUDA kernels read it: made once on the host, copied once to the device.
#ifndef TF_BLOCKSPARSE_CUDA_PATTERN_H_
#define TF_BLOCKSPARSE_CUDA_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/cuda/arguments.h"
#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

namespace blocksparse {
namespace cuda {

// One way to share out the lines among thread blocks; longest first, so that none starts last.
struct Split {
  int64_t items = 0;
  int64_t groups = 0;   // lines that are split
  int64_t slots = 0;    // their items
  size_t items_at = 0;  // in the image
  size_t groups_at = 0;
};

struct ProductPattern {
  std::vector<unsigned char> image;  // what the device has to hold
  size_t entries_at = 0;
  Split whole;  // a line is an item
  Split even;   // lines that are much longer than most are split
  Split few;    // into as many items as a device needs to be busy with few rows of the batch
  int64_t num_blocks = 0;
  int64_t max_entries = 0;
  int64_t x_features = 0;
  int64_t y_features = 0;
  int64_t block_k = 0;
  int64_t block_n = 0;
  int64_t edge_k = 0;
  int64_t offset_multiple = 1;  // 1, 4 or 8 divides every offset in x
};

// index by column: y = x W; by row: dx = dy W^T.
ProductPattern MakeProductPattern(const BlockIndex& index, int64_t multiprocessors);

struct GradPattern {
  std::vector<unsigned char> image;  // a Place for each stored block
  int64_t num_blocks = 0;
  int64_t x_features = 0;
  int64_t y_features = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t row_multiple = 1;     // 1, 4 or 8 divides every first row of a block
  int64_t column_multiple = 1;
};

// index in either way.
GradPattern MakeGradPattern(const BlockIndex& index);

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_PATTERN_H_
