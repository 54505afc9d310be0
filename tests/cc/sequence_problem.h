// Recurrent layers with random matrices, inputs and masks, and the check of what came of them.
#ifndef TF_BLOCKSPARSE_TESTS_SEQUENCE_PROBLEM_H_
#define TF_BLOCKSPARSE_TESTS_SEQUENCE_PROBLEM_H_

#include <cmath>
#include <string>
#include <vector>

#include "tests/cc/products.h"
#include "tests/cc/sequence_reference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace blocksparse_test {

using blocksparse::Activation;
using blocksparse::BlockIndex;
using blocksparse::BsrMatrix;
using blocksparse::Cell;
using blocksparse::KernelTable;
using blocksparse::Order;
using blocksparse::Sequence;

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

// The matrices of a case, small enough for states that neither saturate nor explode.
class SequenceProblem {
 public:
  explicit SequenceProblem(const SequenceCase& c) : c_(c), gates_(Gates()) {
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

inline const bool* Mask(const std::vector<char>& mask) {
  return mask.empty() ? nullptr : reinterpret_cast<const bool*>(mask.data());
}

// Every output exactly as large as it has to be; what is not written stays NaN.
struct SequenceArrays {
  SequenceArrays(const Sequence& s, bool aligned)
      : steps(s.batch * s.time), output((s.return_sequences ? steps : s.batch) * s.units(), aligned),
        h(s.batch * s.units(), aligned), c(s.batch * s.units(), aligned),
        gates(steps * s.saved_gates() * s.units(), aligned), states(steps * s.units(), aligned),
        cells(steps * s.units(), aligned) {}
  int64_t steps;
  Buffer output, h, c, gates, states, cells;
};

inline void CheckForward(const std::string& what, SequenceProblem& p, const Sequence& s, const SequenceArrays& out, bool save) {
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

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_SEQUENCE_PROBLEM_H_
