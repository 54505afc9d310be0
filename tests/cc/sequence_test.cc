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
#include "tests/cc/sequence_reference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

enum class CellCase { kRnn, kGru, kGruReset, kLstm };

struct SequenceCase {
  std::string name;
  CellCase cell;
  int64_t batch;
  int64_t time;
  int64_t in;
  int64_t units;
  int64_t height;
  int64_t width;
  double density;
  bool time_major;
  bool go_backwards;
  bool return_sequences;
  bool zero_output_for_mask;
  bool mask;
  bool bias;
  Activation activation;
};

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

// The matrices of a case, small enough for states that neither saturate nor explode.
class Problem {
 public:
  explicit Problem(const SequenceCase& c) : c_(c), gates_(Gates()) {
    const int64_t recurrent_gates = c.cell == CellCase::kGruReset ? 2 : gates_;
    kernel_ = Small(RandomMatrix(c.in, gates_ * c.units, gates_, c.height, c.width, c.density, 1, false, Order::kColumn));
    recurrent_ = Small(RandomMatrix(c.units, recurrent_gates * c.units, recurrent_gates, c.height, c.width, c.density, 2,
                                    false, Order::kColumn));
    if (c.cell == CellCase::kGruReset) {
      candidate_ = Small(RandomMatrix(c.units, c.units, 1, c.height, c.width, c.density, 3, false, Order::kColumn));
    }
    x = RandomFloats(c.batch * c.time * c.in, 4);
    h = RandomFloats(c.batch * c.units, 5);
    if (c.cell == CellCase::kLstm) cell = RandomFloats(c.batch * c.units, 6);
    if (c.bias) bias = RandomFloats((c.cell == CellCase::kGru ? 2 : 1) * gates_ * c.units, 7);
    if (c.mask) {
      for (float v : RandomIntegers(c.batch * c.time, 8)) mask.push_back(v > -2);
    }
  }

  Sequence Make(const KernelTable& table, bool by_column) {
    kernel_index_ = Index(kernel_, by_column);
    recurrent_index_ = Index(recurrent_, by_column);
    Sequence s = {};
    s.table = &table;
    s.cell = c_.cell == CellCase::kRnn ? Cell::kRnn : c_.cell == CellCase::kLstm ? Cell::kLstm : Cell::kGru;
    s.activation = c_.activation;
    s.recurrent_activation = Activation::kSigmoid;
    s.kernel = by_column ? &kernel_index_ : nullptr;
    s.recurrent = &recurrent_index_;
    if (c_.cell == CellCase::kGruReset) {
      candidate_index_ = Index(candidate_, by_column);
      s.candidate = &candidate_index_;
    }
    s.batch = c_.batch;
    s.time = c_.time;
    s.time_major = c_.time_major;
    s.go_backwards = c_.go_backwards;
    s.return_sequences = c_.return_sequences;
    s.zero_output_for_mask = c_.zero_output_for_mask;
    return s;
  }

  SequenceValues Values() const {
    SequenceValues v;
    const int64_t out = gates_ * c_.units;
    const std::vector<double> dense = ReferenceDense(kernel_);
    for (int64_t row = 0; row < c_.batch * c_.time; ++row) {
      for (int64_t o = 0; o < out; ++o) {
        double sum = bias.empty() ? 0 : bias[o];
        for (int64_t i = 0; i < c_.in; ++i) sum += x[row * c_.in + i] * dense[i * out + o];
        v.projected.push_back(sum);
        v.addend.push_back(bias.size() > static_cast<size_t>(out) ? bias[out + o] : 0.0);
      }
    }
    v.recurrent = ReferenceDense(recurrent_);
    if (c_.cell == CellCase::kGruReset) v.candidate = ReferenceDense(candidate_);
    v.h.assign(h.begin(), h.end());
    v.c.assign(cell.begin(), cell.end());
    v.mask = mask;
    return v;
  }

  // [batch, time, features] as the kernels want it, and back.
  template <typename T>
  std::vector<T> Arrange(const std::vector<T>& values, bool back = false) const {
    if (!c_.time_major || values.empty()) return values;
    const int64_t features = static_cast<int64_t>(values.size()) / (c_.batch * c_.time);
    std::vector<T> arranged(values.size());
    for (int64_t b = 0; b < c_.batch; ++b) {
      for (int64_t t = 0; t < c_.time; ++t) {
        const int64_t from = (b * c_.time + t) * features;
        const int64_t to = (t * c_.batch + b) * features;
        for (int64_t f = 0; f < features; ++f) {
          arranged[back ? from + f : to + f] = values[back ? to + f : from + f];
        }
      }
    }
    return arranged;
  }

