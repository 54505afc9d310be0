// BlockSparse>DynamicMatMul, BlockSparse>DynamicMatMulGradInputs, BlockSparse>DynamicMatMulGradBlocks: the product in
// which every example has chosen its blocks, and its gradients. BlockSparse>DynamicLowPrecisionMatMul: the product with
// bfloat16 or int8 blocks, for inference.
//
// Every input may come from a stranger's SavedModel or hang on a stranger's data: all of it is checked before the
// kernels see it, and what the kernels index with is a checked copy.
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/ops/dynamic_checks.h"

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

// Shapes of blocks, block_ids and block_gates, the inputs from `first` on, and of rows that have a batch with them.
absl::Status ChoiceShapes(InferenceContext* c, int first, DimensionHandle* batch) {
  ShapeHandle blocks;
  ShapeHandle ids;
  DimensionHandle unused;
  int64_t in_features;
  int64_t out_features;
  TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
  TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 3, &blocks));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 2, &ids));
  TF_RETURN_IF_ERROR(c->Merge(ids, c->input(first + 2), &ids));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(ids, 0), *batch, batch));
  const int64_t height = c->Value(c->Dim(blocks, 1));
  const int64_t width = c->Value(c->Dim(blocks, 2));
  // Sizes that are unknown, or refused when the op runs, leave the number of blocks open.
  Grid grid;
  if (height <= 0 || width <= 0) return InvalidIf(MakeGrid(in_features, out_features, 1, 1, 1, &grid));
  TF_RETURN_IF_ERROR(InvalidIf(MakeGrid(in_features, out_features, 1, height, width, &grid)));
  return c->WithValue(c->Dim(blocks, 0), grid.rows.lines * grid.columns.lines, &unused);
}

// A matrix of this input with so many columns, and its batch merged into `batch`.
absl::Status RowsShape(InferenceContext* c, int input, const char* features, DimensionHandle* batch) {
  ShapeHandle rows;
  DimensionHandle unused;
  int64_t count;
  TF_RETURN_IF_ERROR(c->GetAttr(features, &count));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 2, &rows));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(rows, 1), count, &unused));
  return c->Merge(*batch, c->Dim(rows, 0), batch);
}

// A product; there may be a bias, the input of number `bias`.
absl::Status ProductShapes(InferenceContext* c, int bias) {
  DimensionHandle batch = c->UnknownDim();
  ShapeHandle unused;
  int64_t out_features;
  TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
  TF_RETURN_IF_ERROR(RowsShape(c, 0, "in_features", &batch));
  TF_RETURN_IF_ERROR(ChoiceShapes(c, 1, &batch));
  if (c->num_inputs() > bias + 1) return absl::InvalidArgumentError("there may be at most one bias");
  if (c->num_inputs() > bias) TF_RETURN_IF_ERROR(c->Merge(c->input(bias), c->Vector(out_features), &unused));
  c->set_output(0, c->Matrix(batch, out_features));
  return absl::OkStatus();
}

// W is [in_features, out_features] in a grid of r * c blocks, all of which are stored, block (i, j) as number i * c + j.
// y[e] = activation(sum over k of block_gates[e, k] * x[e, rows of block] B + bias), B the block block_ids[e, k].
REGISTER_OP("BlockSparse>DynamicMatMul")
    .Input("x: float")                  // [batch, in_features]
    .Input("blocks: float")             // [r * c, height, width]
    .Input("block_ids: int32")          // [batch, k]
    .Input("block_gates: float")        // [batch, k]
    .Input("bias: num_biases * float")  // [out_features]
    .Output("y: float")                 // [batch, out_features]
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .Attr("num_biases: int >= 0 = 0")
    .Attr("activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'linear'")
    .SetShapeFn([](InferenceContext* c) { return ProductShapes(c, 4); });

