// BlockSparse>MatMul, BlockSparse>MatMulGradX, BlockSparse>MatMulGradBlocks.
//
// Every input may come from a stranger's SavedModel: all of it is checked before the kernels see it, and what the
// kernels index with is the checked copy.
#include <memory>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("BlockSparse>MatMul")
    .Input("x: float")        // [batch, in_features]
    .Input("blocks: float")   // [num_blocks, height, width]
    .Input("indices: int32")  // [num_blocks] block columns
    .Input("indptr: int32")   // [block rows + 1]
    .Output("y: float")       // [batch, out_features]
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x;
      int64_t out_features;
      int64_t gates;
      TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
      TF_RETURN_IF_ERROR(c->GetAttr("gates", &gates));
      TF_RETURN_IF_ERROR(CheckGates(out_features, gates));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(BsrShapes(c, 1, c->Dim(x, 1)));
      c->set_output(0, c->Matrix(c->Dim(x, 0), out_features));
      return absl::OkStatus();
    });

REGISTER_OP("BlockSparse>MatMulGradX")
    .Input("dy: float")       // [batch, out_features]
    .Input("blocks: float")   // [num_blocks, height, width]
    .Input("indices: int32")  // [num_blocks]
    .Input("indptr: int32")   // [block rows + 1]
    .Output("dx: float")      // [batch, in_features]
    .Attr("in_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle dy;
      int64_t in_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &dy));
      TF_RETURN_IF_ERROR(BsrShapes(c, 1, in_features));
      c->set_output(0, c->Matrix(c->Dim(dy, 0), in_features));
      return absl::OkStatus();
    });

REGISTER_OP("BlockSparse>MatMulGradBlocks")
    .Input("x: float")         // [batch, in_features]
    .Input("dy: float")        // [batch, out_features]
    .Input("indices: int32")   // [num_blocks]
    .Input("indptr: int32")    // [block rows + 1]
    .Output("dblocks: float")  // [num_blocks, height, width]
    .Attr("block_height: int >= 1")
    .Attr("block_width: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x;
      ShapeHandle dy;
      ShapeHandle indices;
      int64_t height;
      int64_t width;
      tensorflow::shape_inference::DimensionHandle batch;
      TF_RETURN_IF_ERROR(c->GetAttr("block_height", &height));
      TF_RETURN_IF_ERROR(c->GetAttr("block_width", &width));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &dy));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, 0), c->Dim(dy, 0), &batch));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &indices));
      TF_RETURN_IF_ERROR(IndptrShape(c, 3, c->Dim(x, 1), height));
      c->set_output(0, c->MakeShape({c->Dim(indices, 0), height, width}));
      return absl::OkStatus();
    });

// y = x W and dx = dy W^T differ in which side of W is given by the input and which by an attribute.
template <bool TRANSPOSED>
class ProductOp : public OpKernel {
 public:
  explicit ProductOp(OpKernelConstruction* construction) : OpKernel(construction), cache_(!TRANSPOSED) {
    OP_REQUIRES_OK(construction,
                   construction->GetAttr(TRANSPOSED ? "in_features" : "out_features", &output_features_));
    OP_REQUIRES_OK(construction, construction->GetAttr("gates", &gates_));
    OP_REQUIRES_OK(construction, GetTable(&table_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& blocks = context->input(1);
    const Tensor& indices = context->input(2);
    const Tensor& indptr = context->input(3);
    OP_REQUIRES_OK(context, TRANSPOSED ? CheckRank(x, 2, "dy", "[batch, out_features]")
                                       : CheckRank(x, 2, "x", "[batch, in_features]"));
    OP_REQUIRES_OK(context, CheckBsrShapes(blocks, indices, indptr));
    const int64_t batch = x.dim_size(0);
    const int64_t in_features = TRANSPOSED ? output_features_ : x.dim_size(1);
    const int64_t out_features = TRANSPOSED ? x.dim_size(1) : output_features_;
    Grid grid;
    OP_REQUIRES_OK(context, InvalidIf(MakeGrid(in_features, out_features, gates_, blocks.dim_size(1),
                                               blocks.dim_size(2), &grid)));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({batch, output_features_}, &shape));
    // Before the index: its size grows with out_features, which costs an attacker nothing, and so does y's.
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (batch == 0) {
      OP_REQUIRES_OK(context, InvalidIf(CheckBsr(grid, indptr.unaligned_flat<int32_t>().data(),
                                                 indptr.NumElements(), indices.unaligned_flat<int32_t>().data(),
                                                 indices.NumElements())));
      return;
    }
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
    const ProductPlan plan = PlanProduct(*table_, *index, batch, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunProduct(plan, x.unaligned_flat<float>().data(), blocks.unaligned_flat<float>().data(),
               y->unaligned_flat<float>().data(), workspace, IntraOpParallelFor(context));
  }

 private:
  int64_t output_features_;
  int64_t gates_;
  const KernelTable* table_;
  BlockIndexCache cache_;
};

class GradBlocksOp : public OpKernel {
 public:
  explicit GradBlocksOp(OpKernelConstruction* construction) : OpKernel(construction), cache_(false) {
    OP_REQUIRES_OK(construction, construction->GetAttr("block_height", &height_));
    OP_REQUIRES_OK(construction, construction->GetAttr("block_width", &width_));
    OP_REQUIRES_OK(construction, construction->GetAttr("gates", &gates_));
    OP_REQUIRES_OK(construction, GetTable(&table_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    const Tensor& indices = context->input(2);
    const Tensor& indptr = context->input(3);
    OP_REQUIRES_OK(context, CheckRank(x, 2, "x", "[batch, in_features]"));
    OP_REQUIRES_OK(context, CheckRank(dy, 2, "dy", "[batch, out_features]"));
    OP_REQUIRES_OK(context, CheckRank(indices, 1, "indices", "[num_blocks]"));
    OP_REQUIRES_OK(context, CheckRank(indptr, 1, "indptr", "[block rows + 1]"));
    OP_REQUIRES_OK(context, CheckDim(dy, 0, "dy", x.dim_size(0), "the batch, as in x"));
    Grid grid;
    OP_REQUIRES_OK(context, InvalidIf(MakeGrid(x.dim_size(1), dy.dim_size(1), gates_, height_, width_, &grid)));
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({indices.dim_size(0), height_, width_}, &shape));
    Tensor* dblocks = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &dblocks));
    const GradPlan plan = PlanGrad(*table_, *index, x.dim_size(0), NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunGrad(plan, x.unaligned_flat<float>().data(), dy.unaligned_flat<float>().data(),
            dblocks->unaligned_flat<float>().data(), workspace, IntraOpParallelFor(context));
  }

 private:
  int64_t height_;
  int64_t width_;
  int64_t gates_;
  const KernelTable* table_;
  BlockIndexCache cache_;
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMul").Device(tensorflow::DEVICE_CPU), ProductOp<false>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradX").Device(tensorflow::DEVICE_CPU), ProductOp<true>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradBlocks").Device(tensorflow::DEVICE_CPU), GradBlocksOp);

}  // namespace
}  // namespace blocksparse
