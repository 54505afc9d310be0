// Recurrent layers over a sequence, and back through time, against plain loops: every instruction set, several threads,
// all ways to lay out time, masks, ragged matrices.
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/products.h"
#include "tests/cc/sample.h"
#include "tests/cc/sequence_problem.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

// Exactly as many threads as asked for.
RunTeam Threads(int64_t size) {
  return [size](int64_t, const TeamTask& task) {
    Barrier barrier(size);
    std::vector<std::thread> threads;
    for (int64_t member = 1; member < size; ++member) {
      threads.emplace_back([&, member] { task(member, size, &barrier); });
    }
    task(0, size, &barrier);
    for (std::thread& thread : threads) thread.join();
  };
}

std::unique_ptr<SequenceArrays> Forward(SequenceProblem& p, const Sequence& s, int64_t threads, bool save, bool aligned) {
  auto out = std::make_unique<SequenceArrays>(s, aligned);
  const std::vector<float> x = p.Arrange(p.x);
  const std::vector<char> mask = p.Arrange(p.mask);
  const bool both = p.bias.size() > static_cast<size_t>(s.gates() * s.units());
  Buffer given_x(x, aligned);
  const bool lstm = s.cell == Cell::kLstm;
  const SequenceInputs inputs = {given_x.data(), p.h.data(), lstm ? p.cell.data() : nullptr, {p.kernel().blocks.data(), nullptr},
                                 {p.recurrent().blocks.data(), nullptr},
                                 {s.candidate ? p.candidate().blocks.data() : nullptr, nullptr},
                                 p.bias.empty() ? nullptr : p.bias.data(),
                                 both ? p.bias.data() + s.gates() * s.units() : nullptr, Mask(mask)};
  const SequenceOutputs outputs = {out->output.data(), out->h.data(), lstm ? out->c.data() : nullptr,
                                   save ? out->gates.data() : nullptr, save ? out->states.data() : nullptr,
                                   save && lstm ? out->cells.data() : nullptr};
  const SequencePlan plan = PlanSequence(s, threads);
  SequencePlan forced = plan;  // as many members as asked for, however little there is to do
  forced.members = threads;
  forced.workspace_floats += (threads - plan.members) * plan.member_floats;
  Buffer workspace(forced.workspace_floats, aligned);
  RunSequence(forced, inputs, outputs, workspace.data(), Threads(threads));
  return out;
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

struct Grads {
  std::vector<float> dprojected, drecurrent, dh, dc;
};

Grads Backward(SequenceProblem& p, const Sequence& s, const SequenceArrays& forward, const std::vector<float>& doutput,
               const std::vector<float>& dh, const std::vector<float>& dc, int64_t threads) {
  const bool lstm = s.cell == Cell::kLstm;
  const std::vector<char> mask = p.Arrange(p.mask);
  const std::vector<float> gates = forward.gates.values();
  const std::vector<float> states = forward.states.values();
  const std::vector<float> cells = forward.cells.values();
  const std::vector<float> given = s.return_sequences ? p.Arrange(doutput) : doutput;
  const int64_t sums = forward.steps * s.gates() * s.units();
  Buffer dprojected(sums, true), drecurrent(sums, true), dh0(s.batch * s.units(), true), dc0(s.batch * s.units(), true);
  const SequenceGradInputs inputs = {given.data(), dh.data(), lstm ? dc.data() : nullptr, gates.data(), states.data(),
                                     lstm ? cells.data() : nullptr, lstm ? p.cell.data() : nullptr,
                                     p.recurrent().blocks.data(),
                                     s.candidate ? p.candidate().blocks.data() : nullptr, Mask(mask)};
  const SequenceGradOutputs outputs = {dprojected.data(), drecurrent.data(), dh0.data(), dc0.data()};
  SequenceGradPlan plan = PlanSequenceGrad(s, threads);
  plan.workspace_floats += (threads - plan.members) * plan.member_floats;
  plan.members = threads;
  Buffer workspace(plan.workspace_floats, true);
  RunSequenceGrad(plan, inputs, outputs, workspace.data(), Threads(threads));
  return {p.Arrange(dprojected.values(), true), p.Arrange(drecurrent.values(), true), dh0.values(), dc0.values()};
}

// The gradient's product with a random direction is the slope of the reference in that direction.
void CheckBackward(const std::string& what, SequenceProblem& p, const Sequence& forward_sequence, const Sequence& s,
                   const SequenceArrays& forward, int64_t threads) {
  const int64_t states = s.batch * s.units();
  const std::vector<float> doutput = RandomFloats(s.return_sequences ? forward.steps * s.units() : states, 11);
  const std::vector<float> dh = RandomFloats(states, 12);
  const std::vector<float> dc = RandomFloats(states, 13);
  const Grads grads = Backward(p, s, forward, doutput, dh, dc, threads);
  if (threads > 1) {
    const Grads alone = Backward(p, s, forward, doutput, dh, dc, 1);
    CHECK_TRUE(alone.dprojected == grads.dprojected && alone.dh == grads.dh, what + " as with one thread");
  }
  const SequenceValues values = p.Values();
  const bool two = s.cell == Cell::kGru && s.candidate == nullptr;
  const std::vector<float> along = RandomFloats(values.projected.size(), 14);
  const std::vector<float> along_recurrent = RandomFloats(values.projected.size(), 15);
  const std::vector<float> along_h = RandomFloats(states, 16);
  const std::vector<float> along_c = RandomFloats(states, 17);
  const auto loss = [&](double by) {
    SequenceValues v = values;
    const int64_t out = s.gates() * s.units();
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t step = 0; step < s.time; ++step) {
        for (int64_t o = 0; o < out; ++o) {
          const int64_t at = (b * s.time + step) * out + o;
          v.projected[(b * s.time + s.Source(step)) * out + o] += by * along[at];
          if (two) v.addend[at] += by * along_recurrent[at];
        }
      }
    }
    for (int64_t i = 0; i < states; ++i) v.h[i] += by * along_h[i];
    for (size_t i = 0; i < v.c.size(); ++i) v.c[i] += by * along_c[i];
    const SequenceResults r = ReferenceSequence(forward_sequence, v);
    double sum = 0;
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t step = s.return_sequences ? 0 : s.time - 1; step < s.time; ++step) {
        for (int64_t u = 0; u < s.units(); ++u) {
          const int64_t at = s.return_sequences ? (b * s.time + step) * s.units() + u : b * s.units() + u;
          sum += r.output[(b * s.time + step) * s.units() + u] * doutput[at];
        }
      }
    }
    for (int64_t i = 0; i < states; ++i) sum += r.h[i] * dh[i];
    for (size_t i = 0; i < r.c.size(); ++i) sum += r.c[i] * dc[i];
    return sum;
  };
  const double step = 1e-5;
  const double expected = (loss(step) - loss(-step)) / (2 * step);
  double got = Dot(grads.dprojected, along) + Dot(grads.dh, along_h);
  if (two) got += Dot(grads.drecurrent, along_recurrent);
  if (s.cell == Cell::kLstm) got += Dot(grads.dc, along_c);
  const double size = std::sqrt(Dot(grads.dprojected, grads.dprojected) + Dot(grads.dh, grads.dh)) + 1;
  CHECK_TRUE(std::fabs(got - expected) < 1e-4 * size,
             what + " gradient: " + std::to_string(got) + ", expected " + std::to_string(expected));
}

