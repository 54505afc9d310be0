#include "tf_blocksparse/custom_ops/cc/ops/gpu_call.h"

#include <new>

#include "tensorflow/core/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace blocksparse {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

namespace {

absl::Status FailedIf(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::FailedPreconditionError(error);
}

}  // namespace

absl::Status LaunchFailedIf(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

cuda::Type TypeOf(Number number) {
  switch (number) {
    case Number::kFloat16:
      return cuda::Type::kFloat16;
    case Number::kBfloat16:
      return cuda::Type::kBFloat16;
    case Number::kFloat32:
      break;
  }
  return cuda::Type::kFloat32;
}

cuda::KernelChoice GpuChoice(Number number, int64_t batch) {
  cuda::KernelChoice choice = {};
  choice.type = TypeOf(number);
  choice.tf32 = tensorflow::tensor_float_32_execution_enabled();
  choice.batch = batch;
  return choice;
}

absl::Status GpuCall::Open(OpKernelContext* context) {
  TF_RETURN_IF_ERROR(FailedIf(cuda::Driver::Get(&driver_)));
  TF_RETURN_IF_ERROR(FailedIf(driver_->GetModule(&module_)));
  // TensorFlow's CPU devices, on which the tests run this, have none.
  const tensorflow::DeviceContext* device = context->op_device_context();
  if (device != nullptr && device->stream() != nullptr) {
    stream_ = device->stream()->platform_specific_handle().stream;
  }
  return absl::OkStatus();
}

cuda::Start GpuCall::start() const {
  return [this](int kernel, int64_t grid, const void* args) {
    return driver_->Launch(module_, kernel, grid, args, stream_);
  };
}

absl::Status GpuCall::Copy(void* to, const std::vector<unsigned char>& from) const {
  return LaunchFailedIf(driver_->Copy(to, from.data(), from.size(), stream_));
}

absl::Status DeviceImages::Get(OpKernelContext* context, const GpuCall& call, const std::vector<unsigned char>& image,
                               const void** data) const {
  // A copy is of use to its own stream alone: there it comes before whatever reads it.
  absl::MutexLock lock(&mutex_);
  const auto key = std::make_pair(call.module(), call.stream());
  auto found = copies_.find(key);
  if (found == copies_.end()) {
    Tensor copy;
    const TensorShape shape({static_cast<int64_t>(image.size())});
    TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_UINT8, shape, &copy));
    TF_RETURN_IF_ERROR(call.Copy(copy.data(), image));
    found = copies_.emplace(key, std::move(copy)).first;
  }
  *data = found->second.data();
  return absl::OkStatus();
}

std::string BuildProductIndex(const StoredPattern& stored, bool by_column, int64_t multiprocessors,
                              GpuProductIndex* index) {
  try {  // as BlockIndexCache of the CPU
    BlockIndex blocks;
    const std::string error = BuildBlockIndex(stored.grid, stored.order, stored.indptr, stored.indptr_size,
                                              stored.indices, stored.num_blocks, by_column, &blocks);
    if (!error.empty()) return error;
    index->grid = stored.grid;
    index->shape.grid = stored.grid;
    index->pattern = cuda::MakeProductPattern(blocks, multiprocessors);
    return "";
  } catch (const std::bad_alloc&) {
    return "there is no memory for the index of a matrix of " + std::to_string(stored.grid.rows.features) + "x" +
           std::to_string(stored.grid.columns.features);
  }
}

}  // namespace blocksparse
