#include "tests/cc/op_fuzz/op_cases.h"

#include "tests/cc/op_fuzz/op_tensors.h"

namespace blocksparse_test {
namespace {

using namespace tensorflow;

constexpr const char* kActivations[] = {"linear", "relu", "tanh", "sigmoid"};

// The stored pattern of a matrix, and the arguments that hold it.
struct Stored {
  Tensor blocks, indices, indptr;
};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Stored DrawMatrix(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, bool by_row, float scale,
                  Random* random) {
  const int64_t rows = CeilDiv(in, height);
  const int64_t columns = gates * CeilDiv(out / gates, width);
  const int64_t share = random->Below(5);
  std::vector<int32_t> indices;
  std::vector<int32_t> indptr = {0};
  for (int64_t line = 0; line < (by_row ? rows : columns); ++line) {
    for (int64_t cross = 0; cross < (by_row ? columns : rows); ++cross) {
      if (random->Below(4) < share) indices.push_back(static_cast<int32_t>(cross));
    }
    indptr.push_back(static_cast<int32_t>(indices.size()));
  }
  const int64_t n = static_cast<int64_t>(indices.size());
  return {Integers({n, height, width}, scale, random), Ints(indices), Ints(indptr)};
}

// As LowPrecisionMatMul stores blocks: [n, height, width] in words of p rows.
Tensor Words(const Tensor& blocks, DataType type, Random* random) {
  const int64_t p = type == DT_INT8 ? 4 : 2;
  return Narrow({blocks.dim_size(0), CeilDiv(blocks.dim_size(1), p), blocks.dim_size(2), p}, type, random);
}

void AddMatrix(OpCall* call, const std::string& prefix, const Stored& w) {
  call->arguments.push_back({prefix + "blocks", {w.blocks}});
  call->arguments.push_back({prefix + "indices", {w.indices}});
  call->arguments.push_back({prefix + "indptr", {w.indptr}});
}

std::vector<Tensor> Maybe(bool there, const Tensor& tensor) {
  return there ? std::vector<Tensor>{tensor} : std::vector<Tensor>{};
}

OpCall Static(const std::string& op, Random* random) {
  const bool embedding = op.rfind("Gather", 0) == 0;
  const bool low = op == "LowPrecisionMatMul";
  const int64_t gates = embedding ? 1 : 1 + random->Below(3);
  const int64_t in = 1 + random->Below(30);
  const int64_t out = gates * (1 + random->Below(14));
  const int64_t height = 1 + random->Below(8);
  const bool by_row = embedding || (!low && random->Yes());
  const int64_t batch = random->Below(6);
  Stored w = DrawMatrix(in, out, gates, height, 1 + random->Below(8), by_row, 1, random);
  const Tensor x = Integers({batch, in}, 1, random);
  const Tensor dy = Integers({batch, out}, 1, random);
  OpCall call{"BlockSparse>" + op, {}, {}};
  call.attrs["out_features"].set_i(out);
  if (embedding) {
    const DataType type = random->Yes() ? DT_INT32 : DT_INT64;
    call.attrs["in_features"].set_i(in);
    call.attrs["Tids"].set_type(type);
    call.arguments.push_back({"ids", {Ids(batch, in, type, random)}});
    if (op == "GatherGradBlocks") call.arguments.push_back({"dy", {dy}});
    AddMatrix(&call, "", w);
    return call;
  }
  call.attrs["gates"].set_i(gates);
  if (!low) call.attrs["order"].set_s(by_row ? "row" : "column");
  if (op == "MatMulGradX" || op == "MatMulGradBlocks") {
    call.arguments = {{"dy", {dy}}, {"x", {x}}};
    if (op == "MatMulGradBlocks") std::swap(call.arguments[0], call.arguments[1]);
    AddMatrix(&call, "", w);
    return call;
  }
  call.attrs["activation"].set_s(random->Of(kActivations));
  call.arguments.push_back({"x", {x}});
  const bool bias = random->Yes();
  if (!low) {
    AddMatrix(&call, "", w);
    call.arguments.push_back({"bias", Maybe(bias, Integers({out}, 1, random))});
    return call;
  }
  const DataType type = random->Yes() ? DT_INT8 : DT_BFLOAT16;
  w.blocks = Words(w.blocks, type, random);
  AddMatrix(&call, "", w);
  call.arguments.push_back({"scales", {Integers({type == DT_INT8 ? out : 0}, 1, random)}});
  call.arguments.push_back({"bias", {Integers({bias ? out : 0}, 1, random)}});
  call.attrs["T"].set_type(type);
  call.attrs["block_height"].set_i(height);
  call.attrs["x_dtype"].set_s(random->Yes() ? "float32" : type == DT_INT8 ? "int8" : "bfloat16");
  return call;
}

OpCall Dynamic(const std::string& op, Random* random) {
  const int64_t in = 1 + random->Below(20);
  const int64_t out = 1 + random->Below(20);
  const int64_t height = 1 + random->Below(8);
  const int64_t width = 1 + random->Below(8);
  const int64_t n = CeilDiv(in, height) * CeilDiv(out, width);
  const int64_t batch = random->Below(6);
  const int64_t k = random->Below(n + 2);
  const Tensor x = Integers({batch, in}, 1, random);
  const Tensor dy = Integers({batch, out}, 1, random);
  OpCall call{"BlockSparse>" + op, {}, {}};
  call.attrs["in_features"].set_i(in);
  call.attrs["out_features"].set_i(out);
  if (op == "DynamicMatMulGradInputs") call.arguments.push_back({"dy", {dy}});
  call.arguments.push_back({"x", {x}});
  if (op == "DynamicMatMulGradBlocks") call.arguments.push_back({"dy", {dy}});
  const bool low = op == "DynamicLowPrecisionMatMul";
  const DataType type = random->Yes() ? DT_INT8 : DT_BFLOAT16;
  if (low) call.attrs["T"].set_type(type);
  const TensorShape blocks({n, height, width});
  call.arguments.push_back({"blocks", {low ? Narrow(blocks, type, random) : Integers(blocks, 1, random)}});
  Tensor ids = Ids(batch * k, n, DT_INT32, random);
  call.arguments.push_back({"block_ids", {Reshaped(ids, {batch, k})}});
  call.arguments.push_back({"block_gates", {Integers({batch, k}, 1, random)}});
  if (low) call.arguments.push_back({"scales", {Integers({type == DT_INT8 ? n : 0}, 1, random)}});
  if (op == "DynamicMatMul" || low) {
    call.arguments.push_back({"bias", Maybe(random->Yes(), Integers({out}, 1, random))});
    call.attrs["activation"].set_s(random->Of(kActivations));
  }
  return call;
}

OpCall Choose(Random* random) {
  const int64_t n = random->Below(40);
  OpCall call{"BlockSparse>ChooseBlocks", {}, {}};
  call.attrs["epsilon"].set_f(random->Yes() ? 1e-3f : 2.0f);
  call.arguments.push_back({"scores", {Integers({random->Below(6), n}, 0.25f, random)}});
  Tensor k = Reshaped(Ints({0}), TensorShape({}));
  k.scalar<int32_t>()() = static_cast<int32_t>(random->Below(n + 1));
  call.arguments.push_back({"k", {k}});
  return call;
}

// What sequence ops share: sizes and the attributes of time.
struct Layer {
  int64_t batch, time, in, units, gates, height, width, recurrent_height;
  bool time_major, candidate;
  std::string cell;