// The same with blocks that are rounded: those of int8 times scales[id].
REGISTER_OP("BlockSparse>DynamicLowPrecisionMatMul")
    .Input("x: float")                  // [batch, in_features]
    .Input("blocks: T")                 // [r * c, height, width]
    .Input("block_ids: int32")          // [batch, k]
    .Input("block_gates: float")        // [batch, k]
    .Input("scales: float")             // [r * c] (int8) or [0] (bfloat16)
    .Input("bias: num_biases * float")  // [out_features]
    .Output("y: float")                 // [batch, out_features]
    .Attr("T: {bfloat16, int8}")
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .Attr("num_biases: int >= 0 = 0")
    .Attr("activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'linear'")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle scales;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 1, &scales));
      return ProductShapes(c, 5);
    });

REGISTER_OP("BlockSparse>DynamicMatMulGradInputs")
    .Input("dy: float")             // [batch, out_features]
    .Input("x: float")              // [batch, in_features]
    .Input("blocks: float")         // [r * c, height, width]
    .Input("block_ids: int32")      // [batch, k]
    .Input("block_gates: float")    // [batch, k]
    .Output("dx: float")            // [batch, in_features]
    .Output("dblock_gates: float")  // [batch, k]
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      DimensionHandle batch = c->UnknownDim();
      int64_t in_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      TF_RETURN_IF_ERROR(RowsShape(c, 0, "out_features", &batch));
      TF_RETURN_IF_ERROR(RowsShape(c, 1, "in_features", &batch));
      TF_RETURN_IF_ERROR(ChoiceShapes(c, 2, &batch));
      c->set_output(0, c->Matrix(batch, in_features));
      c->set_output(1, c->input(4));
      return absl::OkStatus();
    });

REGISTER_OP("BlockSparse>DynamicMatMulGradBlocks")
    .Input("x: float")            // [batch, in_features]
    .Input("dy: float")           // [batch, out_features]
    .Input("blocks: float")       // [r * c, height, width]; only its shape counts
    .Input("block_ids: int32")    // [batch, k]
    .Input("block_gates: float")  // [batch, k]
    .Output("dblocks: float")     // [r * c, height, width]
    .Attr("in_features: int >= 1")
    .Attr("out_features: int >= 1")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      DimensionHandle batch = c->UnknownDim();
      TF_RETURN_IF_ERROR(RowsShape(c, 0, "in_features", &batch));
      TF_RETURN_IF_ERROR(RowsShape(c, 1, "out_features", &batch));
      TF_RETURN_IF_ERROR(ChoiceShapes(c, 2, &batch));
      c->set_output(0, c->input(2));
      return absl::OkStatus();
    });

// What the three ops share: the sizes of the matrix, and the groups made of the choices.
class DynamicOp : public OpKernel {
 public:
  explicit DynamicOp(OpKernelConstruction* construction, DynamicType type = DynamicType::kFloat32)
      : OpKernel(construction), sizes_(construction) {
    const KernelTable* common;
    OP_REQUIRES_OK(construction, GetTable(&common));
    kernels_ = std::make_unique<DynamicKernels>(*ChooseDynamicTable(common->isa), *common, type);
  }

 protected:
  // Of one call.
  struct Call {
    Grid grid;
    Choices choices;
    Groups groups;
    Tensor workspace;
  };

  absl::Status Group(OpKernelContext* context, GroupOrder order, ZeroGates zeros, Call* call) const {
    float* workspace;
    TF_RETURN_IF_ERROR(AllocateWorkspace(context, GroupWords(call->grid, call->choices, zeros), &call->workspace,
                                         &workspace));
    return InvalidIf(GroupByBlock(call->grid, call->choices, order, zeros, workspace, &call->groups));
  }

  const DynamicSizes sizes_;
  std::unique_ptr<DynamicKernels> kernels_;
};

const float* Floats(const Tensor& tensor) { return tensor.unaligned_flat<float>().data(); }

