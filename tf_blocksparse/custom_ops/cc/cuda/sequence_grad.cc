#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/cuda/sequence.h"
#include "tf_blocksparse/custom_ops/cc/cuda/sequence_support.h"

namespace blocksparse {
namespace cuda {
namespace {

// The steps of a sequence, from the last to the first.
class Backward {
 public:
  Backward(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
           const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs, float* scratch)
      : plan_(plan), sequence_(plan.sequence), launcher_(plan.sequence, start), matrices_(matrices), inputs_(inputs),
        outputs_(outputs) {
    sums_ = scratch;
    product_ = sums_ + plan.sum_floats;
    reset_ = product_ + plan.state_floats;  // with a candidate only
    candidate_ = reset_ + plan.state_floats;
    float* flags = product_ + plan.states * plan.state_floats;
    flags_ = inputs.mask == nullptr ? nullptr : reinterpret_cast<unsigned char*>(flags);
    partial_ = flags + plan.flag_floats;
  }

  std::string Run() {
    launcher_.Copy(inputs_.dh, outputs_.dh);
    if (sequence_.cell == Cell::kLstm) launcher_.Copy(inputs_.dc, outputs_.dc);
    if (sequence_.time == 0) return launcher_.error();
    if (flags_ != nullptr) launcher_.Flags(inputs_.mask, flags_);
    for (int64_t step = sequence_.time - 1; step >= 0 && launcher_.error().empty(); --step) Step(step);
    launcher_.Sum(outputs_.dh, product_, outputs_.dh);
    return launcher_.error();
  }

 private:
  void Step(int64_t step) {
    CellGradArgs args = Args(step);
    if (sequence_.candidate == nullptr) {
      args.part = sequence_.cell == Cell::kRnn ? kRnnPart : sequence_.cell == Cell::kLstm ? kLstmPart : kGruPart;
      launcher_.Grad(args);
    } else {
      args.part = kGruOutputPart;
      launcher_.Grad(args);
      launcher_.Multiply(plan_.candidate, matrices_.candidate, candidate_, reset_, partial_);
      args.part = kGruResetPart;
      args.product = reset_;
      launcher_.Grad(args);
    }
    launcher_.Multiply(plan_.recurrent, matrices_.recurrent, sums_, product_, partial_);
  }

  CellGradArgs Args(int64_t step) const {
    const int64_t units = sequence_.units();
    const int64_t gates = sequence_.gates() * units;
    const int64_t saved = sequence_.saved_gates() * units;
    const int64_t row = sequence_.Row(0, step);  // of the first example; the others follow
    const int64_t stride = sequence_.ExampleStride();
    const bool last = step + 1 == sequence_.time;
    CellGradArgs args = {};
    if (sequence_.return_sequences) {
      args.doutput = inputs_.doutput + row * units;
      args.doutput_stride = stride * units;
    } else if (last) {
      args.doutput = inputs_.doutput;
      args.doutput_stride = units;
    }
    args.gates = inputs_.gates + row * saved;
    args.gates_stride = stride * saved;
    args.states_stride = stride * units;
    if (sequence_.cell == Cell::kGru) args.states = inputs_.states + row * units;
    if (sequence_.cell == Cell::kLstm) {
      args.cells = inputs_.cells + row * units;
      args.cells_before = step == 0 ? inputs_.c : inputs_.cells + sequence_.Row(0, step - 1) * units;
      args.before_stride = step == 0 ? units : stride * units;
    }
    args.flags = flags_ == nullptr ? nullptr : flags_ + step * sequence_.batch;
    args.dh = outputs_.dh;
    args.dc = outputs_.dc;
    args.product = last ? nullptr : product_;
    args.dprojected = outputs_.dprojected + row * gates;
    if (outputs_.drecurrent != nullptr) args.drecurrent = outputs_.drecurrent + row * gates;
    args.dprojected_stride = stride * gates;
    args.sums = sums_;
    args.candidate_sums = candidate_;
    args.sum_features = static_cast<int>(sequence_.candidate == nullptr ? gates : 2 * units);
    return args;
  }

  const DeviceSequencePlan& plan_;
  const Sequence& sequence_;
  SequenceLauncher launcher_;
  const DeviceMatrices& matrices_;
  const SequenceGradInputs& inputs_;
  const SequenceGradOutputs& outputs_;
  float* sums_;
  float* product_;
  float* reset_;
  float* candidate_;
  unsigned char* flags_;
  float* partial_;
};

}  // namespace

std::string PlanDeviceSequenceGrad(const Sequence& sequence, const DeviceMatrices& matrices, bool masked,
                                   const Device& device, const KernelChoice& choice, DeviceSequencePlan* plan) {
  plan->sequence = sequence;
  const int64_t units = sequence.units();
  const bool candidate = sequence.candidate != nullptr;
  plan->sum_floats = RoundUp(sequence.batch * units * (candidate ? 2 : sequence.gates()), kScratchFloats);
  plan->state_floats = RoundUp(sequence.batch * units, kScratchFloats);
  plan->states = candidate ? 3 : 1;
  plan->flag_floats = masked ? RoundUp(sequence.batch * sequence.time, 4 * kScratchFloats) / 4 : 0;
  SequencePlanner planner(device, choice);
  planner.Plan(matrices.recurrent, true, sequence.batch, &plan->recurrent);
  if (candidate) planner.Plan(matrices.candidate, true, sequence.batch, &plan->candidate);
  plan->partial_floats = planner.partial_floats();
  return planner.error();
}

std::string RunDeviceSequenceGrad(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
                                  const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs,
                                  float* scratch) {
  return Backward(plan, start, matrices, inputs, outputs, scratch).Run();
}

}  // namespace cuda
}  // namespace blocksparse