  TensorShape Steps(int64_t features) const {
    if (features < 0) return time_major ? TensorShape({time, batch}) : TensorShape({batch, time});
    return time_major ? TensorShape({time, batch, features}) : TensorShape({batch, time, features});
  }
};

Layer DrawLayer(const std::string& cell, OpCall* call, Random* random) {
  Layer s;
  s.cell = cell;
  s.gates = cell == "rnn" ? 1 : cell == "gru" ? 3 : 4;
  s.candidate = cell == "gru" && random->Yes();
  s.batch = random->Below(20) == 0 ? 17 + random->Below(30) : random->Below(6);
  s.time = random->Below(5);
  s.in = 1 + random->Below(10);
  s.units = 1 + random->Below(12);
  s.height = 1 + random->Below(6);
  s.width = 1 + random->Below(6);
  s.recurrent_height = random->Yes() ? s.height : 1 + random->Below(6);
  s.time_major = random->Yes();
  call->attrs["time_major"].set_b(s.time_major);
  call->attrs["go_backwards"].set_b(random->Yes());
  call->attrs["return_sequences"].set_b(random->Yes());
  call->attrs["zero_output_for_mask"].set_b(random->Yes());
  call->attrs["activation"].set_s(random->Of(kActivations));
  if (cell != "rnn" || call->op == "BlockSparse>LowPrecisionSequence") {
    call->attrs["recurrent_activation"].set_s(random->Of(kActivations));
  }
  return s;
}

std::vector<Stored> Matrices(const Layer& s, float scale, Random* random) {
  const int64_t recurrent_gates = s.candidate ? 2 : s.gates;
  std::vector<Stored> matrices = {
      DrawMatrix(s.in, s.gates * s.units, s.gates, s.height, s.width, false, scale, random),
      DrawMatrix(s.units, recurrent_gates * s.units, recurrent_gates, s.recurrent_height, s.width, false, scale, random)};
  if (s.candidate) {
    matrices.push_back(DrawMatrix(s.units, s.units, 1, s.recurrent_height, s.width, false, scale, random));
  }
  return matrices;
}

Tensor BiasOf(const Layer& s, Random* random) {
  const int64_t out = s.gates * s.units;
  return Integers(s.cell == "gru" && !s.candidate ? TensorShape({2, out}) : TensorShape({out}), 0.1f, random);
}

std::string CellOf(const std::string& op) {
  return op.rfind("Rnn", 0) == 0 ? "rnn" : op.rfind("Gru", 0) == 0 ? "gru" : "lstm";
}

OpCall Forward(const std::string& op, Random* random) {
  OpCall call{"BlockSparse>" + op, {}, {}};
  const Layer s = DrawLayer(CellOf(op), &call, random);
  const std::vector<Stored> matrices = Matrices(s, 0.05f, random);
  call.attrs["save"].set_b(random->Yes());
  call.arguments.push_back({"x", {Integers(s.Steps(s.in), 0.2f, random)}});
  call.arguments.push_back({"h0", {Integers({s.batch, s.units}, 0.2f, random)}});
  if (s.cell == "lstm") call.arguments.push_back({"c0", {Integers({s.batch, s.units}, 0.2f, random)}});
  AddMatrix(&call, "kernel_", matrices[0]);
  AddMatrix(&call, "recurrent_", matrices[1]);
  if (s.cell == "gru") {
    const Stored& w = matrices.back();
    call.arguments.push_back({"candidate_blocks", Maybe(s.candidate, w.blocks)});
    call.arguments.push_back({"candidate_indices", Maybe(s.candidate, w.indices)});
    call.arguments.push_back({"candidate_indptr", Maybe(s.candidate, w.indptr)});
  }
  call.arguments.push_back({"bias", Maybe(random->Yes(), BiasOf(s, random))});
  call.arguments.push_back({"mask", Maybe(random->Yes(), Bools(s.Steps(-1), random))});
  return call;
}

OpCall Backward(const std::string& op, Random* random) {
  OpCall call{"BlockSparse>" + op, {}, {}};
  const Layer s = DrawLayer(CellOf(op), &call, random);
  const std::vector<Stored> matrices = Matrices(s, 0.05f, random);
  const TensorShape state({s.batch, s.units});
  const int64_t saved = s.cell == "gru" && !s.candidate ? 4 : s.gates;
  const bool sequences = call.Bool("return_sequences");
  call.arguments.push_back({"doutput", {Integers(sequences ? s.Steps(s.units) : state, 1, random)}});
  call.arguments.push_back({"dh", {Integers(state, 1, random)}});
  if (s.cell == "lstm") call.arguments.push_back({"dc", {Integers(state, 1, random)}});
  call.arguments.push_back({"gates", {Integers(s.Steps(saved * s.units), 0.1f, random)}});
  if (s.cell == "gru") call.arguments.push_back({"states", {Integers(s.Steps(s.units), 0.1f, random)}});
  if (s.cell == "lstm") {
    call.arguments.push_back({"cells", {Integers(s.Steps(s.units), 0.1f, random)}});
    call.arguments.push_back({"c0", {Integers(state, 0.1f, random)}});
  }
  AddMatrix(&call, "recurrent_", matrices[1]);
  if (s.cell == "gru") {
    const Stored& w = matrices.back();
    call.arguments.push_back({"candidate_blocks", Maybe(s.candidate, w.blocks)});
    call.arguments.push_back({"candidate_indices", Maybe(s.candidate, w.indices)});
    call.arguments.push_back({"candidate_indptr", Maybe(s.candidate, w.indptr)});
  }
  call.arguments.push_back({"mask", Maybe(random->Yes(), Bools(s.Steps(-1), random))});
  return call;
}

OpCall LowPrecisionSequence(Random* random) {
  constexpr const char* kCells[] = {"rnn", "gru", "lstm"};
  OpCall call{"BlockSparse>LowPrecisionSequence", {}, {}};
  const Layer drawn = DrawLayer(random->Of(kCells), &call, random);
  Layer s = drawn;
  s.recurrent_height = s.height;
  const DataType type = random->Yes() ? DT_INT8 : DT_BFLOAT16;
  call.attrs["cell"].set_s(s.cell);
  call.attrs["T"].set_type(type);
  call.attrs["block_height"].set_i(s.height);
  call.attrs["x_dtype"].set_s(random->Yes() ? "float32" : type == DT_INT8 ? "int8" : "bfloat16");
  std::vector<Tensor> states(s.cell == "lstm" ? 2 : 1);
  for (Tensor& state : states) state = Integers({s.batch, s.units}, 0.2f, random);
  call.arguments = {{"x", {Integers(s.Steps(s.in), 0.2f, random)}}, {"states", states}};
  std::vector<std::pair<std::string, std::vector<Tensor>>> lists = {
      {"blocks", {}}, {"indices", {}}, {"indptr", {}}, {"scales", {}}};
  for (const Stored& w : Matrices(s, 1, random)) {
    lists[0].second.push_back(Words(w.blocks, type, random));
    lists[1].second.push_back(w.indices);
    lists[2].second.push_back(w.indptr);
    const size_t m = lists[3].second.size();
    const int64_t out = s.units * (m == 2 ? 1 : m == 1 && s.candidate ? 2 : s.gates);
    lists[3].second.push_back(Integers({type == DT_INT8 ? out : 0}, 0.02f, random));
  }
  call.arguments.insert(call.arguments.end(), lists.begin(), lists.end());
  call.arguments.push_back({"bias", Maybe(random->Yes(), BiasOf(s, random))});
  call.arguments.push_back({"mask", Maybe(random->Yes(), Bools(s.Steps(-1), random))});
  return call;
}

}  // namespace

const std::vector<std::string>& AllOps() {
  static const auto* ops = new std::vector<std::string>{
      "MatMul",        "MatMulGradX",   "MatMulGradBlocks",          "Gather",  "GatherGradBlocks",
      "LowPrecisionMatMul", "DynamicMatMul", "DynamicMatMulGradInputs", "DynamicMatMulGradBlocks",
      "DynamicLowPrecisionMatMul", "ChooseBlocks", "Rnn", "Gru", "Lstm", "RnnGrad", "GruGrad", "LstmGrad",
      "LowPrecisionSequence"};
  return *ops;
}

OpCall DrawCall(const std::string& op, Random* random) {
  if (op == "ChooseBlocks") return Choose(random);
  if (op == "LowPrecisionSequence") return LowPrecisionSequence(random);
  if (op.rfind("Dynamic", 0) == 0) return Dynamic(op, random);
  if (op == "Rnn" || op == "Gru" || op == "Lstm") return Forward(op, random);
  if (op == "RnnGrad" || op == "GruGrad" || op == "LstmGrad") return Backward(op, random);
  return Static(op, random);
}

}  // namespace blocksparse_test
