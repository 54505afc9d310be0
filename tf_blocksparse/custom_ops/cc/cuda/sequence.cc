#include "tf_blocksparse/custom_ops/cc/cuda/sequence.h"

#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/cuda/sequence_support.h"

namespace blocksparse {
namespace cuda {
namespace {

// The steps of a sequence, one after the other.
class Forward {
 public:
  Forward(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
          const SequenceInputs& inputs, const SequenceOutputs& outputs, float* scratch)
      : plan_(plan), sequence_(plan.sequence), launcher_(plan.sequence, start), matrices_(matrices), inputs_(inputs),
        outputs_(outputs) {
    projected_ = scratch;
    sums_ = projected_ + plan.projected_floats;
    float* states = sums_ + plan.sum_floats;
    h_[0] = states;
    h_[1] = h_[0] + plan.state_floats;
    reset_ = h_[1] + plan.state_floats;  // with a candidate only
    update_ = reset_ + plan.state_floats;
    float* flags = states + plan.states * plan.state_floats;
    flags_ = inputs.mask == nullptr ? nullptr : reinterpret_cast<unsigned char*>(flags);
    partial_ = flags + plan.flag_floats;
  }

  std::string Run() {
    launcher_.Copy(inputs_.h, sequence_.time == 0 ? outputs_.h : h_[0]);
    if (sequence_.cell == Cell::kLstm) launcher_.Copy(inputs_.c, outputs_.c);
    if (sequence_.time == 0) {
      if (!sequence_.return_sequences) launcher_.Copy(nullptr, outputs_.output);
      return launcher_.error();
    }
    if (flags_ != nullptr) launcher_.Flags(inputs_.mask, flags_);
    Multiply(plan_.kernel, matrices_.kernel, inputs_.x, projected_);
    for (int64_t step = 0; step < sequence_.time && launcher_.error().empty(); ++step) Step(step);
    return launcher_.error();
  }

 private:
  void Multiply(const ProductPlan& plan, const DeviceMatrix& matrix, const float* x, float* y) {
    launcher_.Multiply(plan, matrix, x, y, partial_);
  }

  void Step(int64_t step) {
    const bool last = step + 1 == sequence_.time;
    CellArgs args = Args(step);
    args.h = h_[step % 2];
    args.new_h = last ? outputs_.h : h_[(step + 1) % 2];
    Multiply(plan_.recurrent, matrices_.recurrent, args.h, sums_);
    if (sequence_.candidate == nullptr) {
      args.part = sequence_.cell == Cell::kRnn ? kRnnPart : sequence_.cell == Cell::kLstm ? kLstmPart : kGruPart;
      return launcher_.Cell(args);
    }
    CellArgs first = args;
    first.part = kGruResetPart;
    first.new_h = reset_;
    launcher_.Cell(first);
    Multiply(plan_.candidate, matrices_.candidate, reset_, sums_);
    args.part = kGruOutputPart;
    launcher_.Cell(args);
  }

  CellArgs Args(int64_t step) const {
    const int64_t units = sequence_.units();
    const int64_t gates = sequence_.gates() * units;
    const int64_t saved = sequence_.saved_gates() * units;
    const int64_t row = sequence_.Row(0, step);  // of the first example; the others follow
    const int64_t stride = sequence_.ExampleStride();
    CellArgs args = {};
    args.projected = projected_ + sequence_.Row(0, sequence_.Source(step)) * gates;
    args.projected_stride = stride * gates;
    args.recurrent = sums_;
    args.bias = inputs_.bias;
    args.recurrent_bias = inputs_.recurrent_bias;
    args.c = outputs_.c;
    args.update = update_;
    args.flags = flags_ == nullptr ? nullptr : flags_ + step * sequence_.batch;
    if (sequence_.return_sequences) {
      args.output = outputs_.output + row * units;
      args.output_stride = stride * units;
    } else if (step + 1 == sequence_.time) {
      args.output = outputs_.output;
      args.output_stride = units;
    }
    args.gates = outputs_.gates == nullptr ? nullptr : outputs_.gates + row * saved;
    args.gates_stride = stride * saved;
    args.states = outputs_.states == nullptr ? nullptr : outputs_.states + row * units;
    args.cells = outputs_.cells == nullptr ? nullptr : outputs_.cells + row * units;
    args.states_stride = stride * units;
    return args;
  }

  const DeviceSequencePlan& plan_;
  const Sequence& sequence_;
  SequenceLauncher launcher_;
  const DeviceMatrices& matrices_;
  const SequenceInputs& inputs_;
  const SequenceOutputs& outputs_;
  float* projected_;
  float* sums_;
  float* h_[2];
  float* reset_;
  float* update_;
  unsigned char* flags_;
  float* partial_;
};

}  // namespace

std::string PlanDeviceSequence(const Sequence& sequence, const DeviceMatrices& matrices, bool masked,
                               const Device& device, const KernelChoice& choice, DeviceSequencePlan* plan) {
  plan->sequence = sequence;
  const int64_t units = sequence.units();
  const bool candidate = sequence.candidate != nullptr;
  plan->projected_floats = RoundUp(sequence.batch * sequence.time * sequence.gates() * units, kScratchFloats);
  plan->sum_floats = RoundUp(sequence.batch * units * (candidate ? 2 : sequence.gates()), kScratchFloats);
  plan->state_floats = RoundUp(sequence.batch * units, kScratchFloats);
  plan->states = candidate ? 4 : 2;
  plan->flag_floats = masked ? RoundUp(sequence.batch * sequence.time, 4 * kScratchFloats) / 4 : 0;
  SequencePlanner planner(device, choice);
  if (sequence.time > 0) planner.Plan(matrices.kernel, false, sequence.batch * sequence.time, &plan->kernel);
  planner.Plan(matrices.recurrent, false, sequence.batch, &plan->recurrent);
  if (candidate) planner.Plan(matrices.candidate, false, sequence.batch, &plan->candidate);
  plan->partial_floats = planner.partial_floats();
  return planner.error();
}

std::string RunDeviceSequence(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
                              const SequenceInputs& inputs, const SequenceOutputs& outputs, float* scratch) {
  return Forward(plan, start, matrices, inputs, outputs, scratch).Run();
}

}  // namespace cuda
}  // namespace blocksparse
