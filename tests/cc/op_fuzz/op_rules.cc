#include "tests/cc/op_fuzz/op_rules.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/cc/op_fuzz/op_tensors.h"

namespace blocksparse_test {

using namespace tensorflow;

namespace {

using Answer = std::optional<std::vector<Expected>>;

bool IsSize(int64_t size) { return size >= 1 && size <= INT32_MAX; }

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool HasShape(const Tensor& tensor, std::vector<int64_t> shape) {
  if (tensor.dims() != static_cast<int>(shape.size())) return false;
  for (int i = 0; i < tensor.dims(); ++i) {
    if (shape[i] >= 0 && tensor.dim_size(i) != shape[i]) return false;
  }
  return true;
}

// Sums of terms: what they are, how large the terms are together, and what the terms may be off.
struct Sums {
  explicit Sums(int64_t size) : y(size), magnitude(size), off(size) {}
  void Add(int64_t at, double term, double term_off = 0) {
    y[at] += term;
    magnitude[at] += std::fabs(term);
    off[at] += std::fabs(term_off);
  }
  // That the product of some factors overflows on the way, in whatever order it is made: then it may be anything.
  void Bound(int64_t at, double a, double b, double c) {
    const double largest = std::max(1.0, std::fabs(a)) * std::max(1.0, std::fabs(b)) * std::max(1.0, std::fabs(c));
    if (!(largest < 1e36)) magnitude[at] = INFINITY;
  }
  Expected Done(const TensorShape& shape) const {
    Expected e{shape, y, {}};
    for (size_t i = 0; i < y.size(); ++i) e.allowed.push_back(1e-5 * magnitude[i] + off[i] + 1e-6);
    for (size_t i = 0; i < y.size(); ++i) {
      if (!(magnitude[i] < 1e36)) e.values[i] = NAN;
    }
    return e;
  }
  std::vector<double> y, magnitude, off;
};

Expected Activated(Expected e, const std::string& activation) {
  for (double& value : e.values) value = Activate(activation, value);
  return e;
}

// The bias of a list of none or one.
bool AddBias(const OpCall& call, int64_t out, Sums* sums) {
  const std::vector<Tensor>& biases = call.List("bias");
  if (biases.size() > 1) return false;
  if (biases.empty()) return true;
  if (!HasShape(biases[0], {out})) return false;
  const std::vector<double> bias = Doubles(biases[0]);
  for (size_t i = 0; i < sums->y.size(); ++i) sums->Add(static_cast<int64_t>(i), bias[i % out]);
  return true;
}

Answer StaticProduct(const OpCall& call) {
  const Tensor& x = call.One("x");
  const std::string& order = call.Word("order");
  const std::string& activation = call.Word("activation");
  std::vector<Element> w;
  if (x.dims() != 2 || (order != "row" && order != "column") || !IsActivation(activation)) return {};
  const Sizes sizes{x.dim_size(1), call.Int("out_features"), call.Int("gates"), order == "row"};
  if (!ReadMatrix(call.One("blocks"), call.One("indices"), call.One("indptr"), sizes, &w)) return {};
  const TensorShape shape({x.dim_size(0), sizes.out});
  Sums sums(shape.num_elements());
  const std::vector<double> in = Doubles(x);
  for (int64_t b = 0; b < x.dim_size(0); ++b) {
    for (const Element& e : w) sums.Add(b * sizes.out + e.column, in[b * sizes.in + e.row] * e.value);
  }
  if (!AddBias(call, sizes.out, &sums)) return {};
  return Answer({Activated(sums.Done(shape), activation)});
}

Answer StaticGradient(const OpCall& call, bool of_x) {
  const Tensor& x = call.One("x");
  const Tensor& dy = call.One("dy");
  const Tensor& blocks = call.One("blocks");
  const std::string& order = call.Word("order");
  if (x.dims() != 2 || dy.dims() != 2 || (order != "row" && order != "column")) return {};
  const Sizes sizes{x.dim_size(1), call.Int("out_features"), call.Int("gates"), order == "row"};
  std::vector<Element> w;
  if (x.dim_size(0) != dy.dim_size(0) || dy.dim_size(1) != sizes.out) return {};
  if (!ReadMatrix(blocks, call.One("indices"), call.One("indptr"), sizes, &w)) return {};
  const std::vector<double> in = Doubles(x), up = Doubles(dy);
  Sums sums(of_x ? x.NumElements() : blocks.NumElements());
  for (int64_t b = 0; b < x.dim_size(0); ++b) {
    for (const Element& e : w) {
      const double d = up[b * sizes.out + e.column];
      if (of_x) sums.Add(b * sizes.in + e.row, d * e.value);
      if (!of_x) sums.Add(e.at, d * in[b * sizes.in + e.row]);
    }
  }
  return Answer({sums.Done(of_x ? x.shape() : blocks.shape())});
}

Answer Gather(const OpCall& call, bool gradient) {
  const Tensor& ids = call.One("ids");
  const Tensor& blocks = call.One("blocks");
  const Sizes sizes{call.Int("in_features"), call.Int("out_features"), 1, true};
  std::vector<Element> w;
  if (ids.dims() != 1) return {};
  if (!ReadMatrix(blocks, call.One("indices"), call.One("indptr"), sizes, &w)) return {};
  const int64_t count = ids.dim_size(0);
  if (gradient && !HasShape(call.One("dy"), {count, sizes.out})) return {};
  const std::vector<int64_t> rows = Longs(ids);
  for (const int64_t row : rows) {
    if (row < 0 || row >= sizes.in) return {};
  }
  const std::vector<double> dy = gradient ? Doubles(call.One("dy")) : std::vector<double>();
  const TensorShape shape = gradient ? blocks.shape() : TensorShape({count, sizes.out});
  Sums sums(shape.num_elements());
  for (int64_t k = 0; k < count; ++k) {
    for (const Element& e : w) {
      if (e.row != rows[k]) continue;
      if (gradient) sums.Add(e.at, dy[k * sizes.out + e.column]);
      if (!gradient) sums.Add(k * sizes.out + e.column, e.value);
    }
  }
  return Answer({sums.Done(shape)});
}

// What the numbers of a row are taken as, and how far each may be off: roundings may fall to either side.
void Take(const std::string& x_dtype, int64_t features, std::vector<double>* x, std::vector<double>* off) {
  off->assign(x->size(), 0);
  for (size_t i = 0; x_dtype == "bfloat16" && i < x->size(); ++i) (*off)[i] = std::fabs((*x)[i]) / 256 + 1e-37;
  if (x_dtype != "int8") return;
  for (size_t row = 0; row < x->size(); row += features) {
    const auto begin = x->begin() + row, end = begin + features;
    const bool finite = std::all_of(begin, end, [](double v) { return std::isfinite(v); });
    double largest = 0;
    std::for_each(begin, end, [&](double v) { largest = std::max(largest, std::fabs(v)); });
    const bool served = finite && largest >= std::pow(2.0, -100);
    for (auto v = begin; v != end; ++v) {
      const double scale = served ? largest / 127 : 0;
      (*off)[v - x->begin()] = scale;
      *v = !finite ? NAN : served ? std::round(*v / scale) * scale : 0;
    }
  }
}

Answer LowPrecision(const OpCall& call) {
  const Tensor& x = call.One("x");
  const std::string& activation = call.Word("activation");
  if (x.dims() != 2 || !IsActivation(activation)) return {};
  if (!IsXType(call.Word("x_dtype"), call.One("blocks").dtype())) return {};
  const Sizes sizes{x.dim_size(1), call.Int("out_features"), call.Int("gates"), false};
  std::vector<Element> w;
  if (!ReadWords(call.One("blocks"), call.One("indices"), call.One("indptr"), call.One("scales"),
                 call.Int("block_height"), sizes, &w)) {
    return {};
  }
  const Tensor& bias = call.One("bias");
  if (!HasShape(bias, {0}) && !HasShape(bias, {sizes.out})) return {};
  std::vector<double> in = Doubles(x), off, b0 = Doubles(bias);
  Take(call.Word("x_dtype"), sizes.in, &in, &off);
  const TensorShape shape({x.dim_size(0), sizes.out});
  Sums sums(shape.num_elements());
  for (int64_t b = 0; b < x.dim_size(0); ++b) {
    for (const Element& e : w) {
      const int64_t at = b * sizes.in + e.row;
      sums.Add(b * sizes.out + e.column, in[at] * e.value, off[at] * e.value);
    }
  }
  for (size_t i = 0; !b0.empty() && i < sums.y.size(); ++i) sums.Add(static_cast<int64_t>(i), b0[i % b0.size()]);
  // A row that is not finite is NaN in all outputs, also where no block is; so is a column by its scale. And a sum that
  // overflows is NaN after a scale of zero.
  Expected expected = sums.Done(shape);
  const std::vector<double> scales = Doubles(call.One("scales"));
  for (size_t i = 0; !scales.empty() && i < expected.values.size(); ++i) {
    if (!std::isfinite(scales[i % scales.size()])) expected.values[i] = NAN;
  }
  for (int64_t b = 0; b < x.dim_size(0); ++b) {
    for (int64_t i = 0; i < sizes.in; ++i) {
      if (std::fabs(in[b * sizes.in + i]) < 1e30) continue;
      std::fill_n(expected.values.begin() + b * sizes.out, sizes.out, NAN);
    }
  }
  return Answer({Activated(expected, activation)});
}

Answer DynamicProduct(const OpCall& call, const std::string& kind) {
  const int64_t in = call.Int("in_features"), out = call.Int("out_features");
  const Tensor& x = call.One("x");
  const Tensor& blocks = call.One("blocks");
  const Tensor& ids = call.One("block_ids");
  const bool gradient = kind == "inputs" || kind == "blocks";
  if (!IsSize(in) || !IsSize(out) || !HasShape(x, {-1, in}) || blocks.dims() != 3 || ids.dims() != 2) return {};
  const int64_t batch = x.dim_size(0), height = blocks.dim_size(1), width = blocks.dim_size(2);
  if (gradient && !HasShape(call.One("dy"), {batch, out})) return {};
  if (!IsSize(height) || !IsSize(width)) return {};
  const int64_t columns = CeilDiv(out, width), n = CeilDiv(in, height) * columns, k = ids.dim_size(1);
  if (blocks.dim_size(0) != n || ids.dim_size(0) != batch || !HasShape(call.One("block_gates"), {batch, k})) return {};
  if (k > 0 && batch > INT32_MAX / k) return {};
  const bool scaled = blocks.dtype() == DT_INT8;
  if (kind == "low" && !HasShape(call.One("scales"), {scaled ? n : 0})) return {};
  if (!gradient && !IsActivation(call.Word("activation"))) return {};
  const std::vector<int64_t> chosen = Longs(ids);
  for (const int64_t id : chosen) {
    if (id < 0 || id >= n) return {};
  }
  const std::vector<double> xs = Doubles(x), values = Doubles(blocks), gates = Doubles(call.One("block_gates"));
  const std::vector<double> dy = gradient ? Doubles(call.One("dy")) : std::vector<double>();
  const std::vector<double> scales = scaled ? Doubles(call.One("scales")) : std::vector<double>();
  Sums y(batch * out), dx(batch * in), dgates(batch * k), dblocks(blocks.NumElements());
  for (int64_t place = 0; place < batch * k; ++place) {
    const int64_t b = place / k, top = chosen[place] / columns * height, left = chosen[place] % columns * width;
    const double gate = gates[place], scale = scaled ? scales[chosen[place]] : 1;
    for (int64_t r = 0; r < std::min(height, in - top); ++r) {
      for (int64_t c = 0; c < std::min(width, out - left); ++c) {
        const int64_t at = (chosen[place] * height + r) * width + c;
        const double value = xs[b * in + top + r], w = scale * values[at];
        if (!gradient) {
          if (gate != 0) y.Add(b * out + left + c, gate * value * w);
          y.Bound(b * out + left + c, gate, value, std::max(1.0, std::fabs(values[at])) * scale);
          y.Bound(b * out + left + c, gate, value, values[at]);
          continue;
        }
        const double d = dy[b * out + left + c];
        dgates.Add(place, value * w * d);
        dgates.Bound(place, value, w, d);
        if (gate == 0) continue;
        dx.Add(b * in + top + r, gate * w * d);
        dx.Bound(b * in + top + r, gate, w, d);
        dblocks.Add(at, gate * value * d);
        dblocks.Bound(at, gate, value, d);
      }
    }
  }
  if (kind == "inputs") return Answer({dx.Done(x.shape()), dgates.Done(ids.shape())});
  if (kind == "blocks") return Answer({dblocks.Done(blocks.shape())});
  if (!AddBias(call, out, &y)) return {};
  return Answer({Activated(y.Done(TensorShape({batch, out})), call.Word("activation"))});
}

Answer Choice(const OpCall& call) {
  const Tensor& scores = call.One("scores");
  const double epsilon = call.attrs.at("epsilon").f();
  if (scores.dims() != 2 || call.One("k").dims() != 0 || !(epsilon > 0)) return {};
  const int64_t batch = scores.dim_size(0), n = scores.dim_size(1), k = Longs(call.One("k"))[0];
  if (n > INT32_MAX || k < 0 || k > n) return {};
  const TensorShape shape({batch, k});
  Expected ids{shape, {}, std::vector<double>(batch * k, 0)}, gates{shape, {}, {}};
  const std::vector<double> s = Doubles(scores);
  for (int64_t b = 0; k > 0 && b < batch; ++b) {  // no choice at all may be of any number of examples
    const auto key = [&](int64_t i) {
      const double v = s[b * n + i];
      return std::isnan(v) ? INFINITY : v > 0 ? v : 0;
    };
    // NaN is larger than any number, infinity included.
    const auto before = [&](int64_t i, int64_t j) {
      const bool nan_i = std::isnan(s[b * n + i]), nan_j = std::isnan(s[b * n + j]);
      if (nan_i != nan_j) return nan_i;
      return key(i) != key(j) ? key(i) > key(j) : i < j;
    };
    std::vector<int64_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), before);
    std::sort(order.begin(), order.begin() + k);
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += std::isnan(s[b * n + order[i]]) ? NAN : key(order[i]);
    for (int64_t i = 0; i < k; ++i) {
      ids.values.push_back(static_cast<double>(order[i]));
      const double gate = sum < 1e36 ? key(order[i]) / std::max(epsilon, sum / static_cast<double>(n)) : NAN;
      gates.values.push_back(gate);
      gates.allowed.push_back(1e-5 * std::fabs(gate) + 1e-37);
    }
  }
  return Answer({ids, gates});
}

}  // namespace

