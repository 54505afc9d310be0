// Recurrent cells between two products: a thread a unit of an example. The formulas are those of kernels/cells.inc.
#ifndef TF_BLOCKSPARSE_CUDA_CELLS_CUH_
#define TF_BLOCKSPARSE_CUDA_CELLS_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/epilogue.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/sequence_arguments.h"

namespace blocksparse {
namespace cuda {

// A thread an example: an example shows what it last had, nothing before its first step.
struct MaskFlags {
  static constexpr int kThreads = 128;

  static DEVICE void Run(const MaskArgs& args) {
    const int example = blockIdx.x * kThreads + threadIdx.x;
    if (example >= args.batch) return;
    bool shows = false;
    for (int step = 0; step < args.time; ++step) {
      const int source = args.go_backwards ? args.time - 1 - step : step;
      const bool keeps = args.mask[example * args.example_stride + source * args.step_stride] != 0;
      shows = keeps || (shows && !args.zero_output_for_mask);
      args.flags[static_cast<size_t>(step) * args.batch + example] = (keeps ? kKeeps : 0) | (shows ? kShows : 0);
    }
  }
};

struct Add {
  static constexpr int kThreads = 256;

  static DEVICE void Run(const AddArgs& args) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= args.count) return;
    args.to[i] = (args.from == nullptr ? 0.0f : args.from[i]) + (args.added == nullptr ? 0.0f : args.added[i]);
  }
};

struct CellStep {
  static constexpr int kThreads = 256;

  const CellArgs& args;
  int example;
  int unit;
  unsigned char flags;

  DEVICE float Projected(int gate) const {
    float z = args.projected[example * args.projected_stride + static_cast<size_t>(gate) * args.units + unit];
    if (args.bias != nullptr) z += args.bias[static_cast<size_t>(gate) * args.units + unit];
    if (args.recurrent_bias != nullptr && gate < 2) {
      z += args.recurrent_bias[static_cast<size_t>(gate) * args.units + unit];
    }
    return z;
  }
  DEVICE float Recurrent(int gate, int gates) const {
    return args.recurrent[(static_cast<size_t>(example) * gates + gate) * args.units + unit];
  }
  DEVICE float Gate(int gate, int gates) const {
    return Activate(Projected(gate) + Recurrent(gate, gates), args.recurrent_activation);
  }
  DEVICE void Save(int gate, float value) const {
    if (args.gates == nullptr) return;
    args.gates[example * args.gates_stride + static_cast<size_t>(gate) * args.units + unit] = value;
  }
  DEVICE size_t At() const { return static_cast<size_t>(example) * args.units + unit; }

  // The state after the step, and what is seen of it.
  DEVICE void SetState(float after) const {
    const float before = args.h[At()];
    const float h = flags & kKeeps ? after : before;
    args.new_h[At()] = h;
    if (args.output != nullptr) args.output[example * args.output_stride + unit] = flags & kShows ? h : 0.0f;
  }

  DEVICE void Rnn() const {
    const float h = Activate(Projected(0) + Recurrent(0, 1), args.activation);
    Save(0, h);
    SetState(h);
  }

  DEVICE void Lstm() const {
    const float input = Gate(0, 4);
    const float forget = Gate(1, 4);
    const float candidate = Activate(Projected(2) + Recurrent(2, 4), args.activation);
    const float output = Gate(3, 4);
    const float before = args.c[At()];
    const float c = forget * before + input * candidate;
    Save(0, input);
    Save(1, forget);
    Save(2, candidate);
    Save(3, output);
    const float kept = flags & kKeeps ? c : before;
    args.c[At()] = kept;
    if (args.cells != nullptr) args.cells[example * args.states_stride + unit] = kept;
    SetState(output * Activate(c, args.activation));
  }

  DEVICE void Gru() const {
    const float update = Gate(0, 3);
    const float reset = Gate(1, 3);
    float recurrent = Recurrent(2, 3);
    if (args.recurrent_bias != nullptr) recurrent += args.recurrent_bias[2 * static_cast<size_t>(args.units) + unit];
    const float candidate = Activate(Projected(2) + reset * recurrent, args.activation);
    Save(0, update);
    Save(1, reset);
    Save(2, candidate);
    Save(3, recurrent);
    SetState(update * args.h[At()] + (1.0f - update) * candidate);
  }

  DEVICE void GruReset() const {
    const float update = Gate(0, 2);
    const float reset = Gate(1, 2);
    Save(0, update);
    Save(1, reset);
    args.update[At()] = update;
    args.new_h[At()] = reset * args.h[At()];
  }

  DEVICE void GruOutput() const {
    const float candidate = Activate(Projected(2) + Recurrent(0, 1), args.activation);
    const float update = args.update[At()];
    Save(2, candidate);
    SetState(update * args.h[At()] + (1.0f - update) * candidate);
  }

  static DEVICE void Run(const CellArgs& args) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= static_cast<long long>(args.batch) * args.units) return;
    const int example = static_cast<int>(i / args.units);
    const unsigned char flags = args.flags == nullptr ? kKeeps | kShows : args.flags[example];
    const CellStep step = {args, example, static_cast<int>(i % args.units), flags};
    if (args.states != nullptr && args.part != kGruOutputPart) {
      args.states[example * args.states_stride + step.unit] = args.h[step.At()];
    }
    switch (args.part) {
      case kRnnPart:
        return step.Rnn();
      case kLstmPart:
        return step.Lstm();
      case kGruPart:
        return step.Gru();
      case kGruResetPart:
        return step.GruReset();
      default:
        return step.GruOutput();
    }
  }
};

