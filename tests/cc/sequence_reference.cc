#include "tests/cc/sequence_reference.h"

#include <cmath>

namespace blocksparse_test {
namespace {

using blocksparse::Activation;
using blocksparse::Cell;
using blocksparse::Sequence;

double Act(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu: return x > 0 ? x : 0.0;
    case Activation::kTanh: return std::tanh(x);
    case Activation::kSigmoid: return 1 / (1 + std::exp(-x));
    case Activation::kLinear: break;
  }
  return x;
}

// sum[o] += sum over i of x[i] w[i, o].
void AddProduct(const double* x, const std::vector<double>& w, int64_t in, int64_t out, double* sum) {
  for (int64_t i = 0; i < in; ++i) {
    for (int64_t o = 0; o < out; ++o) sum[o] += x[i] * w[i * out + o];
  }
}

struct StepState {
  std::vector<double> h;
  std::vector<double> c;
  std::vector<double> gates;
};

// One example's step; `x` is its projected input, `add` what is added to the recurrent product.
StepState Step(const Sequence& s, const SequenceValues& v, const double* x, const double* add, const StepState& before) {
  const int64_t units = s.units();
  const bool resets_first = !v.candidate.empty();
  const int64_t recurrent_gates = resets_first ? 2 : s.gates();
  std::vector<double> r(add, add + s.gates() * units);
  AddProduct(before.h.data(), v.recurrent, units, recurrent_gates * units, r.data());
  StepState after = before;
  after.gates.assign(s.saved_gates() * units, 0);
  double* gates = after.gates.data();
  const auto rec = [&](int64_t gate, int64_t u) {
    return gates[gate * units + u] = Act(s.recurrent_activation, x[gate * units + u] + r[gate * units + u]);
  };
  if (resets_first) {
    std::vector<double> reset(units);
    for (int64_t u = 0; u < units; ++u) reset[u] = rec(1, u) * before.h[u];
    AddProduct(reset.data(), v.candidate, units, units, r.data() + 2 * units);
  }
  for (int64_t u = 0; u < units; ++u) {
    if (s.cell == Cell::kRnn) {
      after.h[u] = gates[u] = Act(s.activation, x[u] + r[u]);
    } else if (s.cell == Cell::kLstm) {
      const double candidate = gates[2 * units + u] = Act(s.activation, x[2 * units + u] + r[2 * units + u]);
      after.c[u] = rec(1, u) * before.c[u] + rec(0, u) * candidate;
      after.h[u] = rec(3, u) * Act(s.activation, after.c[u]);
    } else {
      const double update = rec(0, u);
      const double part = r[2 * units + u] * (resets_first ? 1.0 : rec(1, u));
      const double candidate = gates[2 * units + u] = Act(s.activation, x[2 * units + u] + part);
      if (!resets_first) gates[3 * units + u] = r[2 * units + u];
      after.h[u] = update * before.h[u] + (1 - update) * candidate;
    }
  }
  return after;
}

}  // namespace

SequenceResults ReferenceSequence(const Sequence& s, const SequenceValues& v) {
  const int64_t units = s.units();
  const int64_t out = s.gates() * units;
  SequenceResults results;
  const auto append = [](std::vector<double>* to, const std::vector<double>& values) {
    to->insert(to->end(), values.begin(), values.end());
  };
  for (int64_t b = 0; b < s.batch; ++b) {
    StepState state;
    state.h.assign(v.h.begin() + b * units, v.h.begin() + (b + 1) * units);
    if (!v.c.empty()) state.c.assign(v.c.begin() + b * units, v.c.begin() + (b + 1) * units);
    bool seen = false;
    for (int64_t step = 0; step < s.time; ++step) {
      const int64_t row = b * s.time + s.Source(step);
      const bool keep = v.mask.empty() || v.mask[row];
      StepState after = Step(s, v, v.projected.data() + row * out, v.addend.data() + (b * s.time + step) * out, state);
      append(&results.gates, after.gates);
      append(&results.states, state.h);
      if (keep) state = after;
      append(&results.cells, state.c);
      seen = seen || keep;
      const bool show = keep || (seen && !s.zero_output_for_mask);
      append(&results.output, show ? state.h : std::vector<double>(units, 0.0));
    }
    append(&results.h, state.h);
    append(&results.c, state.c);
  }
  return results;
}

}  // namespace blocksparse_test
