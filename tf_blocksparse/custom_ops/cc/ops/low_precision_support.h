// What the ops with bfloat16 and int8 blocks share.
#ifndef TF_BLOCKSPARSE_OPS_LOW_PRECISION_SUPPORT_H_
#define TF_BLOCKSPARSE_OPS_LOW_PRECISION_SUPPORT_H_

#include <cstdint>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

namespace blocksparse {

BlockType BlockTypeOf(tensorflow::DataType type);

// Blocks as tall as `height` rows store so many words of each column.
int64_t WordRows(int64_t height, BlockType type);

// Of the attributes T and x_dtype; an error if they do not go together.
absl::Status ReadTypes(tensorflow::DataType type, const std::string& x_dtype, BlockType* block_type, XType* x_type);

// A vector of `size` elements or, with `optional`, of none.
absl::Status CheckVector(const tensorflow::Tensor& tensor, const char* name, int64_t size, bool optional);

struct LowPrecisionMatrix {
  const tensorflow::Tensor& blocks;   // [num_blocks, ceil(height / p), width, p]
  const tensorflow::Tensor& indices;  // [num_blocks]
  const tensorflow::Tensor& indptr;
  const tensorflow::Tensor& scales;  // [out_features] (int8) or [0] (bfloat16)
};

// All but the pattern; makes the grid.
absl::Status CheckLowPrecision(const LowPrecisionMatrix& matrix, BlockType type, int64_t height, int64_t in_features,
                               int64_t out_features, int64_t gates, Grid* grid);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_LOW_PRECISION_SUPPORT_H_
