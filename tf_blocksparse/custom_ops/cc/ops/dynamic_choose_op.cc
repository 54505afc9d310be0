// BlockSparse>ChooseBlocks: the blocks that each example wants, from the scores of a gate.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_choose.h"
#include "tf_blocksparse/custom_ops/cc/ops/dynamic_checks.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Gates are max(scores, 0); an example keeps the k largest, of equal ones those of lower index, divided by the larger of
// epsilon and the mean over all n of what is kept.
REGISTER_OP("BlockSparse>ChooseBlocks")
    .Input("scores: float")        // [batch, n]
    .Input("k: int32")             // scalar
    .Output("block_ids: int32")    // [batch, k]
    .Output("block_gates: float")  // [batch, k]
    .Attr("epsilon: float")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle scores;
      ShapeHandle scalar;
      DimensionHandle k;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &scores));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &scalar));
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(1, &k));
      if (c->ValueKnown(k) && c->ValueKnown(c->Dim(scores, 1)) && c->Value(k) > c->Value(c->Dim(scores, 1))) {
        return absl::InvalidArgumentError(absl::StrCat("k must be from 0 to the number of scores, ",
                                                       c->Value(c->Dim(scores, 1)), ", got ", c->Value(k)));
      }
      c->set_output(0, c->Matrix(c->Dim(scores, 0), k));
      c->set_output(1, c->Matrix(c->Dim(scores, 0), k));
      return absl::OkStatus();
    });

class ChooseBlocksOp : public OpKernel {
 public:
  explicit ChooseBlocksOp(OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadEpsilon(construction, &epsilon_));
    const KernelTable* common;
    OP_REQUIRES_OK(construction, GetTable(&common));
    table_ = ChooseDynamicTable(common->isa);
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& scores = context->input(0);
    TensorShape shape;
    OP_REQUIRES_OK(context, CheckScores(context, &shape));
    const int64_t batch = scores.dim_size(0);
    const int64_t blocks = scores.dim_size(1);
    const int64_t count = *static_cast<const int32_t*>(context->input(1).data());
    Tensor* ids = nullptr;
    Tensor* gates = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &ids));
    OP_REQUIRES_OK(context, context->allocate_output(1, shape, &gates));
    if (batch == 0 || count == 0) return;  // without room for the keys of all blocks
    const BlockChoice choice = {scores.unaligned_flat<float>().data(), batch, blocks, count, epsilon_,
                                ids->unaligned_flat<int32_t>().data(), gates->unaligned_flat<float>().data()};
    const int64_t workers = ChooseWorkers(choice, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, workers * blocks, &holder, &workspace));
    ChooseBlocks(*table_, choice, workers, reinterpret_cast<int32_t*>(workspace), IntraOpParallelFor(context));
  }

 private:
  float epsilon_ = 0;
  const DynamicTable* table_ = nullptr;
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>ChooseBlocks").Device(tensorflow::DEVICE_CPU), ChooseBlocksOp);

}  // namespace
}  // namespace blocksparse
