// What the ops of a GPU share: the device and the stream of a call, and patterns that are copied to the device once.
#ifndef TF_BLOCKSPARSE_OPS_GPU_CALL_H_
#define TF_BLOCKSPARSE_OPS_GPU_CALL_H_

#include <map>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/cuda/driver.h"
#include "tf_blocksparse/custom_ops/cc/cuda/launch.h"
#include "tf_blocksparse/custom_ops/cc/cuda/pattern.h"
#include "tf_blocksparse/custom_ops/cc/kernels/half.h"

namespace blocksparse {

// Internal, for an error that is not the caller's.
absl::Status LaunchFailedIf(const std::string& error);

cuda::Type TypeOf(Number number);

// Of a product of so many rows. As TensorFlow's own products: float32 may be rounded where tf.config.experimental says
// so, which is the default.
cuda::KernelChoice GpuChoice(Number number, int64_t batch);

// The device and the stream of a call.
class GpuCall {
 public:
  absl::Status Open(tensorflow::OpKernelContext* context);

  cuda::Device device() const { return {module_->architecture, module_->multiprocessors}; }
  void* stream() const { return stream_; }
  const cuda::Module* module() const { return module_; }
  cuda::Start start() const;
  absl::Status Copy(void* to, const std::vector<unsigned char>& from) const;

 private:
  cuda::Driver* driver_ = nullptr;
  cuda::Module* module_ = nullptr;
  void* stream_ = nullptr;
};

// The pattern's image on each device and stream that has asked for it.
class DeviceImages {
 public:
  absl::Status Get(tensorflow::OpKernelContext* context, const GpuCall& call, const std::vector<unsigned char>& image,
                   const void** data) const;

 private:
  mutable absl::Mutex mutex_;
  mutable std::map<std::pair<const cuda::Module*, void*>, tensorflow::Tensor> copies_;
};

// A matrix as the kernels of a product read it.
struct GpuProductIndex {
  Grid grid;
  BlockIndex shape;  // with nothing but the grid
  cuda::ProductPattern pattern;
  DeviceImages images;
};

// Arrays that are in the memory of the host, and not checked.
struct StoredPattern {
  const Grid& grid;
  Order order;
  const int32_t* indptr;
  int64_t indptr_size;
  const int32_t* indices;
  int64_t num_blocks;
};

// Checks and builds: by column for x W, by row for dy W^T. Returns an empty string, or the text of an error.
std::string BuildProductIndex(const StoredPattern& stored, bool by_column, int64_t multiprocessors,
                              GpuProductIndex* index);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_GPU_CALL_H_
