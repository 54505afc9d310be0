#include "tf_blocksparse/custom_ops/cc/ops/low_precision_support.h"

#include "absl/strings/str_cat.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {

using tensorflow::Tensor;

BlockType BlockTypeOf(tensorflow::DataType type) {
  return type == tensorflow::DT_INT8 ? BlockType::kInt8 : BlockType::kBfloat16;
}

int64_t WordRows(int64_t height, BlockType type) { return (height - 1) / RowsPerWord(type) + 1; }

absl::Status ReadTypes(tensorflow::DataType type, const std::string& x_dtype, BlockType* block_type, XType* x_type) {
  *block_type = BlockTypeOf(type);
  *x_type = x_dtype == "bfloat16" ? XType::kBfloat16 : x_dtype == "int8" ? XType::kInt8 : XType::kFloat32;
  if (x_dtype == "float32" || (x_dtype == "bfloat16") == (*block_type == BlockType::kBfloat16)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("x_dtype must be float32 or the type of the blocks, ",
                                                 *block_type == BlockType::kInt8 ? "int8" : "bfloat16", ", got ",
                                                 x_dtype));
}

absl::Status CheckVector(const Tensor& tensor, const char* name, int64_t size, bool optional) {
  if (tensor.dims() == 1 && (tensor.dim_size(0) == size || (optional && tensor.dim_size(0) == 0))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(name, " must have shape [", size, "]", optional ? " or [0]" : "",
                                                 ", got shape ", tensor.shape().DebugString()));
}

absl::Status CheckLowPrecision(const LowPrecisionMatrix& matrix, BlockType type, int64_t height, int64_t in_features,
                               int64_t out_features, int64_t gates, Grid* grid) {
  const bool int8 = type == BlockType::kInt8;
  const Tensor& blocks = matrix.blocks;
  TF_RETURN_IF_ERROR(CheckRank(blocks, 4, "blocks", "[num_blocks, ceil(block_height / p), width, p]"));
  TF_RETURN_IF_ERROR(CheckRank(matrix.indices, 1, "indices", "[num_blocks]"));
  TF_RETURN_IF_ERROR(CheckRank(matrix.indptr, 1, "indptr", "[block columns + 1]"));
  TF_RETURN_IF_ERROR(CheckDim(matrix.indices, 0, "indices", blocks.dim_size(0), "the number of blocks"));
  TF_RETURN_IF_ERROR(InvalidIf(MakeGrid(in_features, out_features, gates, height, blocks.dim_size(2), grid)));
  TF_RETURN_IF_ERROR(CheckDim(blocks, 1, "blocks", WordRows(height, type),
                              int8 ? "ceil(block_height / 4)" : "ceil(block_height / 2)"));
  TF_RETURN_IF_ERROR(CheckDim(blocks, 3, "blocks", RowsPerWord(type),
                              int8 ? "rows side by side, for int8" : "rows side by side, for bfloat16"));
  return CheckVector(matrix.scales, "scales", int8 ? out_features : 0, false);
}

}  // namespace blocksparse