bool ReadElements(const std::vector<double>& values, int64_t n, int64_t height, int64_t width, const Tensor& indices,
                  const Tensor& indptr, const Sizes& sizes, const Place& place, std::vector<Element>* elements) {
  for (const int64_t size : {sizes.in, sizes.out, sizes.gates, height, width}) {
    if (!IsSize(size)) return false;
  }
  if (sizes.out % sizes.gates != 0 || !HasShape(indices, {n}) || indptr.dims() != 1) return false;
  const int64_t gate_features = sizes.out / sizes.gates;
  const int64_t gate_columns = CeilDiv(gate_features, width);
  const int64_t rows = CeilDiv(sizes.in, height), columns = sizes.gates * gate_columns;
  const int64_t lines = sizes.by_row ? rows : columns, cross = sizes.by_row ? columns : rows;
  if (indptr.dim_size(0) != lines + 1) return false;
  const std::vector<int64_t> start = Longs(indptr), at = Longs(indices);
  if (start[0] != 0 || start[lines] != n || !std::is_sorted(start.begin(), start.end())) return false;
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t k = start[line]; k < start[line + 1]; ++k) {
      if (at[k] < 0 || at[k] >= cross || (k > start[line] && at[k] <= at[k - 1])) return false;
      const int64_t i = sizes.by_row ? line : at[k], j = sizes.by_row ? at[k] : line;
      for (int64_t r = 0; r < std::min(height, sizes.in - i * height); ++r) {
        for (int64_t c = 0; c < std::min(width, gate_features - j % gate_columns * width); ++c) {
          const int64_t column = j / gate_columns * gate_features + j % gate_columns * width + c;
          elements->push_back({place(k, r, c), i * height + r, column, values[place(k, r, c)]});
        }
      }
    }
  }
  return true;
}