void Check(const SequenceCase& c) {
  SequenceProblem problem(c);
  for (const KernelTable* table : SupportedTables()) {
    for (const int64_t threads : {1, 2, 3}) {
      const std::string what = c.name + " " + table->isa + " threads " + std::to_string(threads);
      const Sequence s = problem.Make(*table, true);
      const std::unique_ptr<SequenceArrays> out = Forward(problem, s, threads, true, threads != 2);
      CheckForward(what, problem, s, *out, true);
      const std::unique_ptr<SequenceArrays> unsaved = Forward(problem, s, threads, false, true);
      CHECK_TRUE(unsaved->output.values() == out->output.values(), what + " is the same when nothing is saved");
      SequenceProblem back(c);
      CheckBackward(what, problem, s, back.Make(*table, false), *out, threads);
    }
  }
}

void AllCells() {
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{4, 4}, {16, 16}, {8, 8}, {12, 2}, {1, 16}, {5, 3}, {32, 32}};
  const std::vector<int64_t> batches = {1, 2, 5, 9, 16, 20, 33, 70};
  Sample sample("sequence");
  uint32_t n = 0;
  for (const CellCase cell : {CellCase::kRnn, CellCase::kGru, CellCase::kGruReset, CellCase::kLstm}) {
    for (const auto& [height, width] : shapes) {
      for (const int64_t batch : batches) {
        ++n;
        if (!sample.Takes()) continue;
        SequenceCase c = {};
        c.cell = cell;
        c.batch = batch;
        c.time = 1 + n % 6;
        c.in = 5 + 7 * (n % 5);
        c.units = n % 3 == 0 ? 48 : 3 + 11 * (n % 6);
        c.height = height;
        c.width = width;
        c.density = n % 7 == 0 ? 0.0 : n % 2 == 0 ? 0.3 : 1.0;
        c.time_major = n % 2 == 1;
        c.go_backwards = n % 3 == 1;
        c.return_sequences = n % 5 != 0;
        c.mask = n % 4 < 2;
        c.zero_output_for_mask = n % 8 < 2;
        c.bias = n % 3 != 2;
        c.activation = n % 11 == 0 ? Activation::kSigmoid : Activation::kTanh;
        c.name = "case " + std::to_string(n) + " cell " + std::to_string(static_cast<int>(cell)) + " blocks " +
                 std::to_string(height) + "x" + std::to_string(width) + " batch " + std::to_string(batch) + " time " +
                 std::to_string(c.time) + " in " + std::to_string(c.in) + " units " + std::to_string(c.units);
        Check(c);
      }
    }
  }
}

}  // namespace

int main() {
  AllCells();
  return Finish();
}
