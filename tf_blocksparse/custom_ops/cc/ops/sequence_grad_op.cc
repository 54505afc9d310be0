// BlockSparse>RnnGrad, BlockSparse>GruGrad, BlockSparse>LstmGrad: back through time, to the products' results. The
// gradients of x, the blocks and the biases are products and sums of these.
#include <memory>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_backward.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// dprojected, (drecurrent,) dh0, (dc0): of the saved gates' time and batch and the final state's units.
absl::Status SequenceGradShapes(InferenceContext* c, Cell cell) {
  ShapeHandle dh;
  ShapeHandle gates;
  const bool lstm = cell == Cell::kLstm;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &dh));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(lstm ? 3 : 2), 3, &gates));
  DimensionHandle out;
  TF_RETURN_IF_ERROR(c->Multiply(c->Dim(dh, 1), GatesOf(cell), &out));
  ShapeHandle dprojected;
  TF_RETURN_IF_ERROR(c->ReplaceDim(gates, 2, out, &dprojected));
  int output = 0;
  c->set_output(output++, dprojected);
  if (cell == Cell::kGru) c->set_output(output++, dprojected);
  c->set_output(output++, dh);
  if (lstm) c->set_output(output++, dh);
  return absl::OkStatus();
}

#define RECURRENT_MATRIX \
  Input("recurrent_blocks: float").Input("recurrent_indices: int32").Input("recurrent_indptr: int32")
#define SEQUENCE_GRAD_ATTRS \
  Attr("num_masks: int >= 0 = 0") \
      .Attr(kActivationAttr) \
      .Attr("time_major: bool = false") \
      .Attr("go_backwards: bool = false") \
      .Attr("return_sequences: bool = true") \
      .Attr("zero_output_for_mask: bool = false")

// The outputs' gradients, what the forward op has saved, its recurrent matrix and its mask. Steps are in the order in
// which the forward op did them, but for the mask, which is its input.
REGISTER_OP("BlockSparse>RnnGrad")
    .Input("doutput: float")
    .Input("dh: float")
    .Input("gates: float")
    .RECURRENT_MATRIX
    .Input("mask: num_masks * bool")
    .Output("dprojected: float")  // [batch, time, units], of x W + h U + b
    .Output("dh0: float")
    .SEQUENCE_GRAD_ATTRS
    .SetShapeFn([](InferenceContext* c) { return SequenceGradShapes(c, Cell::kRnn); });

REGISTER_OP("BlockSparse>GruGrad")
    .Input("doutput: float")
    .Input("dh: float")
    .Input("gates: float")
    .Input("states: float")
    .RECURRENT_MATRIX
    .Input("candidate_blocks: num_candidates * float")
    .Input("candidate_indices: num_candidates * int32")
    .Input("candidate_indptr: num_candidates * int32")
    .Input("mask: num_masks * bool")
    .Output("dprojected: float")  // [batch, time, 3 * units], of x W + b
    .Output("drecurrent: float")  // of h U + b, or dprojected again beside a candidate
    .Output("dh0: float")
    .SEQUENCE_GRAD_ATTRS
    .Attr("num_candidates: int >= 0 = 0")
    .Attr(kRecurrentActivationAttr)
    .SetShapeFn([](InferenceContext* c) { return SequenceGradShapes(c, Cell::kGru); });

REGISTER_OP("BlockSparse>LstmGrad")
    .Input("doutput: float")
    .Input("dh: float")
    .Input("dc: float")
    .Input("gates: float")
    .Input("cells: float")
    .Input("c0: float")
    .RECURRENT_MATRIX
    .Input("mask: num_masks * bool")
    .Output("dprojected: float")  // [batch, time, 4 * units]
    .Output("dh0: float")
    .Output("dc0: float")
    .SEQUENCE_GRAD_ATTRS
    .Attr(kRecurrentActivationAttr)
    .SetShapeFn([](InferenceContext* c) { return SequenceGradShapes(c, Cell::kLstm); });

template <Cell CELL>
class SequenceGradOp : public SequenceBackward<CELL, BlockIndex> {
 public:
  explicit SequenceGradOp(OpKernelConstruction* construction)
      : SequenceBackward<CELL, BlockIndex>(construction, BuildOf(Order::kColumn, false)) {}

 protected:
  absl::Status Run(OpKernelContext* context, const Sequence& sequence, const SequenceIndices<BlockIndex>&,
                   const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs) override {
    const SequenceGradPlan plan = PlanSequenceGrad(sequence, NumThreads(context));
    Tensor holder;
    float* workspace;
    TF_RETURN_IF_ERROR(AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunSequenceGrad(plan, inputs, outputs, workspace, IntraOpTeam(context));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>RnnGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kRnn>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>GruGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kGru>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>LstmGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kLstm>);

}  // namespace
}  // namespace blocksparse
