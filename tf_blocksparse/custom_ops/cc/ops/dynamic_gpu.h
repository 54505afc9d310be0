// Products with chosen blocks, and the choice, on a GPU: see cuda/dynamic.h.
//
// Ids stay in the memory of the device. What the CPU's ops refuse by an error, an id of no block, makes there what its
// example gives NaN: to look at it first would be to wait for the device in each call.
#ifndef TF_BLOCKSPARSE_OPS_DYNAMIC_GPU_H_
#define TF_BLOCKSPARSE_OPS_DYNAMIC_GPU_H_

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/ops/dynamic_checks.h"

namespace blocksparse {

class GpuDynamicMatMulOp : public tensorflow::OpKernel {
 public:
  explicit GpuDynamicMatMulOp(tensorflow::OpKernelConstruction* construction);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  const DynamicSizes sizes_;
  Activation activation_ = Activation::kLinear;
};

class GpuDynamicGradInputsOp : public tensorflow::OpKernel {
 public:
  explicit GpuDynamicGradInputsOp(tensorflow::OpKernelConstruction* construction)
      : OpKernel(construction), sizes_(construction) {}
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  const DynamicSizes sizes_;
};

class GpuDynamicGradBlocksOp : public tensorflow::OpKernel {
 public:
  explicit GpuDynamicGradBlocksOp(tensorflow::OpKernelConstruction* construction)
      : OpKernel(construction), sizes_(construction) {}
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  const DynamicSizes sizes_;
};

// k stays in the memory of the host.
class GpuChooseBlocksOp : public tensorflow::OpKernel {
 public:
  explicit GpuChooseBlocksOp(tensorflow::OpKernelConstruction* construction);
  void Compute(tensorflow::OpKernelContext* context) override;

 private:
  float epsilon_ = 0;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_DYNAMIC_GPU_H_
