// A recurrent layer back through time, on any device: the inputs, their checks and the outputs.
#ifndef TF_BLOCKSPARSE_OPS_SEQUENCE_BACKWARD_H_
#define TF_BLOCKSPARSE_OPS_SEQUENCE_BACKWARD_H_

#include <memory>

#include "absl/strings/str_cat.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_forward.h"

namespace blocksparse {

// `Index` is what a device's kernels read of a matrix by its rows, which `build` makes.
template <Cell CELL, typename Index>
class SequenceBackward : public tensorflow::OpKernel {
 public:
  SequenceBackward(tensorflow::OpKernelConstruction* construction, const typename IndexCache<Index>::Build& build)
      : OpKernel(construction), recurrent_(build), candidate_(build) {
    OP_REQUIRES_OK(construction, ReadSequence(construction, CELL, &sequence_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Begin(context));
    Sequence sequence = sequence_;
    SequenceGradInputs inputs = {};
    SequenceIndices<Index> indices;
    SequenceCall call(context);
    ReadSizes(&call, &sequence);
    ReadMatrices(&call, &sequence, &inputs, &indices);
    ReadArrays(&call, sequence, &inputs);
    OP_REQUIRES_OK(context, call.status());
    SequenceGradOutputs outputs = {};
    OP_REQUIRES_OK(context, AllocateOutputs(context, sequence, &outputs));
    if (sequence.batch == 0) return;  // there may be any number of time steps then
    OP_REQUIRES_OK(context, Run(context, sequence, indices, inputs, outputs));
  }

 protected:
  // Before the matrices are looked for.
  virtual absl::Status Begin(tensorflow::OpKernelContext*) { return absl::OkStatus(); }
  // There are examples.
  virtual absl::Status Run(tensorflow::OpKernelContext* context, const Sequence& sequence,
                           const SequenceIndices<Index>& indices, const SequenceGradInputs& inputs,
                           const SequenceGradOutputs& outputs) = 0;

 private:
  static void ReadSizes(SequenceCall* call, Sequence* sequence) {
    const tensorflow::Tensor* gates = call->Input("gates", {-1, -1, -1}, "[batch, time, gates * units]");
    if (!call->ok()) return;
    sequence->batch = gates->dim_size(sequence->time_major ? 1 : 0);
    sequence->time = gates->dim_size(sequence->time_major ? 0 : 1);
  }

  void ReadMatrices(SequenceCall* call, Sequence* sequence, SequenceGradInputs* inputs,
                    SequenceIndices<Index>* indices) {
    const tensorflow::Tensor* dh = call->Input("dh", {sequence->batch, -1}, "[batch, units]");
    if (!call->ok()) return;
    const int64_t units = dh->dim_size(1);
    const int64_t gates = GatesOf(CELL);
    if (units > INT32_MAX / gates) {
      return call->Require(
          absl::InvalidArgumentError(absl::StrCat("dh has ", units, " units, more than a matrix can have columns")));
    }
    if (CELL == Cell::kGru) {
      inputs->candidate_blocks =
          Floats(call->Matrix("candidate", true, units, units, 1, &candidate_, &indices->candidate));
    }
    const int64_t recurrent_gates = indices->candidate == nullptr ? gates : 2;
    inputs->recurrent_blocks = Floats(
        call->Matrix("recurrent", false, units, recurrent_gates * units, recurrent_gates, &recurrent_,
                     &indices->recurrent));
    sequence->recurrent = ShapeOf(indices->recurrent.get());
    sequence->candidate = ShapeOf(indices->candidate.get());
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

  static absl::Status AllocateOutputs(tensorflow::OpKernelContext* context, const Sequence& sequence,
                                      SequenceGradOutputs* outputs) {
    const tensorflow::TensorShape state({sequence.batch, sequence.units()});
    const tensorflow::TensorShape sums = TimeShape(sequence, sequence.gates() * sequence.units());
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
  IndexCache<Index> recurrent_;
  IndexCache<Index> candidate_;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_SEQUENCE_BACKWARD_H_
