#include "tf_blocksparse/custom_ops/cc/ops/dynamic_gpu.h"

#include "tf_blocksparse/custom_ops/cc/cuda/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/ops/gpu_call.h"

namespace blocksparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

namespace {

const float* Floats(const Tensor& tensor) { return tensor.unaligned_flat<float>().data(); }

// A product, or the gradient of x, of at least one example.
absl::Status Multiply(OpKernelContext* context, const GpuCall& call, const Grid& grid, bool transposed,
                      const Choices& choices, const Tensor& x, const Tensor& blocks, const Epilogue& epilogue,
                      Tensor* y) {
  cuda::DynamicPlan plan;
  TF_RETURN_IF_ERROR(
      InvalidIf(PlanDynamic(grid, call.device(), transposed, choices.batch, choices.count, &plan)));
  Tensor holder;
  float* scratch;
  TF_RETURN_IF_ERROR(AllocateWorkspace(context, plan.scratch_floats, &holder, &scratch));
  return LaunchFailedIf(RunDynamic(plan, call.start(), {choices.ids, choices.gates, choices.count}, Floats(x),
                                   Floats(blocks), epilogue.bias, cuda::ActivationCode(epilogue.activation),
                                   y->unaligned_flat<float>().data(), scratch));
}

}  // namespace

GpuDynamicMatMulOp::GpuDynamicMatMulOp(OpKernelConstruction* construction)
    : OpKernel(construction), sizes_(construction) {
  OP_REQUIRES_OK(construction, ReadActivation(construction, &activation_));
}

void GpuDynamicMatMulOp::Compute(OpKernelContext* context) {
  const Tensor& x = context->input(0);
  Grid grid;
  Choices choices;
  Epilogue epilogue;
  OP_REQUIRES_OK(context, sizes_.CheckRows(x, "x", true));
  OP_REQUIRES_OK(context, sizes_.CheckChoices(context, 1, x.dim_size(0), &grid, &choices));
  OP_REQUIRES_OK(context, ReadEpilogue(context, 4, sizes_.out_features(), activation_, &epilogue));
  TensorShape shape;
  OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({x.dim_size(0), sizes_.out_features()}, &shape));
  Tensor* y = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
  if (x.dim_size(0) == 0) return;
  GpuCall call;
  OP_REQUIRES_OK(context, call.Open(context));
  OP_REQUIRES_OK(context, Multiply(context, call, grid, false, choices, x, context->input(1), epilogue, y));
}

void GpuDynamicGradInputsOp::Compute(OpKernelContext* context) {
  const Tensor& dy = context->input(0);
  const Tensor& x = context->input(1);
  const Tensor& blocks = context->input(2);
  Grid grid;
  Choices choices;
  OP_REQUIRES_OK(context, sizes_.CheckGradient(context, x, dy, &grid, &choices));
  Tensor* dx = nullptr;
  Tensor* dgates = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
  OP_REQUIRES_OK(context, context->allocate_output(1, context->input(4).shape(), &dgates));
  if (x.dim_size(0) == 0) return;
  GpuCall call;
  OP_REQUIRES_OK(context, call.Open(context));
  OP_REQUIRES_OK(context, Multiply(context, call, grid, true, choices, dy, blocks, Epilogue(), dx));
  if (choices.count == 0) return;
  OP_REQUIRES_OK(context, LaunchFailedIf(RunDynamicGates(
                              grid, call.device(), call.start(), {choices.ids, choices.gates, choices.count},
                              choices.batch, Floats(x), Floats(dy), Floats(blocks),
                              dgates->unaligned_flat<float>().data())));
}

void GpuDynamicGradBlocksOp::Compute(OpKernelContext* context) {
  const Tensor& x = context->input(0);
  const Tensor& dy = context->input(1);
  Grid grid;
  Choices choices;
  OP_REQUIRES_OK(context, sizes_.CheckGradient(context, x, dy, &grid, &choices));
  Tensor* dblocks = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, context->input(2).shape(), &dblocks));
  GpuCall call;
  OP_REQUIRES_OK(context, call.Open(context));
  cuda::DynamicGradPlan plan;
  OP_REQUIRES_OK(context,
                 InvalidIf(PlanDynamicGrad(grid, call.device(), choices.batch, choices.count, &plan)));
  Tensor holder;
  float* scratch;
  OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.scratch_floats, &holder, &scratch));
  OP_REQUIRES_OK(context, LaunchFailedIf(RunDynamicGrad(plan, call.start(),
                                                        {choices.ids, choices.gates, choices.count}, Floats(x),
                                                        Floats(dy), dblocks->unaligned_flat<float>().data(), scratch)));
}

GpuChooseBlocksOp::GpuChooseBlocksOp(OpKernelConstruction* construction) : OpKernel(construction) {
  OP_REQUIRES_OK(construction, ReadEpsilon(construction, &epsilon_));
}

void GpuChooseBlocksOp::Compute(OpKernelContext* context) {
  TensorShape shape;
  OP_REQUIRES_OK(context, CheckScores(context, &shape));
  Tensor* ids = nullptr;
  Tensor* gates = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, shape, &ids));
  OP_REQUIRES_OK(context, context->allocate_output(1, shape, &gates));
  if (ids->NumElements() == 0) return;
  const Tensor& scores = context->input(0);
  cuda::ChooseArgs args = {};
  args.scores = Floats(scores);
  args.ids = ids->unaligned_flat<int32_t>().data();
  args.gates = gates->unaligned_flat<float>().data();
  args.blocks = static_cast<int>(scores.dim_size(1));
  args.count = static_cast<int>(ids->dim_size(1));
  args.epsilon = epsilon_;
  GpuCall call;
  OP_REQUIRES_OK(context, call.Open(context));
  OP_REQUIRES_OK(context, LaunchFailedIf(RunChooseBlocks(call.device(), call.start(), scores.dim_size(0), args)));
}

}  // namespace blocksparse
