// The ops of the GPU as ops of the CPU, with names of their own, for tests: everything is that of the GPU but the
// driver, for which TF_BLOCKSPARSE_LIBCUDA names the emulator. The library of ops is to be loaded before this one.
#include "tensorflow/core/framework/op.h"
#include "tf_blocksparse/custom_ops/cc/ops/dynamic_gpu.h"
#include "tf_blocksparse/custom_ops/cc/ops/matmul_gpu.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_gpu.h"

namespace blocksparse {
namespace {

// An op like "BlockSparse>..." named "BlockSparseEmulated>...".
bool Register(const std::string& name) {
  const tensorflow::OpRegistrationData* known = nullptr;  // looked up now: the registry is locked when it asks for ops
  TF_CHECK_OK(tensorflow::OpRegistry::Global()->LookUp("BlockSparse>" + name, &known));
  tensorflow::OpRegistrationData emulated = *known;
  emulated.op_def.set_name("BlockSparseEmulated>" + name);
  tensorflow::OpRegistry::Global()->Register([emulated](tensorflow::OpRegistrationData* op) -> absl::Status {
    *op = emulated;
    return absl::OkStatus();
  });
  return true;
}

#define EMULATE(name, ...)                     \
  const bool registered_##name = Register(#name); \
  REGISTER_KERNEL_BUILDER(Name("BlockSparseEmulated>" #name).Device(tensorflow::DEVICE_CPU), __VA_ARGS__)

EMULATE(MatMul, GpuMatMulOp);
EMULATE(MatMulGradX, GpuGradXOp);
EMULATE(MatMulGradBlocks, GpuGradBlocksOp);
EMULATE(DynamicMatMul, GpuDynamicMatMulOp);
EMULATE(DynamicMatMulGradInputs, GpuDynamicGradInputsOp);
EMULATE(DynamicMatMulGradBlocks, GpuDynamicGradBlocksOp);
EMULATE(ChooseBlocks, GpuChooseBlocksOp);
EMULATE(Rnn, GpuSequenceOp<Cell::kRnn>);
EMULATE(Gru, GpuSequenceOp<Cell::kGru>);
EMULATE(Lstm, GpuSequenceOp<Cell::kLstm>);
EMULATE(RnnGrad, GpuSequenceGradOp<Cell::kRnn>);
EMULATE(GruGrad, GpuSequenceGradOp<Cell::kGru>);
EMULATE(LstmGrad, GpuSequenceGradOp<Cell::kLstm>);

}  // namespace
}  // namespace blocksparse
