// BlockSparse>Rnn, BlockSparse>Gru, BlockSparse>Lstm: a recurrent layer over a whole sequence.
//
// Every input may come from a stranger's SavedModel: all of it is checked before the kernels see it.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_forward.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// output, h, (c,) gates, states, (cells): what is not saved is empty.
absl::Status SequenceShapes(InferenceContext* c, Cell cell) {
  ShapeHandle x;
  ShapeHandle h;
  bool time_major;
  bool return_sequences;
  bool save;
  TF_RETURN_IF_ERROR(c->GetAttr("time_major", &time_major));
  TF_RETURN_IF_ERROR(c->GetAttr("return_sequences", &return_sequences));
  TF_RETURN_IF_ERROR(c->GetAttr("save", &save));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 3, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &h));
  const bool lstm = cell == Cell::kLstm;
  if (lstm) TF_RETURN_IF_ERROR(c->Merge(c->input(2), h, &h));
  DimensionHandle batch;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, time_major ? 1 : 0), c->Dim(h, 0), &batch));
  const DimensionHandle time = c->Dim(x, time_major ? 0 : 1);
  const DimensionHandle units = c->Dim(h, 1);
  const auto with_features = [&](DimensionHandle features) {
    return time_major ? c->MakeShape({time, batch, features}) : c->MakeShape({batch, time, features});
  };
  const int64_t gates = GatesOf(cell);
  int64_t candidates = 0;
  if (cell == Cell::kGru) TF_RETURN_IF_ERROR(c->GetAttr("num_candidates", &candidates));
  DimensionHandle out;
  DimensionHandle recurrent_out;
  DimensionHandle saved;
  TF_RETURN_IF_ERROR(c->Multiply(units, gates, &out));
  TF_RETURN_IF_ERROR(c->Multiply(units, candidates > 0 ? 2 : gates, &recurrent_out));
  TF_RETURN_IF_ERROR(c->Multiply(units, cell == Cell::kGru && candidates == 0 ? 4 : gates, &saved));
  const int first = lstm ? 3 : 2;
  TF_RETURN_IF_ERROR(MatrixShapes(c, first, c->Dim(x, 2), out, gates, false));
  TF_RETURN_IF_ERROR(MatrixShapes(c, first + 3, units, recurrent_out, candidates > 0 ? 2 : gates, false));
  if (candidates == 1) TF_RETURN_IF_ERROR(MatrixShapes(c, first + 6, units, units, 1, false));
  int output = 0;
  c->set_output(output++, return_sequences ? with_features(units) : c->Matrix(batch, units));
  c->set_output(output++, c->Matrix(batch, units));
  if (lstm) c->set_output(output++, c->Matrix(batch, units));
  c->set_output(output++, save ? with_features(saved) : c->Vector(0));
  c->set_output(output++, save ? with_features(units) : c->Vector(0));
  if (lstm) c->set_output(output++, save ? with_features(units) : c->Vector(0));
  return absl::OkStatus();
}

// Matrices by column, gates side by side in Keras's order; arrays with time are [batch, time, ...] or, time_major, [time,
// batch, ...], and after go_backwards in the order of the steps.
#define SEQUENCE_MATRICES \
  Input("kernel_blocks: float") \
      .Input("kernel_indices: int32") \
      .Input("kernel_indptr: int32") \
      .Input("recurrent_blocks: float") \
      .Input("recurrent_indices: int32") \
      .Input("recurrent_indptr: int32")
#define SEQUENCE_ATTRS \
  Attr("num_biases: int >= 0 = 0") \
      .Attr("num_masks: int >= 0 = 0") \
      .Attr(kActivationAttr) \
      .Attr("time_major: bool = false") \
      .Attr("go_backwards: bool = false") \
      .Attr("return_sequences: bool = true") \
      .Attr("zero_output_for_mask: bool = false") \
      .Attr("save: bool = false")

REGISTER_OP("BlockSparse>Rnn")
    .Input("x: float")   // [batch, time, in]
    .Input("h0: float")  // [batch, units]
    .SEQUENCE_MATRICES
    .Input("bias: num_biases * float")  // [units]
    .Input("mask: num_masks * bool")    // [batch, time]
    .Output("output: float")            // [batch, time, units], or the last one
    .Output("h: float")                 // [batch, units], after the last step
    .Output("gates: float")             // [batch, time, units]: the state after each step
    .Output("states: float")            // [batch, time, units]: the state before each step
    .SEQUENCE_ATTRS
    .SetShapeFn([](InferenceContext* c) { return SequenceShapes(c, Cell::kRnn); });

REGISTER_OP("BlockSparse>Gru")
    .Input("x: float")
    .Input("h0: float")
    .SEQUENCE_MATRICES
    .Input("candidate_blocks: num_candidates * float")  // if there is one, the reset gate acts before its product
    .Input("candidate_indices: num_candidates * int32")
    .Input("candidate_indptr: num_candidates * int32")
    .Input("bias: num_biases * float")  // [2, 3 * units], of x and of h; [3 * units] beside a candidate
    .Input("mask: num_masks * bool")
    .Output("output: float")
    .Output("h: float")
    .Output("gates: float")  // update, reset, candidate, and without candidate matrix its part of h
    .Output("states: float")
    .SEQUENCE_ATTRS
    .Attr("num_candidates: int >= 0 = 0")
    .Attr(kRecurrentActivationAttr)
    .SetShapeFn([](InferenceContext* c) { return SequenceShapes(c, Cell::kGru); });

REGISTER_OP("BlockSparse>Lstm")
    .Input("x: float")
    .Input("h0: float")
    .Input("c0: float")
    .SEQUENCE_MATRICES
    .Input("bias: num_biases * float")  // [4 * units]
    .Input("mask: num_masks * bool")
    .Output("output: float")
    .Output("h: float")
    .Output("c: float")
    .Output("gates: float")  // input, forget, candidate, output
    .Output("states: float")
    .Output("cells: float")  // c after each step
    .SEQUENCE_ATTRS
    .Attr(kRecurrentActivationAttr)
    .SetShapeFn([](InferenceContext* c) { return SequenceShapes(c, Cell::kLstm); });

template <Cell CELL>
class SequenceOp : public SequenceForward<CELL, BlockIndex> {
 public:
  explicit SequenceOp(OpKernelConstruction* construction)
      : SequenceForward<CELL, BlockIndex>(construction, BuildOf(Order::kColumn, true)) {}

 protected:
  absl::Status Run(OpKernelContext* context, const Sequence& sequence, const SequenceIndices<BlockIndex>&,
                   const SequenceInputs& inputs, const SequenceOutputs& outputs) override {
    const SequencePlan plan = PlanSequence(sequence, NumThreads(context));
    Tensor holder;
    float* workspace;
    TF_RETURN_IF_ERROR(AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunSequence(plan, inputs, outputs, workspace, IntraOpTeam(context));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>Rnn").Device(tensorflow::DEVICE_CPU), SequenceOp<Cell::kRnn>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>Gru").Device(tensorflow::DEVICE_CPU), SequenceOp<Cell::kGru>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>Lstm").Device(tensorflow::DEVICE_CPU), SequenceOp<Cell::kLstm>);

}  // namespace
}  // namespace blocksparse
