// Registers the kernels for GPUs. TensorFlow without GPUs loads them and never calls them.
//
// What says where blocks are stays in the memory of the host, where it is checked.
#include "tf_blocksparse/custom_ops/cc/ops/dynamic_gpu.h"
#include "tf_blocksparse/custom_ops/cc/ops/matmul_gpu.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_gpu.h"

namespace blocksparse {
namespace {

using tensorflow::DEVICE_GPU;

#define PATTERN HostMemory("indices").HostMemory("indptr")
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMul").Device(DEVICE_GPU).PATTERN, GpuMatMulOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradX").Device(DEVICE_GPU).PATTERN, GpuGradXOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradBlocks").Device(DEVICE_GPU).PATTERN, GpuGradBlocksOp);

REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMul").Device(DEVICE_GPU), GpuDynamicMatMulOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMulGradInputs").Device(DEVICE_GPU), GpuDynamicGradInputsOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>DynamicMatMulGradBlocks").Device(DEVICE_GPU), GpuDynamicGradBlocksOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>ChooseBlocks").Device(DEVICE_GPU).HostMemory("k"), GpuChooseBlocksOp);

#define KERNEL HostMemory("kernel_indices").HostMemory("kernel_indptr")
#define RECURRENT HostMemory("recurrent_indices").HostMemory("recurrent_indptr")
#define CANDIDATE HostMemory("candidate_indices").HostMemory("candidate_indptr")
REGISTER_KERNEL_BUILDER(Name("BlockSparse>Rnn").Device(DEVICE_GPU).KERNEL.RECURRENT, GpuSequenceOp<Cell::kRnn>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>Gru").Device(DEVICE_GPU).KERNEL.RECURRENT.CANDIDATE,
                        GpuSequenceOp<Cell::kGru>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>Lstm").Device(DEVICE_GPU).KERNEL.RECURRENT, GpuSequenceOp<Cell::kLstm>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>RnnGrad").Device(DEVICE_GPU).RECURRENT, GpuSequenceGradOp<Cell::kRnn>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>GruGrad").Device(DEVICE_GPU).RECURRENT.CANDIDATE,
                        GpuSequenceGradOp<Cell::kGru>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>LstmGrad").Device(DEVICE_GPU).RECURRENT, GpuSequenceGradOp<Cell::kLstm>);

}  // namespace
}  // namespace blocksparse
