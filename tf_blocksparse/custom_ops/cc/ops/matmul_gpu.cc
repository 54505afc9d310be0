#include "tf_blocksparse/custom_ops/cc/ops/matmul_gpu.h"

#include <string>

namespace blocksparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

GpuProductOp::GpuProductOp(OpKernelConstruction* construction, bool transposed)
    : OpKernel(construction),
      matrix_(construction),
      transposed_(transposed),
      cache_([this](const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                    int64_t num_blocks, GpuProductIndex* index) {
        return BuildProductIndex({grid, matrix_.order(), indptr, indptr_size, indices, num_blocks}, !transposed_,
                                 multiprocessors_, index);
      }) {
  OP_REQUIRES_OK(construction, ReadNumber(construction, &number_));
}

void GpuProductOp::Multiply(OpKernelContext* context, const Tensor& x, int first, int64_t in_features,
                            int64_t features, const Epilogue& epilogue) {
  const Tensor& blocks = context->input(first);
  Grid grid;
  OP_REQUIRES_OK(context, matrix_.MakeGrid(blocks, in_features, &grid));
  TensorShape shape;
  OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({x.dim_size(0), features}, &shape));
  // Before the index: its size grows with out_features, which costs an attacker nothing, and so does y's.
  Tensor* y = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
  const Tensor& indices = context->input(first + 1);
  const Tensor& indptr = context->input(first + 2);
  if (x.dim_size(0) == 0) {
    OP_REQUIRES_OK(context, matrix_.CheckPattern(grid, indices, indptr));
    return;
  }
  GpuCall call;
  OP_REQUIRES_OK(context, call.Open(context));
  multiprocessors_ = call.device().multiprocessors;
  std::shared_ptr<const GpuProductIndex> index;
  OP_REQUIRES_OK(context, cache_.Get(grid, indices, indptr, &index));
  OP_REQUIRES_OK(context, Run(context, *index, call, x, blocks, epilogue, y));
}

absl::Status GpuProductOp::Run(OpKernelContext* context, const GpuProductIndex& index, const GpuCall& call,
                               const Tensor& x, const Tensor& blocks, const Epilogue& epilogue, Tensor* y) const {
  cuda::ProductPlan plan;
  TF_RETURN_IF_ERROR(
      InvalidIf(PlanProduct(index.pattern, call.device(), transposed_, GpuChoice(number_, x.dim_size(0)), &plan)));
  const void* pattern;
  TF_RETURN_IF_ERROR(index.images.Get(context, call, index.pattern.image, &pattern));
  Tensor holder;
  float* partial;
  TF_RETURN_IF_ERROR(AllocateWorkspace(context, plan.partial_floats, &holder, &partial));
  return LaunchFailedIf(RunProduct(plan, call.start(), pattern, x.data(), blocks.data(), epilogue.bias,
                                   cuda::ActivationCode(epilogue.activation), y->data(), partial));
}

GpuMatMulOp::GpuMatMulOp(OpKernelConstruction* construction) : GpuProductOp(construction, false) {
  OP_REQUIRES_OK(construction, ReadActivation(construction, &activation_));
}

void GpuMatMulOp::Compute(OpKernelContext* context) {
  const Tensor& x = context->input(0);
  OP_REQUIRES_OK(context, CheckRank(x, 2, "x", "[batch, in_features]"));
  OP_REQUIRES_OK(context, CheckBsrShapes(context->input(1), context->input(2), context->input(3)));
  Epilogue epilogue;
  OP_REQUIRES_OK(context, ReadEpilogue(context, 4, matrix_.out_features(), activation_, &epilogue));
  Multiply(context, x, 1, x.dim_size(1), matrix_.out_features(), epilogue);
}

void GpuGradXOp::Compute(OpKernelContext* context) {
  const Tensor& dy = context->input(0);
  const Tensor& x = context->input(1);
  OP_REQUIRES_OK(context, matrix_.CheckPair(x, dy));
  OP_REQUIRES_OK(context, CheckBsrShapes(context->input(2), context->input(3), context->input(4)));
  Multiply(context, dy, 2, x.dim_size(1), x.dim_size(1), Epilogue());
}

GpuGradBlocksOp::GpuGradBlocksOp(OpKernelConstruction* construction)
    : OpKernel(construction),
      matrix_(construction),
      cache_([this](const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                    int64_t num_blocks, GpuGradIndex* index) {
        BlockIndex blocks;
        const std::string error =
            BuildBlockIndex(grid, matrix_.order(), indptr, indptr_size, indices, num_blocks, false, &blocks);
        if (error.empty()) {
          index->grid = grid;
          index->pattern = cuda::MakeGradPattern(blocks);
        }
        return error;
      }) {
  OP_REQUIRES_OK(construction, ReadNumber(construction, &number_));
}

void GpuGradBlocksOp::Compute(OpKernelContext* context) {
  const Tensor& x = context->input(0);
  const Tensor& dy = context->input(1);
  const Tensor& blocks = context->input(2);
  OP_REQUIRES_OK(context, matrix_.CheckPair(x, dy));
  OP_REQUIRES_OK(context, CheckBsrShapes(blocks, context->input(3), context->input(4)));
  Grid grid;
  OP_REQUIRES_OK(context, matrix_.MakeGrid(blocks, x.dim_size(1), &grid));
  Tensor* dblocks = nullptr;
  OP_REQUIRES_OK(context, context->allocate_output(0, blocks.shape(), &dblocks));
  if (x.dim_size(0) == 0) {  // see the CPU's
    OP_REQUIRES_OK(context, matrix_.CheckPattern(grid, context->input(3), context->input(4)));
    OP_REQUIRES_OK(context, Clear(context, dblocks));
    return;
  }
  std::shared_ptr<const GpuGradIndex> index;
  OP_REQUIRES_OK(context, cache_.Get(grid, context->input(3), context->input(4), &index));
  if (blocks.NumElements() == 0) return;
  OP_REQUIRES_OK(context, Run(context, *index, x, dy, dblocks));
}

absl::Status GpuGradBlocksOp::Clear(OpKernelContext* context, Tensor* dblocks) const {
  if (dblocks->NumElements() == 0) return absl::OkStatus();
  GpuCall call;
  TF_RETURN_IF_ERROR(call.Open(context));
  return LaunchFailedIf(RunEmptyGrad(TypeOf(number_), call.start(), dblocks->NumElements(), dblocks->data()));
}

absl::Status GpuGradBlocksOp::Run(OpKernelContext* context, const GpuGradIndex& index, const Tensor& x,
                                  const Tensor& dy, Tensor* dblocks) const {
  GpuCall call;
  TF_RETURN_IF_ERROR(call.Open(context));
  cuda::GradPlan plan;
  TF_RETURN_IF_ERROR(InvalidIf(PlanGrad(index.pattern, call.device(), GpuChoice(number_, x.dim_size(0)), &plan)));
  const void* pattern;
  TF_RETURN_IF_ERROR(index.images.Get(context, call, index.pattern.image, &pattern));
  Tensor holder;
  float* partial;
  TF_RETURN_IF_ERROR(AllocateWorkspace(context, plan.partial_floats, &holder, &partial));
  return LaunchFailedIf(RunGrad(plan, call.start(), pattern, x.data(), dy.data(), dblocks->data(), partial));
}

}  // namespace blocksparse
