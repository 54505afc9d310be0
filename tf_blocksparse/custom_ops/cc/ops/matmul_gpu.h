// BlockSparse>MatMul and its two gradients on a GPU: the same checks as on the CPU, then launches on TensorFlow's stream.
//
// indices and indptr stay in the host's memory. They are checked and made into what the kernels read on the first call,
// which copies that to the device; later calls copy nothing, and none waits for the device.
#ifndef TF_BLOCKSPARSE_OPS_MATMUL_GPU_H_
#define TF_BLOCKSPARSE_OPS_MATMUL_GPU_H_

#include <atomic>
#include <memory>

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/gpu_call.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"
#include "tf_blocksparse/custom_ops/cc/ops/stored_matrix.h"

namespace blocksparse {

struct GpuGradIndex {
  Grid grid;
  cuda::GradPattern pattern;
  DeviceImages images;
};

// y = activation(x W + bias), and dx = dy W^T.
class GpuProductOp : public tensorflow::OpKernel {
 public:
  GpuProductOp(tensorflow::OpKernelConstruction* construction, bool transposed);

 protected:
  // As ProductOp::Multiply of the CPU.
  void Multiply(tensorflow::OpKernelContext* context, const tensorflow::Tensor& x, int first, int64_t in_features,
                int64_t features, const Epilogue& epilogue);

  StoredMatrix matrix_;
  Number number_ = Number::kFloat32;

 private:
  absl::Status Run(tensorflow::OpKernelContext* context, const GpuProductIndex& index, const GpuCall& call,
                   const tensorflow::Tensor& x, const tensorflow::Tensor& blocks, const Epilogue& epilogue,
                   tensorflow::Tensor* y) const;

  const bool transposed_;
  std::atomic<int64_t> multiprocessors_{1};
  IndexCache<GpuProductIndex> cache_;
};

class GpuMatMulOp : public GpuProductOp {
 public:
  explicit GpuMatMulOp(tensorflow::OpKernelConstruction* construction);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  Activation activation_;
};

class GpuGradXOp : public GpuProductOp {
 public:
  explicit GpuGradXOp(tensorflow::OpKernelConstruction* construction) : GpuProductOp(construction, true) {}
  void Compute(tensorflow::OpKernelContext* context) override;
};

class GpuGradBlocksOp : public tensorflow::OpKernel {
 public:
  explicit GpuGradBlocksOp(tensorflow::OpKernelConstruction* construction);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  absl::Status Clear(tensorflow::OpKernelContext* context, tensorflow::Tensor* dblocks) const;
  absl::Status Run(tensorflow::OpKernelContext* context, const GpuGradIndex& index, const tensorflow::Tensor& x,
                   const tensorflow::Tensor& dy, tensorflow::Tensor* dblocks) const;

  StoredMatrix matrix_;
  Number number_ = Number::kFloat32;
  IndexCache<GpuGradIndex> cache_;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_MATMUL_GPU_H_