bool ReadMatrix(const Tensor& blocks, const Tensor& indices, const Tensor& indptr, const Sizes& sizes,
                std::vector<Element>* elements) {
  if (blocks.dims() != 3) return false;
  const int64_t height = blocks.dim_size(1), width = blocks.dim_size(2);
  return ReadElements(Doubles(blocks), blocks.dim_size(0), height, width, indices, indptr, sizes,
                      [=](int64_t k, int64_t r, int64_t c) { return (k * height + r) * width + c; }, elements);
}

bool ReadWords(const Tensor& blocks, const Tensor& indices, const Tensor& indptr, const Tensor& scales, int64_t height,
               const Sizes& sizes, std::vector<Element>* elements) {
  const bool int8 = blocks.dtype() == DT_INT8;
  const int64_t p = int8 ? 4 : 2;
  if (!IsSize(height) || !HasShape(blocks, {-1, CeilDiv(height, p), -1, p})) return false;
  if (!HasShape(scales, {int8 ? sizes.out : 0})) return false;
  const int64_t words = blocks.dim_size(1), width = blocks.dim_size(2);
  const auto place = [=](int64_t k, int64_t r, int64_t c) { return ((k * words + r / p) * width + c) * p + r % p; };
  if (!ReadElements(Doubles(blocks), blocks.dim_size(0), height, width, indices, indptr, sizes, place, elements)) {
    return false;
  }
  const std::vector<double> scale = Doubles(scales);
  for (Element& e : *elements) e.value *= int8 ? scale[e.column] : 1;
  return true;
}

