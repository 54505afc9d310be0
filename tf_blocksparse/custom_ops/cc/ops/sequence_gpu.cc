#include "tf_blocksparse/custom_ops/cc/ops/sequence_gpu.h"

namespace blocksparse {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

IndexCache<GpuProductIndex>::Build GpuPatterns::Build(bool by_column) {
  return [this, by_column](const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                           int64_t num_blocks, GpuProductIndex* index) {
    return BuildProductIndex({grid, Order::kColumn, indptr, indptr_size, indices, num_blocks}, by_column,
                             multiprocessors_, index);
  };
}

absl::Status GpuPatterns::Open(OpKernelContext* context) {
  GpuCall call;
  TF_RETURN_IF_ERROR(call.Open(context));
  multiprocessors_ = call.device().multiprocessors;
  return absl::OkStatus();
}

absl::Status GetMatrix(OpKernelContext* context, const GpuCall& call, const GpuProductIndex* index,
                       const float* blocks, cuda::DeviceMatrix* matrix) {
  if (index == nullptr) return absl::OkStatus();
  matrix->pattern = &index->pattern;
  matrix->blocks = blocks;
  return index->images.Get(context, call, index->pattern.image, &matrix->image);
}

namespace {

absl::Status Allocate(OpKernelContext* context, const cuda::DeviceSequencePlan& plan, Tensor* holder, float** scratch) {
  return AllocateWorkspace(context, plan.scratch_floats(), holder, scratch);
}

}  // namespace

absl::Status RunOnGpu(OpKernelContext* context, const Sequence& sequence,
                      const SequenceIndices<GpuProductIndex>& indices, const SequenceInputs& inputs,
                      const SequenceOutputs& outputs) {
  GpuCall call;
  TF_RETURN_IF_ERROR(call.Open(context));
  cuda::DeviceMatrices matrices;
  TF_RETURN_IF_ERROR(GetMatrix(context, call, indices.kernel.get(), inputs.kernel.floats(), &matrices.kernel));
  TF_RETURN_IF_ERROR(GetMatrix(context, call, indices.recurrent.get(), inputs.recurrent.floats(), &matrices.recurrent));
  TF_RETURN_IF_ERROR(GetMatrix(context, call, indices.candidate.get(), inputs.candidate.floats(), &matrices.candidate));
  cuda::DeviceSequencePlan plan;
  TF_RETURN_IF_ERROR(InvalidIf(PlanDeviceSequence(sequence, matrices, inputs.mask != nullptr, call.device(),
                                                  GpuChoice(Number::kFloat32, sequence.batch), &plan)));
  Tensor holder;
  float* scratch;
  TF_RETURN_IF_ERROR(Allocate(context, plan, &holder, &scratch));
  return LaunchFailedIf(RunDeviceSequence(plan, call.start(), matrices, inputs, outputs, scratch));
}

absl::Status RunOnGpu(OpKernelContext* context, const Sequence& sequence,
                      const SequenceIndices<GpuProductIndex>& indices, const SequenceGradInputs& inputs,
                      const SequenceGradOutputs& outputs) {
  GpuCall call;
  TF_RETURN_IF_ERROR(call.Open(context));
  cuda::DeviceMatrices matrices;
  TF_RETURN_IF_ERROR(GetMatrix(context, call, indices.recurrent.get(), inputs.recurrent_blocks, &matrices.recurrent));
  TF_RETURN_IF_ERROR(GetMatrix(context, call, indices.candidate.get(), inputs.candidate_blocks, &matrices.candidate));
  cuda::DeviceSequencePlan plan;
  TF_RETURN_IF_ERROR(InvalidIf(PlanDeviceSequenceGrad(sequence, matrices, inputs.mask != nullptr, call.device(),
                                                      GpuChoice(Number::kFloat32, sequence.batch), &plan)));
  Tensor holder;
  float* scratch;
  TF_RETURN_IF_ERROR(Allocate(context, plan, &holder, &scratch));
  return LaunchFailedIf(RunDeviceSequenceGrad(plan, call.start(), matrices, inputs, outputs, scratch));
}

}  // namespace blocksparse
