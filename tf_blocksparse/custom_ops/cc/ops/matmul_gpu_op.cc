// Registers the kernels for GPUs. TensorFlow without GPUs loads them and never calls them.
#include "tf_blocksparse/custom_ops/cc/ops/matmul_gpu.h"

namespace blocksparse {
namespace {

REGISTER_KERNEL_BUILDER(
    Name("BlockSparse>MatMul").Device(tensorflow::DEVICE_GPU).HostMemory("indices").HostMemory("indptr"), GpuMatMulOp);
REGISTER_KERNEL_BUILDER(
    Name("BlockSparse>MatMulGradX").Device(tensorflow::DEVICE_GPU).HostMemory("indices").HostMemory("indptr"),
    GpuGradXOp);
REGISTER_KERNEL_BUILDER(
    Name("BlockSparse>MatMulGradBlocks").Device(tensorflow::DEVICE_GPU).HostMemory("indices").HostMemory("indptr"),
    GpuGradBlocksOp);

}  // namespace
}  // namespace blocksparse
