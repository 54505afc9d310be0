#include <algorithm>
#include <cmath>

#include "tests/cc/op_fuzz/op_rules.h"
#include "tests/cc/op_fuzz/op_tensors.h"
#include "tests/cc/sequence_reference.h"

namespace blocksparse_test {
namespace {

using namespace tensorflow;
using blocksparse::Activation;
using blocksparse::Cell;
using Answer = std::optional<std::vector<Expected>>;

constexpr double kLargest = 1e3;  // of operands, for results that are compared

bool Is(const Tensor& tensor, const TensorShape& shape) { return tensor.shape() == shape; }

Activation ByName(const std::string& name) {
  return name == "relu"      ? Activation::kRelu
         : name == "tanh"    ? Activation::kTanh
         : name == "sigmoid" ? Activation::kSigmoid
                             : Activation::kLinear;
}

struct Matrix {
  int64_t height, width;
  std::vector<Element> elements;
};

// Of a call that is being read: sizes, matrices, and whether anything was wrong.
struct Reader {
  explicit Reader(const OpCall& given) : call(given), low(given.op == "BlockSparse>LowPrecisionSequence") {
    const std::string name = low ? call.Word("cell") : call.op.substr(sizeof("BlockSparse>") - 1);
    cell = name == "rnn" || name[0] == 'R' ? Cell::kRnn : name == "gru" || name[0] == 'G' ? Cell::kGru : Cell::kLstm;
    gates = cell == Cell::kRnn ? 1 : cell == Cell::kGru ? 3 : 4;
    sound = IsActivation(call.Word("activation")) &&
            (call.attrs.count("recurrent_activation") == 0 || IsActivation(call.Word("recurrent_activation")));
    if (low) sound = sound && (name == "rnn" || name == "gru" || name == "lstm");
  }

  void Need(bool condition) { sound = sound && condition; }

  TensorShape Steps(int64_t features) const {
    const bool time_major = call.Bool("time_major");
    TensorShape shape({time_major ? time : batch, time_major ? batch : time});
    if (features >= 0 && !shape.AddDimWithStatus(features).ok()) return TensorShape({});
    return shape;
  }
  TensorShape State() const { return TensorShape({batch, units}); }

  // Of an array with time.
  void ReadSteps(const Tensor& tensor) {
    Need(tensor.dims() == 3);
    if (!sound) return;
    batch = tensor.dim_size(call.Bool("time_major") ? 1 : 0);
    time = tensor.dim_size(call.Bool("time_major") ? 0 : 1);
  }

  void ReadUnits(const Tensor& state) {
    Need(state.dims() == 2 && state.dim_size(0) == batch && state.dim_size(1) <= INT32_MAX / gates);
    if (sound) units = state.dim_size(1);
  }

  void AddFloats(const std::string& prefix, int64_t in, int64_t matrix_gates) {
    const Sizes sizes{in, matrix_gates * units, matrix_gates, false};
    std::vector<Element> w;
    Need(call.List(prefix + "blocks").size() == 1);
    if (!sound) return;
    const Tensor& blocks = call.One(prefix + "blocks");
    Need(ReadMatrix(blocks, call.One(prefix + "indices"), call.One(prefix + "indptr"), sizes, &w));
    if (sound) matrices.push_back({blocks.dim_size(1), blocks.dim_size(2), std::move(w)});
  }

  // Recurrent, and the candidate's.
  void AddRecurrent() {
    candidate = cell == Cell::kGru && !call.List("candidate_blocks").empty();
    AddFloats("recurrent_", units, candidate ? 2 : gates);
    if (candidate) AddFloats("candidate_", units, 1);
  }

  void AddWords(int64_t in) {
    const int64_t count = static_cast<int64_t>(call.List("blocks").size());
    candidate = count == 3;
    Need(count == 2 || (count == 3 && cell == Cell::kGru));
    for (int64_t m = 0; sound && m < count; ++m) {
      const int64_t matrix_gates = m == 2 ? 1 : m == 1 && candidate ? 2 : gates;
      const Sizes sizes{m == 0 ? in : units, matrix_gates * units, matrix_gates, false};
      const Tensor& blocks = call.List("blocks")[m];
      std::vector<Element> w;
      Need(ReadWords(blocks, call.List("indices")[m], call.List("indptr")[m], call.List("scales")[m],
                     call.Int("block_height"), sizes, &w));
      if (sound) matrices.push_back({call.Int("block_height"), blocks.dim_size(2), std::move(w)});
    }
  }

