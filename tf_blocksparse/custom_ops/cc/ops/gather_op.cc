// BlockSparse>Gather and BlockSparse>GatherGradBlocks: rows of a block-sparse matrix, an embedding look-up.
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/gather.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("BlockSparse>Gather")
    .Input("ids: Tids")       // [num_ids]
    .Input("blocks: float")   // [num_blocks, height, width]
    .Input("indices: int32")  // [num_blocks] block columns
    .Input("indptr: int32")   // [block rows + 1]
    .Output("rows: float")    // [num_ids, out_features]
    .Attr("Tids: {int32, int64}")
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle ids;
      int64_t in_features;
      int64_t out_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &ids));
      TF_RETURN_IF_ERROR(MatrixShapes(c, 1, in_features, out_features));
      c->set_output(0, c->Matrix(c->Dim(ids, 0), out_features));
      return absl::OkStatus();
    });

REGISTER_OP("BlockSparse>GatherGradBlocks")
    .Input("ids: Tids")        // [num_ids]
    .Input("dy: float")        // [num_ids, out_features]
    .Input("blocks: float")    // [num_blocks, height, width]; only its shape counts
    .Input("indices: int32")   // [num_blocks]
    .Input("indptr: int32")    // [block rows + 1]
    .Output("dblocks: float")  // [num_blocks, height, width]
    .Attr("Tids: {int32, int64}")
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle ids;
      ShapeHandle dy;
      DimensionHandle num_ids;
      DimensionHandle unused;
      int64_t in_features;
      int64_t out_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &ids));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &dy));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(ids, 0), c->Dim(dy, 0), &num_ids));
      TF_RETURN_IF_ERROR(MatrixShapes(c, 2, in_features, out_features));
      TF_RETURN_IF_ERROR(c->WithValue(c->Dim(dy, 1), out_features, &unused));
      c->set_output(0, c->input(2));
      return absl::OkStatus();
    });

// Copies the ids and checks the copy: the kernels index with nothing that can still change.
template <typename Id>
absl::Status CheckedIds(const Tensor& ids, int64_t in_features, std::vector<int32_t>* checked) {
  TF_RETURN_IF_ERROR(CheckRank(ids, 1, "ids", "[num_ids]"));
  const Id* from = ids.unaligned_flat<Id>().data();
  checked->resize(ids.NumElements());
  for (size_t k = 0; k < checked->size(); ++k) {
    const int64_t id = from[k];
    if (id < 0 || id >= in_features) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", k, "] = ", id, " is not in [0, ", in_features, "), the rows of the matrix"));
    }
    (*checked)[k] = static_cast<int32_t>(id);
  }
  return absl::OkStatus();
}

template <typename Id>
class GatherOp : public OpKernel {
 public:
  explicit GatherOp(OpKernelConstruction* construction) : OpKernel(construction), cache_(Order::kRow, false) {
    OP_REQUIRES_OK(construction, construction->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(construction, construction->GetAttr("out_features", &out_features_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& blocks = context->input(1);
    const Tensor& indices = context->input(2);
    const Tensor& indptr = context->input(3);
    OP_REQUIRES_OK(context, CheckBsrShapes(blocks, indices, indptr));
    Grid grid;
    OP_REQUIRES_OK(context, InvalidIf(MakeGrid(in_features_, out_features_, 1, blocks.dim_size(1),
                                               blocks.dim_size(2), &grid)));
    std::vector<int32_t> ids;
    OP_REQUIRES_OK(context, CheckedIds<Id>(context->input(0), in_features_, &ids));
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
    const int64_t num_ids = static_cast<int64_t>(ids.size());
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({num_ids, out_features_}, &shape));
    Tensor* rows = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &rows));
    GatherRows(*index, blocks.unaligned_flat<float>().data(), ids.data(), num_ids,
               rows->unaligned_flat<float>().data(), NumThreads(context), IntraOpParallelFor(context));
  }

 private:
  int64_t in_features_;
  int64_t out_features_;
  BlockIndexCache cache_;
};

template <typename Id>
class GatherGradBlocksOp : public OpKernel {
 public:
  explicit GatherGradBlocksOp(OpKernelConstruction* construction) : OpKernel(construction), cache_(Order::kRow, false) {
    OP_REQUIRES_OK(construction, construction->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(construction, construction->GetAttr("out_features", &out_features_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& dy = context->input(1);
    const Tensor& blocks = context->input(2);
    const Tensor& indices = context->input(3);
    const Tensor& indptr = context->input(4);
    OP_REQUIRES_OK(context, CheckRank(dy, 2, "dy", "[num_ids, out_features]"));
    OP_REQUIRES_OK(context, CheckDim(dy, 1, "dy", out_features_, "out_features"));
    OP_REQUIRES_OK(context, CheckBsrShapes(blocks, indices, indptr));
    Grid grid;
    OP_REQUIRES_OK(context, InvalidIf(MakeGrid(in_features_, dy.dim_size(1), 1, blocks.dim_size(1),
                                               blocks.dim_size(2), &grid)));
    std::vector<int32_t> ids;
    OP_REQUIRES_OK(context, CheckedIds<Id>(context->input(0), in_features_, &ids));
    const int64_t num_ids = static_cast<int64_t>(ids.size());
    OP_REQUIRES_OK(context, CheckDim(dy, 0, "dy", num_ids, "the number of ids"));
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
    Tensor* dblocks = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, blocks.shape(), &dblocks));
    GatherRowsGrad(*index, dy.unaligned_flat<float>().data(), ids.data(), num_ids,
                   dblocks->unaligned_flat<float>().data(), NumThreads(context), IntraOpParallelFor(context));
  }

 private:
  int64_t in_features_;
  int64_t out_features_;
  BlockIndexCache cache_;
};

#define REGISTER_GATHER(ID)                                                                              \
  REGISTER_KERNEL_BUILDER(                                                                               \
      Name("BlockSparse>Gather").Device(tensorflow::DEVICE_CPU).TypeConstraint<ID>("Tids"), GatherOp<ID>); \
  REGISTER_KERNEL_BUILDER(                                                                               \
      Name("BlockSparse>GatherGradBlocks").Device(tensorflow::DEVICE_CPU).TypeConstraint<ID>("Tids"),    \
      GatherGradBlocksOp<ID>)
REGISTER_GATHER(int32_t);
REGISTER_GATHER(int64_t);
#undef REGISTER_GATHER

}  // namespace
}  // namespace blocksparse