template <DynamicType TYPE>
class DynamicMatMulOp : public DynamicOp {
 public:
  explicit DynamicMatMulOp(OpKernelConstruction* construction) : DynamicOp(construction, TYPE) {
    OP_REQUIRES_OK(construction, ReadActivation(construction, &activation_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Call call;
    DynamicOperands operands = {};
    OP_REQUIRES_OK(context, sizes_.CheckRows(x, "x", true));
    OP_REQUIRES_OK(context, sizes_.CheckChoices(context, 1, x.dim_size(0), &call.grid, &call.choices));
    OP_REQUIRES_OK(context, CheckVectors(context, &operands));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({x.dim_size(0), sizes_.out_features()}, &shape));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (x.dim_size(0) == 0) return;
    OP_REQUIRES_OK(context, Group(context, GroupOrder::kByColumn, ZeroGates::kDrop, &call));
    operands.x = Floats(x);
    operands.blocks = context->input(1).data();
    operands.y = y->unaligned_flat<float>().data();
    RunDynamicProduct(*kernels_, call.grid, x.dim_size(0), call.groups, NumThreads(context), operands,
                      IntraOpParallelFor(context));
  }

 private:
  // Scales and bias.
  absl::Status CheckVectors(OpKernelContext* context, DynamicOperands* operands) const {
    constexpr bool kScaled = TYPE == DynamicType::kInt8;
    constexpr int kBias = TYPE == DynamicType::kFloat32 ? 4 : 5;
    if (TYPE != DynamicType::kFloat32) {
      const Tensor& scales = context->input(4);
      TF_RETURN_IF_ERROR(CheckRank(scales, 1, "scales", "[grid rows * grid columns] (int8) or [0] (bfloat16)"));
      TF_RETURN_IF_ERROR(CheckDim(scales, 0, "scales", kScaled ? context->input(1).dim_size(0) : 0,
                                  kScaled ? "the blocks" : "bfloat16 has none"));
      if (kScaled) operands->scales = Floats(scales);
    }
    return ReadEpilogue(context, kBias, sizes_.out_features(), activation_, &operands->epilogue);
  }

  Activation activation_ = Activation::kLinear;
};

class DynamicGradInputsOp : public DynamicOp {
 public:
  using DynamicOp::DynamicOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& dy = context->input(0);
    const Tensor& x = context->input(1);
    Call call;
    OP_REQUIRES_OK(context, sizes_.CheckGradient(context, x, dy, &call.grid, &call.choices));
    Tensor* dx = nullptr;
    Tensor* dgates = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, context->input(4).shape(), &dgates));
    if (x.dim_size(0) == 0) return;
    OP_REQUIRES_OK(context, Group(context, GroupOrder::kByRow, ZeroGates::kKeep, &call));
    const DynamicGradPlan plan = PlanInputGradients(*kernels_, call.grid, call.groups, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    const DynamicInputGradients operands = {Floats(dy), Floats(x), Floats(context->input(2)),
                                            dx->unaligned_flat<float>().data(),
                                            dgates->unaligned_flat<float>().data()};
    RunInputGradients(plan, *kernels_, call.grid, x.dim_size(0), call.groups, operands, workspace,
                      IntraOpParallelFor(context));
  }
};

class DynamicGradBlocksOp : public DynamicOp {
 public:
  using DynamicOp::DynamicOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    Call call;
    OP_REQUIRES_OK(context, sizes_.CheckGradient(context, x, dy, &call.grid, &call.choices));
    Tensor* dblocks = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, context->input(2).shape(), &dblocks));
    OP_REQUIRES_OK(context, Group(context, GroupOrder::kByRow, ZeroGates::kDrop, &call));
    const DynamicGradPlan plan = PlanBlockGradients(*kernels_, call.grid, call.groups, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunBlockGradients(plan, *kernels_, call.grid, call.groups, Floats(x), Floats(dy),
                      dblocks->unaligned_flat<float>().data(), workspace, IntraOpParallelFor(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMul").Device(tensorflow::DEVICE_CPU),
                        DynamicMatMulOp<DynamicType::kFloat32>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicLowPrecisionMatMul")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        DynamicMatMulOp<DynamicType::kBfloat16>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicLowPrecisionMatMul")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<int8_t>("T"),
                        DynamicMatMulOp<DynamicType::kInt8>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMulGradInputs").Device(tensorflow::DEVICE_CPU),
                        DynamicGradInputsOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMulGradBlocks").Device(tensorflow::DEVICE_CPU),
                        DynamicGradBlocksOp);

}  // namespace
}  // namespace blocksparse
