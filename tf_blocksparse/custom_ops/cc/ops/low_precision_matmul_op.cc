// BlockSparse>LowPrecisionMatMul: the product with bfloat16 or int8 blocks, for inference.
//
// Every input may come from a stranger's SavedModel: all of it is checked before the kernels see it. What the kernels
// index with is a checked copy (indptr) or kept inside of x when it is read (indices).
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/low_precision_support.h"
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

absl::Status InferShape(InferenceContext* c) {
  ShapeHandle x;
  ShapeHandle blocks;
  ShapeHandle vector;
  DimensionHandle unused;
  Grid grid;
  int64_t height;
  int64_t out_features;
  int64_t gates;
  tensorflow::DataType type;
  std::string x_dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &type));
  TF_RETURN_IF_ERROR(c->GetAttr("x_dtype", &x_dtype));
  TF_RETURN_IF_ERROR(c->GetAttr("block_height", &height));
  TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
  TF_RETURN_IF_ERROR(c->GetAttr("gates", &gates));
  BlockType block_type;
  XType x_type;
  TF_RETURN_IF_ERROR(ReadTypes(type, x_dtype, &block_type, &x_type));
  TF_RETURN_IF_ERROR(InvalidIf(MakeGrid(1, out_features, gates, 1, 1, &grid)));  // the attributes by themselves
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &blocks));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(blocks, 1), WordRows(height, block_type), &unused));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(blocks, 3), RowsPerWord(block_type), &unused));
  for (int input = 2; input < 6; ++input) TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 1, &vector));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(blocks, 0), c->Dim(c->input(2), 0), &unused));
  c->set_output(0, c->Matrix(c->Dim(x, 0), out_features));
  return absl::OkStatus();
}

REGISTER_OP("BlockSparse>LowPrecisionMatMul")
    .Input("x: float")        // [batch, in_features]
    .Input("blocks: T")       // [num_blocks, ceil(block_height / p), width, p], p = 2 (bfloat16) or 4 (int8)
    .Input("indices: int32")  // [num_blocks] block rows
    .Input("indptr: int32")   // [block columns + 1]
    .Input("scales: float")   // [out_features] (int8) or [0] (bfloat16)
    .Input("bias: float")     // [out_features] or [0]
    .Output("y: float")       // [batch, out_features]
    .Attr("T: {bfloat16, int8}")
    .Attr("block_height: int >= 1")
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr("x_dtype: {'float32', 'bfloat16', 'int8'} = 'float32'")
    .Attr("activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'linear'")
    .SetShapeFn(InferShape);

class LowPrecisionMatMulOp : public OpKernel {
 public:
  explicit LowPrecisionMatMulOp(OpKernelConstruction* construction)
      : OpKernel(construction), cache_(BuildColumnIndex) {
    tensorflow::DataType type;
    std::string x_dtype;
    std::string activation;
    OP_REQUIRES_OK(construction, construction->GetAttr("T", &type));
    OP_REQUIRES_OK(construction, construction->GetAttr("block_height", &height_));
    OP_REQUIRES_OK(construction, construction->GetAttr("out_features", &out_features_));
    OP_REQUIRES_OK(construction, construction->GetAttr("gates", &gates_));
    OP_REQUIRES_OK(construction, construction->GetAttr("x_dtype", &x_dtype));
    OP_REQUIRES_OK(construction, construction->GetAttr("activation", &activation));
    OP_REQUIRES_OK(construction, ReadTypes(type, x_dtype, &block_type_, &x_type_));
    activation_ = ActivationOf(activation);
    OP_REQUIRES_OK(construction, GetTable(&table_));
    tables_ = ChooseLowPrecisionTables(table_->isa);
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& indices = context->input(2);
    const Tensor& indptr = context->input(3);
    Grid grid;
    OP_REQUIRES_OK(context, CheckInputs(context, &grid));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({x.dim_size(0), out_features_}, &shape));
    // Before the index: its size grows with out_features, which costs an attacker nothing, and so does y's.
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    std::shared_ptr<const ColumnIndex> index;
    OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
    if (x_type_ == XType::kInt8) OP_REQUIRES_OK(context, InvalidIf(CheckInt8Sums(*index)));
    if (x.dim_size(0) == 0) return;
    const LowPrecisionPlan plan =
        PlanLowPrecision(tables_, *table_, *index, block_type_, x_type_, x.dim_size(0), NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_words, &holder, &workspace));
    const Tensor& bias = context->input(5);
    const LowPrecisionOperands operands = {
        x.unaligned_flat<float>().data(),
        context->input(1).data(),
        indices.unaligned_flat<int32_t>().data(),
        context->input(4).unaligned_flat<float>().data(),
        {bias.NumElements() == 0 ? nullptr : bias.unaligned_flat<float>().data(), activation_},
        y->unaligned_flat<float>().data(),
        workspace,
    };
    RunLowPrecision(plan, operands, IntraOpParallelFor(context));
  }

 private:
  // All but the pattern.
  absl::Status CheckInputs(OpKernelContext* context, Grid* grid) const {
    const Tensor& x = context->input(0);
    TF_RETURN_IF_ERROR(CheckRank(x, 2, "x", "[batch, in_features]"));
    TF_RETURN_IF_ERROR(CheckLowPrecision({context->input(1), context->input(2), context->input(3), context->input(4)},
                                         block_type_, height_, x.dim_size(1), out_features_, gates_, grid));
    return CheckVector(context->input(5), "bias", out_features_, true);
  }

  int64_t height_;
  int64_t out_features_;
  int64_t gates_;
  BlockType block_type_;
  XType x_type_ = XType::kFloat32;
  Activation activation_ = Activation::kLinear;
  const KernelTable* table_ = nullptr;
  LowPrecisionTables tables_;
  IndexCache<ColumnIndex> cache_;
};

#define REGISTER_LOW_PRECISION(TYPE)                                                              \
  REGISTER_KERNEL_BUILDER(                                                                        \
      Name("BlockSparse>LowPrecisionMatMul").Device(tensorflow::DEVICE_CPU).TypeConstraint<TYPE>("T"), \
      LowPrecisionMatMulOp)
REGISTER_LOW_PRECISION(tensorflow::bfloat16);
REGISTER_LOW_PRECISION(int8_t);

}  // namespace
}  // namespace blocksparse