bool IsActivation(const std::string& name) {
  return name == "linear" || name == "relu" || name == "tanh" || name == "sigmoid";
}

double Activate(const std::string& name, double z) {
  if (std::isnan(z) || name == "linear") return z;
  if (name == "relu") return std::max(z, 0.0);
  return name == "tanh" ? std::tanh(z) : 1 / (1 + std::exp(-z));
}

bool IsXType(const std::string& x_dtype, DataType type) {
  return x_dtype == "float32" || x_dtype == (type == DT_INT8 ? "int8" : "bfloat16");
}

Answer Expect(const OpCall& call) {
  const std::string op = call.op.substr(sizeof("BlockSparse>") - 1);
  if (op == "MatMul") return StaticProduct(call);
  if (op == "MatMulGradX" || op == "MatMulGradBlocks") return StaticGradient(call, op == "MatMulGradX");
  if (op == "Gather" || op == "GatherGradBlocks") return Gather(call, op == "GatherGradBlocks");
  if (op == "LowPrecisionMatMul") return LowPrecision(call);
  if (op == "DynamicMatMul") return DynamicProduct(call, "float");
  if (op == "DynamicLowPrecisionMatMul") return DynamicProduct(call, "low");
  if (op == "DynamicMatMulGradInputs") return DynamicProduct(call, "inputs");
  if (op == "DynamicMatMulGradBlocks") return DynamicProduct(call, "blocks");
  return op == "ChooseBlocks" ? Choice(call) : ExpectSequence(call);
}

}  // namespace blocksparse_test
