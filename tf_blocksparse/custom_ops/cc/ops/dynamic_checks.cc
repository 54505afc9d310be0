#include "tf_blocksparse/custom_ops/cc/ops/dynamic_checks.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace blocksparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

namespace {

constexpr const char* kChoicesShape = "[batch, k]";

}  // namespace

DynamicSizes::DynamicSizes(OpKernelConstruction* construction) {
  OP_REQUIRES_OK(construction, construction->GetAttr("in_features", &in_features_));
  OP_REQUIRES_OK(construction, construction->GetAttr("out_features", &out_features_));
}

absl::Status DynamicSizes::CheckRows(const Tensor& tensor, const char* name, bool input) const {
  TF_RETURN_IF_ERROR(CheckRank(tensor, 2, name, input ? "[batch, in_features]" : "[batch, out_features]"));
  return CheckDim(tensor, 1, name, input ? in_features_ : out_features_, input ? "in_features" : "out_features");
}

absl::Status DynamicSizes::CheckChoices(OpKernelContext* context, int first, int64_t batch, Grid* grid,
                                        Choices* choices) const {
  const Tensor& blocks = context->input(first);
  const Tensor& ids = context->input(first + 1);
  const Tensor& gates = context->input(first + 2);
  TF_RETURN_IF_ERROR(CheckRank(blocks, 3, "blocks", "[grid rows * grid columns, height, width]"));
  TF_RETURN_IF_ERROR(CheckRank(ids, 2, "block_ids", kChoicesShape));
  TF_RETURN_IF_ERROR(CheckRank(gates, 2, "block_gates", kChoicesShape));
  TF_RETURN_IF_ERROR(InvalidIf(MakeGrid(in_features_, out_features_, 1, blocks.dim_size(1), blocks.dim_size(2), grid)));
  TF_RETURN_IF_ERROR(CheckDim(blocks, 0, "blocks", grid->rows.lines * grid->columns.lines,
                              "the blocks of the grid, ceil(in_features / height) * ceil(out_features / width)"));
  TF_RETURN_IF_ERROR(CheckDim(ids, 0, "block_ids", batch, "the batch, as in x"));
  TF_RETURN_IF_ERROR(CheckDim(gates, 0, "block_gates", batch, "the batch, as in x"));
  TF_RETURN_IF_ERROR(CheckDim(gates, 1, "block_gates", ids.dim_size(1), "k, as in block_ids"));
  *choices = {ids.unaligned_flat<int32_t>().data(), gates.unaligned_flat<float>().data(), batch, ids.dim_size(1)};
  return InvalidIf(blocksparse::CheckChoices(*grid, *choices));
}

absl::Status DynamicSizes::CheckGradient(OpKernelContext* context, const Tensor& x, const Tensor& dy, Grid* grid,
                                         Choices* choices) const {
  TF_RETURN_IF_ERROR(CheckRows(x, "x", true));
  TF_RETURN_IF_ERROR(CheckRows(dy, "dy", false));
  TF_RETURN_IF_ERROR(CheckDim(dy, 0, "dy", x.dim_size(0), "the batch, as in x"));
  return CheckChoices(context, 2, x.dim_size(0), grid, choices);
}

absl::Status CheckScores(OpKernelContext* context, TensorShape* chosen) {
  constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  const Tensor& scores = context->input(0);
  TF_RETURN_IF_ERROR(CheckRank(scores, 2, "scores", "[batch, n]"));
  TF_RETURN_IF_ERROR(CheckRank(context->input(1), 0, "k", "[]"));
  const int64_t blocks = scores.dim_size(1);
  const int64_t count = *static_cast<const int32_t*>(context->input(1).data());
  if (blocks > kMaxBlocks) {
    return absl::InvalidArgumentError(absl::StrCat("scores may have at most ", kMaxBlocks, " columns, got shape ",
                                                   scores.shape().DebugString()));
  }
  if (count < 0 || count > blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("k must be from 0 to the number of scores, ", blocks, ", got ", count));
  }
  return TensorShape::BuildTensorShape({scores.dim_size(0), count}, chosen);
}

absl::Status ReadEpsilon(OpKernelConstruction* construction, float* epsilon) {
  TF_RETURN_IF_ERROR(construction->GetAttr("epsilon", epsilon));
  if (*epsilon > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("epsilon must be above 0, got ", *epsilon));
}

}  // namespace blocksparse