  // From the recurrent one on, number `first`, they have one shape; the kernel's has the same width.
  void CheckBlocks(size_t first) {
    if (!sound) return;
    for (const Matrix& matrix : matrices) Need(matrix.width == matrices[first].width);
    if (candidate) Need(matrices[first].height == matrices[first + 1].height);
  }

  void CheckBiasAndMask(bool has_bias) {
    if (!sound) return;
    if (has_bias) {
      const std::vector<Tensor>& bias = call.List("bias");
      const bool two = cell == Cell::kGru && !candidate;
      Need(bias.size() <= 1);
      Need(bias.empty() || Is(bias[0], two ? TensorShape({2, gates * units}) : TensorShape({gates * units})));
    }
    Need(call.List("mask").size() <= 1);
    Need(call.List("mask").empty() || Is(call.List("mask")[0], Steps(-1)));
  }

  const OpCall& call;
  const bool low;
  bool sound;
  Cell cell;
  int64_t gates;
  int64_t batch = 0, time = 0, units = 0;
  bool candidate = false;
  std::vector<Matrix> matrices;
};

// [batch, time, features] of an array in the op's order, or back.
std::vector<double> Arranged(const Reader& r, const std::vector<double>& values, bool back = false) {
  const int64_t steps = r.batch * r.time;
  if (!r.call.Bool("time_major") || steps == 0) return values;
  const int64_t features = static_cast<int64_t>(values.size()) / steps;
  std::vector<double> arranged(values.size());
  for (int64_t b = 0; b < r.batch; ++b) {
    for (int64_t t = 0; t < r.time; ++t) {
      for (int64_t f = 0; f < features; ++f) {
        const int64_t one = (b * r.time + t) * features + f, other = (t * r.batch + b) * features + f;
        arranged[back ? other : one] = values[back ? one : other];
      }
    }
  }
  return arranged;
}

std::vector<double> Dense(const Matrix& matrix, int64_t in, int64_t out) {
  std::vector<double> w(in * out);
  for (const Element& e : matrix.elements) w[e.row * out + e.column] = e.value;
  return w;
}

SequenceResults Reference(const Reader& r, const std::vector<Tensor>& states) {
  const OpCall& call = r.call;
  const int64_t out = r.gates * r.units, in = call.One("x").dim_size(2);
  blocksparse::BlockIndex index;
  index.grid.rows.features = r.units;
  blocksparse::Sequence s = {};
  s.cell = r.cell;
  s.activation = ByName(call.Word("activation"));
  s.recurrent_activation = r.cell == Cell::kRnn ? Activation::kLinear : ByName(call.Word("recurrent_activation"));
  s.recurrent = &index;
  s.candidate = r.candidate ? &index : nullptr;
  s.batch = r.batch;
  s.time = r.time;
  s.go_backwards = call.Bool("go_backwards");
  s.zero_output_for_mask = call.Bool("zero_output_for_mask");
  SequenceValues v;
  const std::vector<double> x = Arranged(r, Doubles(call.One("x")));
  const std::vector<double> bias = call.List("bias").empty() ? std::vector<double>(2 * out) : Doubles(call.One("bias"));
  for (int64_t row = 0; row < r.batch * r.time; ++row) {
    v.projected.insert(v.projected.end(), bias.begin(), bias.begin() + out);
    for (const Element& e : r.matrices[0].elements) v.projected[row * out + e.column] += x[row * in + e.row] * e.value;
    const bool two = r.cell == Cell::kGru && !r.candidate;
    for (int64_t o = 0; o < out; ++o) v.addend.push_back(two ? bias[out + o] : 0);
  }
  v.recurrent = Dense(r.matrices[1], r.units, (r.candidate ? 2 : r.gates) * r.units);
  if (r.candidate) v.candidate = Dense(r.matrices[2], r.units, r.units);
  v.h = Doubles(states[0]);
  if (r.cell == Cell::kLstm) v.c = Doubles(states[1]);
  if (!call.List("mask").empty()) {
    for (const double keep : Arranged(r, Doubles(call.One("mask")))) v.mask.push_back(keep != 0);
  }
  return ReferenceSequence(s, v);
}

Expected Within(const TensorShape& shape, const std::vector<double>& values) {
  double largest = 1;
  for (const double v : values) largest = std::max(largest, std::fabs(v));
  return {shape, values, std::vector<double>(values.size(), 3e-5 * largest)};
}

Answer Outputs(const Reader& r, const std::vector<Tensor>& states) {
  const OpCall& call = r.call;
  const bool lstm = r.cell == Cell::kLstm, sequences = call.Bool("return_sequences");
  const bool save = !r.low && call.Bool("save");
  const int64_t saved = r.cell == Cell::kGru && !r.candidate ? 4 : r.gates;
  std::vector<Expected> expected = {{sequences ? r.Steps(r.units) : r.State(), {}, {}}, {r.State(), {}, {}}};
  if (lstm) expected.push_back({r.State(), {}, {}});
  if (!r.low) {
    expected.push_back({save ? r.Steps(saved * r.units) : TensorShape({0}), {}, {}});
    expected.push_back({save ? r.Steps(r.units) : TensorShape({0}), {}, {}});
    if (lstm) expected.push_back(expected.back());
  }
  if (!AllSmall(call) || (r.low && call.Word("x_dtype") != "float32")) return expected;
  const SequenceResults results = Reference(r, states);
  std::vector<double> output = Arranged(r, results.output, true);
  if (!sequences) {
    output.assign(r.batch * r.units, 0);
    for (int64_t b = 0; r.time > 0 && b < r.batch; ++b) {
      const auto last = results.output.begin() + ((b + 1) * r.time - 1) * r.units;
      std::copy(last, last + r.units, output.begin() + b * r.units);
    }
  }
  size_t i = 0;
  const auto set = [&](const std::vector<double>& values) {
    expected[i] = Within(expected[i].shape, values);
    ++i;
  };
  set(output);
  set(results.h);
  if (lstm) set(results.c);
  if (!save) return expected;
  set(Arranged(r, results.gates, true));
  set(Arranged(r, results.states, true));
  if (lstm) set(Arranged(r, results.cells, true));
  return expected;
}

Answer Forward(const OpCall& call) {
  Reader r(call);
  r.ReadSteps(call.One("x"));
  const bool lstm = r.cell == Cell::kLstm;
  std::vector<Tensor> states = r.low ? call.List("states") : std::vector<Tensor>{call.One("h0")};
  if (!r.low && lstm) states.push_back(call.One("c0"));
  r.Need(states.size() == (lstm ? 2u : 1u));
  if (!r.sound) return {};
  r.ReadUnits(states[0]);
  for (const Tensor& state : states) r.Need(r.sound && Is(state, r.State()));
  if (!r.sound) return {};
  const int64_t in = call.One("x").dim_size(2);
  if (r.low) {
    r.Need(IsXType(call.Word("x_dtype"), call.attrs.at("T").type()));
    r.AddWords(in);
  } else {
    r.AddFloats("kernel_", in, r.gates);
    r.AddRecurrent();
  }
  r.CheckBlocks(1);
  r.CheckBiasAndMask(true);
  if (!r.sound) return {};
  return Outputs(r, states);
}

Answer Backward(const OpCall& call) {
  Reader r(call);
  r.ReadSteps(call.One("gates"));
  if (!r.sound) return {};
  r.ReadUnits(call.One("dh"));
  if (!r.sound) return {};
  r.AddRecurrent();
  r.CheckBlocks(0);
  r.CheckBiasAndMask(false);
  if (!r.sound) return {};
  const int64_t saved = r.cell == Cell::kGru && !r.candidate ? 4 : r.gates;
  r.Need(Is(call.One("doutput"), call.Bool("return_sequences") ? r.Steps(r.units) : r.State()));
  r.Need(Is(call.One("gates"), r.Steps(saved * r.units)));
  if (r.cell == Cell::kGru) r.Need(Is(call.One("states"), r.Steps(r.units)));
  if (r.cell == Cell::kLstm) {
    r.Need(Is(call.One("cells"), r.Steps(r.units)));
    r.Need(Is(call.One("dc"), r.State()) && Is(call.One("c0"), r.State()));
  }
  if (!r.sound) return {};
  std::vector<Expected> expected(r.cell == Cell::kGru ? 2 : 1, Expected{r.Steps(r.gates * r.units), {}, {}});
  expected.push_back({r.State(), {}, {}});
  if (r.cell == Cell::kLstm) expected.push_back({r.State(), {}, {}});
  return expected;
}

}  // namespace

bool AllSmall(const OpCall& call) {
  for (const auto& argument : call.arguments) {
    for (const Tensor& tensor : argument.second) {
      for (const double v : Doubles(tensor)) {
        if (!(std::fabs(v) < kLargest)) return false;
      }
    }
  }
  return true;
}

Answer ExpectSequence(const OpCall& call) {
  const bool backward = call.op.size() > 4 && call.op.substr(call.op.size() - 4) == "Grad";
  return backward ? Backward(call) : Forward(call);
}

}  // namespace blocksparse_test