// The derivative of an activation, from its result.
DEVICE float Slope(float y, int activation) {
  if (activation == 1) return y > 0.0f ? 1.0f : 0.0f;
  if (activation == 2) return 1.0f - y * y;
  if (activation == 3) return y * (1.0f - y);
  return 1.0f;
}

struct CellGrad {
  static constexpr int kThreads = 256;

  const CellGradArgs& args;
  int example;
  int unit;
  bool keeps;

  DEVICE size_t At() const { return static_cast<size_t>(example) * args.units + unit; }
  DEVICE float Gate(int gate) const {
    return args.gates[example * args.gates_stride + static_cast<size_t>(gate) * args.units + unit];
  }
  DEVICE float Before() const { return args.states[example * args.states_stride + unit]; }

  // Of a sum: 0 where the step was skipped. `recurrent` is that of its part of h U.
  DEVICE void SetSum(int gate, float value, float recurrent) const {
    const size_t feature = static_cast<size_t>(gate) * args.units + unit;
    value = keeps ? value : 0.0f;
    recurrent = keeps ? recurrent : 0.0f;
    args.dprojected[example * args.dprojected_stride + feature] = value;
    if (args.drecurrent != nullptr) args.drecurrent[example * args.dprojected_stride + feature] = recurrent;
    if (feature < static_cast<size_t>(args.sum_features)) {
      args.sums[static_cast<size_t>(example) * args.sum_features + feature] = recurrent;
    }
  }
  DEVICE void SetSum(int gate, float value) const { SetSum(gate, value, value); }
  // The gradient of a state that stays is that of the state before.
  DEVICE void SetBefore(float before, float after) const { args.dh[At()] = keeps ? before : after; }

  DEVICE void Rnn(float dh) const {
    SetSum(0, dh * Slope(Gate(0), args.activation));
    SetBefore(0.0f, dh);
  }

  DEVICE void Lstm(float dh) const {
    const float input = Gate(0);
    const float forget = Gate(1);
    const float candidate = Gate(2);
    const float output = Gate(3);
    const float after = args.dc[At()];
    const float active = Activate(args.cells[example * args.states_stride + unit], args.activation);
    const float dc = after + dh * output * Slope(active, args.activation);
    SetSum(0, dc * candidate * Slope(input, args.recurrent_activation));
    SetSum(1, dc * args.cells_before[example * args.before_stride + unit] * Slope(forget, args.recurrent_activation));
    SetSum(2, dc * input * Slope(candidate, args.activation));
    SetSum(3, dh * active * Slope(output, args.recurrent_activation));
    args.dc[At()] = keeps ? dc * forget : after;
    SetBefore(0.0f, dh);
  }

  // Of the update gate; returns that of the candidate's sum.
  DEVICE float Output(float dh) const {
    const float update = Gate(0);
    const float candidate = Gate(2);
    SetSum(0, dh * (Before() - candidate) * Slope(update, args.recurrent_activation));
    SetBefore(dh * update, dh);
    return dh * (1.0f - update) * Slope(candidate, args.activation);
  }

  DEVICE void Gru(float dh) const {
    const float dcandidate = Output(dh);
    const float reset = Gate(1);
    SetSum(1, dcandidate * Gate(3) * Slope(reset, args.recurrent_activation));
    SetSum(2, dcandidate, dcandidate * reset);
  }

  DEVICE void GruOutput(float dh) const {
    const float dcandidate = Output(dh);
    SetSum(2, dcandidate);
    args.candidate_sums[At()] = keeps ? dcandidate : 0.0f;
  }

  DEVICE void GruReset() const {
    const float reset = Gate(1);
    const float dproduct = args.product[At()];
    SetSum(1, dproduct * Before() * Slope(reset, args.recurrent_activation));
    if (keeps) args.dh[At()] += dproduct * reset;
  }

  // Of the state after the step.
  DEVICE float Given(unsigned char flags) const {
    float dh = args.dh[At()];
    if (args.product != nullptr) dh += args.product[At()];
    if (args.doutput != nullptr && flags & kShows) dh += args.doutput[example * args.doutput_stride + unit];
    return dh;
  }

  static DEVICE void Run(const CellGradArgs& args) {
    const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= static_cast<long long>(args.batch) * args.units) return;
    const int example = static_cast<int>(i / args.units);
    const unsigned char flags = args.flags == nullptr ? kKeeps | kShows : args.flags[example];
    const CellGrad step = {args, example, static_cast<int>(i % args.units), (flags & kKeeps) != 0};
    if (args.part == kGruResetPart) return step.GruReset();
    const float dh = step.Given(flags);
    switch (args.part) {
      case kRnnPart:
        return step.Rnn(dh);
      case kLstmPart:
        return step.Lstm(dh);
      case kGruPart:
        return step.Gru(dh);
      default:
        return step.GruOutput(dh);
    }
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_CELLS_CUH_
