// BlockSparse>RnnGrad, BlockSparse>GruGrad, BlockSparse>LstmGrad: back through time, to the products' results. The
// gradients of x, the blocks and the biases are products and sums of these.
#include <memory>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_op.h"

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
class SequenceGradOp : public OpKernel {
 public:
  explicit SequenceGradOp(OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadSequence(construction, CELL, &sequence_));
  }

  void Compute(OpKernelContext* context) override {
    Sequence sequence = sequence_;
    SequenceGradInputs inputs = {};
    std::shared_ptr<const BlockIndex> recurrent;
    std::shared_ptr<const BlockIndex> candidate;
    SequenceCall call(context);
    ReadSizes(&call, &sequence);
    ReadMatrices(&call, &sequence, &inputs, &recurrent, &candidate);
    ReadArrays(&call, sequence, &inputs);
    OP_REQUIRES_OK(context, call.status());
    SequenceGradOutputs outputs = {};
    OP_REQUIRES_OK(context, AllocateOutputs(context, sequence, &outputs));
    if (sequence.batch == 0) return;  // there may be any number of time steps then
    const SequenceGradPlan plan = PlanSequenceGrad(sequence, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunSequenceGrad(plan, inputs, outputs, workspace, IntraOpTeam(context));
  }

 private:
  static void ReadSizes(SequenceCall* call, Sequence* sequence) {
    const Tensor* gates = call->Input("gates", {-1, -1, -1}, "[batch, time, gates * units]");
    if (!call->ok()) return;
    sequence->batch = gates->dim_size(sequence->time_major ? 1 : 0);
    sequence->time = gates->dim_size(sequence->time_major ? 0 : 1);
  }

  void ReadMatrices(SequenceCall* call, Sequence* sequence, SequenceGradInputs* inputs,
                    std::shared_ptr<const BlockIndex>* recurrent, std::shared_ptr<const BlockIndex>* candidate) {
    const Tensor* dh = call->Input("dh", {sequence->batch, -1}, "[batch, units]");
    if (!call->ok()) return;
    const int64_t units = dh->dim_size(1);
    const int64_t gates = GatesOf(CELL);
    if (units > INT32_MAX / gates) {
      return call->Require(
          absl::InvalidArgumentError(absl::StrCat("dh has ", units, " units, more than a matrix can have columns")));
    }
    if (CELL == Cell::kGru) {
      inputs->candidate_blocks =
          Floats(call->Matrix("candidate", true, units, units, 1, &candidate_cache_, candidate));
    }
    const int64_t recurrent_gates = *candidate == nullptr ? gates : 2;
    inputs->recurrent_blocks = Floats(
        call->Matrix("recurrent", false, units, recurrent_gates * units, recurrent_gates, &recurrent_cache_, recurrent));
    sequence->recurrent = recurrent->get();
    sequence->candidate = candidate->get();
    if (call->ok()) call->Require(InvalidIf(CheckSequence(*sequence)));
  }

  static void ReadArrays(SequenceCall* call, const Sequence& sequence, SequenceGradInputs* inputs) {
    if (!call->ok()) return;
    const int64_t units = sequence.units();
    const auto state = [&](const char* name) {
      return Floats(call->Input(name, {sequence.batch, units}, "[batch, units]"));
    };
    const auto steps = [&](const char* name, int64_t features) {
      return Floats(sequence.time_major
                        ? call->Input(name, {sequence.time, sequence.batch, features}, "[time, batch, features]")
                        : call->Input(name, {sequence.batch, sequence.time, features}, "[batch, time, features]"));
    };
    inputs->doutput = sequence.return_sequences ? steps("doutput", units) : state("doutput");
    inputs->dh = state("dh");
    inputs->gates = steps("gates", sequence.saved_gates() * units);
    if (CELL == Cell::kGru) inputs->states = steps("states", units);
    if (CELL == Cell::kLstm) {
      inputs->dc = state("dc");
      inputs->c = state("c0");
      inputs->cells = steps("cells", units);
    }
    inputs->mask = ReadMask(call, sequence);
  }

  static absl::Status AllocateOutputs(OpKernelContext* context, const Sequence& sequence,
                                      SequenceGradOutputs* outputs) {
    const TensorShape state({sequence.batch, sequence.units()});
    const TensorShape sums = TimeShape(sequence, sequence.gates() * sequence.units());
    int index = 0;
    TF_RETURN_IF_ERROR(AllocateNext(context, sums, &index, &outputs->dprojected));
    if (CELL == Cell::kGru && sequence.candidate == nullptr) {
      TF_RETURN_IF_ERROR(AllocateNext(context, sums, &index, &outputs->drecurrent));
    } else if (CELL == Cell::kGru) {
      context->set_output(index++, *context->mutable_output(0));  // without a gate in between they are the same
    }
    TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->dh));
    if (CELL == Cell::kLstm) TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->dc));
    return absl::OkStatus();
  }

  Sequence sequence_;
  BlockIndexCache recurrent_cache_{Order::kColumn, false};
  BlockIndexCache candidate_cache_{Order::kColumn, false};
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>RnnGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kRnn>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>GruGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kGru>);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>LstmGrad").Device(tensorflow::DEVICE_CPU), SequenceGradOp<Cell::kLstm>);

}  // namespace
}  // namespace blocksparse