  int64_t gates() const { return gates_; }
  const BsrMatrix& kernel() const { return kernel_; }
  const BsrMatrix& recurrent() const { return recurrent_; }
  const BsrMatrix& candidate() const { return candidate_; }

  std::vector<float> x;
  std::vector<float> h;
  std::vector<float> cell;
  std::vector<float> bias;
  std::vector<char> mask;

 private:
  int64_t Gates() const { return c_.cell == CellCase::kRnn ? 1 : c_.cell == CellCase::kLstm ? 4 : 3; }

  BsrMatrix Small(BsrMatrix w) const {
    const float scale = 0.7f / std::sqrt(static_cast<float>(c_.density * w.grid.rows.features + 1));
    for (float& value : w.blocks) value *= scale;
    return w;
  }

  const SequenceCase& c_;
  const int64_t gates_;
  BsrMatrix kernel_;
  BsrMatrix recurrent_;
  BsrMatrix candidate_;
  BlockIndex kernel_index_;
  BlockIndex recurrent_index_;
  BlockIndex candidate_index_;
};

const bool* Mask(const std::vector<char>& mask) {
  return mask.empty() ? nullptr : reinterpret_cast<const bool*>(mask.data());
}

// Every output exactly as large as it has to be; what is not written stays NaN.
struct Outputs {
  Outputs(const Sequence& s, bool aligned)
      : steps(s.batch * s.time), output((s.return_sequences ? steps : s.batch) * s.units(), aligned),
        h(s.batch * s.units(), aligned), c(s.batch * s.units(), aligned),
        gates(steps * s.saved_gates() * s.units(), aligned), states(steps * s.units(), aligned),
        cells(steps * s.units(), aligned) {}
  int64_t steps;
  Buffer output, h, c, gates, states, cells;
};

std::unique_ptr<Outputs> Forward(Problem& p, const Sequence& s, int64_t threads, bool save, bool aligned) {
  auto out = std::make_unique<Outputs>(s, aligned);
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

void CheckForward(const std::string& what, Problem& p, const Sequence& s, const Outputs& out, bool save) {
  const SequenceResults expected = ReferenceSequence(s, p.Values());
  const double tolerance = 3e-5;
  std::vector<double> output = expected.output;
  if (!s.return_sequences) {
    output.clear();
    for (int64_t b = 0; b < s.batch; ++b) {
      const auto last = expected.output.begin() + ((b + 1) * s.time - 1) * s.units();
      output.insert(output.end(), last, last + s.units());
    }
    Compare(what + " output", out.output.values(), output, tolerance);
  } else {
    Compare(what + " output", p.Arrange(out.output.values(), true), output, tolerance);
  }
  Compare(what + " h", out.h.values(), expected.h, tolerance);
  if (s.cell == Cell::kLstm) Compare(what + " c", out.c.values(), expected.c, tolerance);
  if (!save) return;
  Compare(what + " gates", p.Arrange(out.gates.values(), true), expected.gates, tolerance);
  Compare(what + " states", p.Arrange(out.states.values(), true), expected.states, tolerance);
  if (s.cell == Cell::kLstm) Compare(what + " cells", p.Arrange(out.cells.values(), true), expected.cells, tolerance);
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

struct Grads {
  std::vector<float> dprojected, drecurrent, dh, dc;
};

Grads Backward(Problem& p, const Sequence& s, const Outputs& forward, const std::vector<float>& doutput,
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
void CheckBackward(const std::string& what, Problem& p, const Sequence& forward_sequence, const Sequence& s,
                   const Outputs& forward, int64_t threads) {
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
  Problem problem(c);
  for (const KernelTable* table : SupportedTables()) {
    for (const int64_t threads : {1, 2, 3}) {
      const std::string what = c.name + " " + table->isa + " threads " + std::to_string(threads);
      const Sequence s = problem.Make(*table, true);
      const std::unique_ptr<Outputs> out = Forward(problem, s, threads, true, threads != 2);
      CheckForward(what, problem, s, *out, true);
      const std::unique_ptr<Outputs> unsaved = Forward(problem, s, threads, false, true);
      CHECK_TRUE(unsaved->output.values() == out->output.values(), what + " is the same when nothing is saved");
      Problem back(c);
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
