#include "tests/cc/op_fuzz/op_cases.h"
#include "tests/cc/op_fuzz/op_tensors.h"

namespace blocksparse_test {
namespace {

using namespace tensorflow;

// None is so large that it may be sound and takes gigabytes, which is left to the allocator to refuse.
constexpr int64_t kHostileAttrs[] = {-(int64_t{1} << 62), -1, 0, 1, 2, 3, 5, 24, int64_t{1} << 31, int64_t{1} << 33,
                                     int64_t{1} << 62, INT64_MAX};
constexpr const char* kWords[] = {"row", "column", "diagonal", "", "linear", "relu", "tanh", "sigmoid", "gelu",
                                  "float32", "bfloat16", "int8", "float64", "rnn", "gru", "lstm"};
constexpr float kFloats[] = {0.0f, -1.0f, 1e-30f, 1e30f};

void SpoilAttr(OpCall* call, Random* random) {
  auto at = call->attrs.begin();
  std::advance(at, random->Below(static_cast<int64_t>(call->attrs.size())));
  AttrValue& value = at->second;
  switch (value.value_case()) {
    case AttrValue::kI: value.set_i(random->Of(kHostileAttrs)); break;
    case AttrValue::kS: value.set_s(random->Of(kWords)); break;
    case AttrValue::kB: value.set_b(!value.b()); break;
    case AttrValue::kF: value.set_f(random->Of(kFloats)); break;
    default: break;  // a type: TensorFlow itself sees that tensors have it
  }
}

// Lists that have one number attribute grow and shrink together, as a graph cannot say otherwise.
std::vector<std::string> Together(const OpCall& call, const std::string& name) {
  if (name == "blocks" || name == "indices" || name == "indptr" || name == "scales") {
    if (call.op == "BlockSparse>LowPrecisionSequence") return {"blocks", "indices", "indptr", "scales"};
    return {};
  }
  if (name.rfind("candidate_", 0) == 0) return {"candidate_blocks", "candidate_indices", "candidate_indptr"};
  if (name == "mask") return {name};
  if (name == "states" && call.op == "BlockSparse>LowPrecisionSequence") return {name};
  if (name == "bias" && call.op != "BlockSparse>LowPrecisionMatMul") return {name};
  return {};
}

void SpoilList(OpCall* call, Random* random) {
  const auto& argument = call->arguments[random->Below(static_cast<int64_t>(call->arguments.size()))];
  const bool longer = random->Yes();
  for (const std::string& name : Together(*call, argument.first)) {
    std::vector<Tensor>& list = call->List(name);
    if (list.empty()) continue;
    if (longer) {
      list.push_back(list.back());
    } else {
      list.pop_back();
    }
  }
}

// Patterns are what the kernels index with: they are spoilt as often as all else.
bool IsPattern(const std::string& name) {
  return name.find("ind") != std::string::npos || name.find("ids") != std::string::npos || name == "k";
}

void SpoilTensor(OpCall* call, bool pattern, Random* random) {
  for (int tries = 0; tries < 20; ++tries) {
    auto& argument = call->arguments[random->Below(static_cast<int64_t>(call->arguments.size()))];
    if (argument.second.empty() || (pattern && !IsPattern(argument.first))) continue;
    Tensor& tensor = argument.second[random->Below(static_cast<int64_t>(argument.second.size()))];
    tensor = Spoilt(tensor, random);
    return;
  }
}

}  // namespace

void Spoil(OpCall* call, Random* random) {
  const int64_t kind = random->Below(10);
  if (kind < 2 && !call->attrs.empty()) return SpoilAttr(call, random);
  if (kind == 2) return SpoilList(call, random);
  SpoilTensor(call, kind > 5, random);
}

}  // namespace blocksparse_test
