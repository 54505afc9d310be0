// The ops of the GPU as ops of the CPU, with names of their own, for tests: everything is that of the GPU but the
// driver, for which TF_BLOCKSPARSE_LIBCUDA names the emulator.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/ops/matmul_gpu.h"

namespace blocksparse {
namespace {

constexpr const char* kOrders = "order: {'row', 'column'} = 'row'";

REGISTER_OP("BlockSparseEmulated>MatMul")
    .Input("x: float")
    .Input("blocks: float")
    .Input("indices: int32")
    .Input("indptr: int32")
    .Input("bias: num_biases * float")
    .Output("y: float")
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr("num_biases: int >= 0 = 0")
    .Attr(kOrders)
    .Attr("activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'linear'")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) -> absl::Status {
      c->set_output(0, c->UnknownShape());
      return absl::OkStatus();
    });
REGISTER_OP("BlockSparseEmulated>MatMulGradX")
    .Input("dy: float")
    .Input("x: float")
    .Input("blocks: float")
    .Input("indices: int32")
    .Input("indptr: int32")
    .Output("dx: float")
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr(kOrders)
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) -> absl::Status {
      c->set_output(0, c->UnknownShape());
      return absl::OkStatus();
    });
REGISTER_OP("BlockSparseEmulated>MatMulGradBlocks")
    .Input("x: float")
    .Input("dy: float")
    .Input("blocks: float")
    .Input("indices: int32")
    .Input("indptr: int32")
    .Output("dblocks: float")
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr(kOrders)
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) -> absl::Status {
      c->set_output(0, c->UnknownShape());
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("BlockSparseEmulated>MatMul").Device(tensorflow::DEVICE_CPU), GpuMatMulOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparseEmulated>MatMulGradX").Device(tensorflow::DEVICE_CPU), GpuGradXOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparseEmulated>MatMulGradBlocks").Device(tensorflow::DEVICE_CPU), GpuGradBlocksOp);

}  // namespace
}  // namespace blocksparse
