// A recurrent layer over a whole sequence, on any device: the inputs, their checks and the outputs.
#ifndef TF_BLOCKSPARSE_OPS_SEQUENCE_FORWARD_H_
#define TF_BLOCKSPARSE_OPS_SEQUENCE_FORWARD_H_

#include <memory>

#include "absl/strings/str_cat.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_op.h"

namespace blocksparse {

template <typename Index>
struct SequenceIndices {
  std::shared_ptr<const Index> kernel;
  std::shared_ptr<const Index> recurrent;
  std::shared_ptr<const Index> candidate;
};

// `Index` is what a device's kernels read of a matrix, which `build` makes.
template <Cell CELL, typename Index>
class SequenceForward : public tensorflow::OpKernel {
 public:
  SequenceForward(tensorflow::OpKernelConstruction* construction, const typename IndexCache<Index>::Build& build)
      : OpKernel(construction), kernel_(build), recurrent_(build), candidate_(build) {
    OP_REQUIRES_OK(construction, ReadSequence(construction, CELL, &sequence_));
    OP_REQUIRES_OK(construction, construction->GetAttr("save", &save_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    OP_REQUIRES_OK(context, Begin(context));
    Sequence sequence = sequence_;
    SequenceInputs inputs = {};
    SequenceIndices<Index> indices;
    SequenceCall call(context);
    ReadInputs(&call, &sequence, &inputs, &indices);
    OP_REQUIRES_OK(context, call.status());
    SequenceOutputs outputs = {};
    OP_REQUIRES_OK(context, AllocateOutputs(context, sequence, &outputs));
    if (sequence.batch == 0) return;
    OP_REQUIRES_OK(context, Run(context, sequence, indices, inputs, outputs));
  }

 protected:
  // Before the matrices are looked for.
  virtual absl::Status Begin(tensorflow::OpKernelContext*) { return absl::OkStatus(); }
  // There are examples.
  virtual absl::Status Run(tensorflow::OpKernelContext* context, const Sequence& sequence,
                           const SequenceIndices<Index>& indices, const SequenceInputs& inputs,
                           const SequenceOutputs& outputs) = 0;

 private:
  void ReadInputs(SequenceCall* call, Sequence* sequence, SequenceInputs* inputs,
                  SequenceIndices<Index>* indices) {
    const tensorflow::Tensor* x =
        call->Input("x", {-1, -1, -1}, sequence->time_major ? "[time, batch, in]" : "[batch, time, in]");
    const tensorflow::Tensor* h = call->Input("h0", {-1, -1}, "[batch, units]");
    if (!call->ok()) return;
    sequence->batch = x->dim_size(sequence->time_major ? 1 : 0);
    sequence->time = x->dim_size(sequence->time_major ? 0 : 1);
    const int64_t units = h->dim_size(1);
    h = call->Input("h0", {sequence->batch, units}, "[batch, units]");
    if (CELL == Cell::kLstm) inputs->c = Floats(call->Input("c0", {sequence->batch, units}, "[batch, units]"));
    const int64_t gates = GatesOf(CELL);
    if (units > INT32_MAX / gates) {
      return call->Require(
          absl::InvalidArgumentError(absl::StrCat("h0 has ", units, " units, more than a matrix can have columns")));
    }
    const tensorflow::Tensor* candidate = nullptr;
    if (CELL == Cell::kGru) {
      candidate = call->Matrix("candidate", true, units, units, 1, &candidate_, &indices->candidate);
    }
    const int64_t recurrent_gates = candidate == nullptr ? gates : 2;
    inputs->x = Floats(x);
    inputs->h = Floats(h);
    inputs->candidate = {Floats(candidate), nullptr};
    inputs->kernel.blocks =
        Floats(call->Matrix("kernel", false, x->dim_size(2), gates * units, gates, &kernel_, &indices->kernel));
    inputs->recurrent.blocks = Floats(call->Matrix("recurrent", false, units, recurrent_gates * units, recurrent_gates,
                                                   &recurrent_, &indices->recurrent));
    ReadBias(call, *sequence, units, candidate != nullptr, inputs);
    inputs->mask = ReadMask(call, *sequence);
    sequence->kernel = ShapeOf(indices->kernel.get());
    sequence->recurrent = ShapeOf(indices->recurrent.get());
    sequence->candidate = ShapeOf(indices->candidate.get());
    if (call->ok()) call->Require(InvalidIf(CheckSequence(*sequence)));
  }

  absl::Status AllocateOutputs(tensorflow::OpKernelContext* context, const Sequence& sequence,
                               SequenceOutputs* outputs) const {
    const tensorflow::TensorShape state({sequence.batch, sequence.units()});
    int index = 0;
    const auto saved = [&](int64_t features, float** data) {
      const tensorflow::TensorShape shape = save_ ? TimeShape(sequence, features) : tensorflow::TensorShape({0});
      TF_RETURN_IF_ERROR(AllocateNext(context, shape, &index, data));
      if (!save_) *data = nullptr;
      return absl::OkStatus();
    };
    const tensorflow::TensorShape output = sequence.return_sequences ? TimeShape(sequence, sequence.units()) : state;
    TF_RETURN_IF_ERROR(AllocateNext(context, output, &index, &outputs->output));
    TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->h));
    if (CELL == Cell::kLstm) TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->c));
    TF_RETURN_IF_ERROR(saved(sequence.saved_gates() * sequence.units(), &outputs->gates));
    TF_RETURN_IF_ERROR(saved(sequence.units(), &outputs->states));
    if (CELL == Cell::kLstm) TF_RETURN_IF_ERROR(saved(sequence.units(), &outputs->cells));
    return absl::OkStatus();
  }

  Sequence sequence_;
  bool save_;
  IndexCache<Index> kernel_;
  IndexCache<Index> recurrent_;
  IndexCache<Index> candidate_;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_SEQUENCE_FORWARD_H_
