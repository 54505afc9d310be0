// Hostile calls of every op, as a stranger's SavedModel or request may hold them: shapes, ranks, attributes, sizes that
// overflow, indices that are out of range, unsorted or twice there, NaN, lists that are too long. Each ends in the
// right result, exactly if plain rules say that the call is sound, or in an error that names what is wrong; the run
// under AddressSanitizer is what shows an access out of bounds.
//
//   op_fuzz_test [COUNT [SEED [OP]]]     # 40,000 calls by default, or what TF_BLOCKSPARSE_TEST_EVERY leaves of them
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "tests/cc/check.h"
#include "tests/cc/op_fuzz/op_cases.h"
#include "tests/cc/op_fuzz/op_rules.h"
#include "tests/cc/op_fuzz/op_tensors.h"
#include "tests/cc/sample.h"

namespace blocksparse_test {
namespace {

using tensorflow::Tensor;

struct Counts {
  int64_t right = 0;
  int64_t refused = 0;
};

// "got 3", "diagonal": a digit or a word in quotes.
bool NamesAValue(const std::string& text) {
  return text.find_first_of("0123456789") != std::string::npos || text.find_first_of("'\"") != std::string::npos;
}

std::string Difference(const Tensor& got, const Expected& expected) {
  if (got.shape() != expected.shape) return "shape " + got.shape().DebugString();
  if (expected.values.empty()) return "";
  const bool ids = got.dtype() == tensorflow::DT_INT32;
  const std::vector<double> floats = ids ? std::vector<double>() : Doubles(got);
  const std::vector<int64_t> longs = ids ? Longs(got) : std::vector<int64_t>();
  for (size_t i = 0; i < expected.values.size(); ++i) {
    const double value = ids ? static_cast<double>(longs[i]) : floats[i];
    if (!(std::fabs(expected.values[i]) < 1e36)) continue;
    if (!(std::fabs(value - expected.values[i]) <= expected.allowed[i])) {
      return "element " + std::to_string(i) + " is " + std::to_string(value) + ", expected " +
             std::to_string(expected.values[i]);
    }
  }
  return "";
}

// Gradients are linear in what comes from above: twice that gives twice the result, to the bit.
std::string NotLinear(const OpCall& call, const std::vector<Tensor>& outputs, Random* random) {
  OpCall twice = call;
  for (auto& [name, list] : twice.arguments) {
    if (name != "doutput" && name != "dh" && name != "dc") continue;
    Tensor larger(HeapAllocator(), list[0].dtype(), list[0].shape());
    for (int64_t i = 0; i < larger.NumElements(); ++i) {
      larger.unaligned_flat<float>()(i) = 2 * list[0].unaligned_flat<float>()(i);
    }
    list[0] = larger;
  }
  const Outcome outcome = Run(twice, random);
  if (!outcome.status.ok()) return std::string(outcome.status.message());
  for (size_t k = 0; k < outputs.size(); ++k) {
    const std::vector<double> one = Doubles(outputs[k]), two = Doubles(outcome.outputs[k]);
    for (size_t i = 0; i < one.size(); ++i) {
      const bool normal = std::fabs(one[i]) > 1e-30 && std::fabs(one[i]) < 1e30;
      if (normal && two[i] != 2 * one[i]) return "output " + std::to_string(k) + " is not linear";
    }
  }
  return "";
}

// What is wrong, or empty; counts.
std::string Check(const OpCall& call, Random* random, Counts* counts) {
  const std::optional<std::vector<Expected>> expected = Expect(call);
  const Outcome outcome = Run(call, random);
  const std::string shapes(outcome.shapes.message()), message(outcome.status.message());
  if (!expected.has_value()) {
    ++counts->refused;
    if (outcome.status.ok()) return "not sound, but computed";
    if (!absl::IsInvalidArgument(outcome.status) && !absl::IsResourceExhausted(outcome.status)) {
      return "another error than InvalidArgument: " + outcome.status.ToString();
    }
    return NamesAValue(message) ? "" : "names no value: " + message;
  }
  ++counts->right;
  if (!outcome.shapes.ok()) return "the shape function refuses what is sound: " + shapes;
  if (!outcome.status.ok()) return "refused, but sound: " + message;
  if (!outcome.fits) return "the shape function said another shape";
  if (outcome.outputs.size() != expected->size()) return std::to_string(outcome.outputs.size()) + " outputs";
  for (size_t i = 0; i < expected->size(); ++i) {
    const std::string difference = Difference(outcome.outputs[i], (*expected)[i]);
    if (!difference.empty()) return "output " + std::to_string(i) + ": " + difference;
  }
  const bool gradient = call.op.size() > 4 && call.op.substr(call.op.size() - 4) == "Grad";
  return gradient && AllSmall(call) ? NotLinear(call, outcome.outputs, random) : "";
}

void Fuzz(int64_t count, uint64_t seed, const std::string& only, Sample* sample) {
  std::map<std::string, Counts> counts;
  for (int64_t number = 0; number < count; ++number) {
    if (sample != nullptr && !sample->Takes()) continue;
    Random random(seed * 1000000007 + static_cast<uint64_t>(number));  // a case can be run again by itself
    const std::string op = only.empty() ? random.Of(AllOps()) : only;
    OpCall call = DrawCall(op, &random);
    const int64_t spoilt = random.Below(4);
    for (int64_t i = 0; i < spoilt; ++i) Spoil(&call, &random);
    if (std::getenv("TF_BLOCKSPARSE_FUZZ_TRACE") != nullptr) {
      std::fprintf(stderr, "case %lld: %s\n", static_cast<long long>(number), call.DebugString().c_str());
    }
    if (number % 100000 == 99999) std::fprintf(stderr, "%lld calls\n", static_cast<long long>(number + 1));
    const std::string wrong = Check(call, &random, &counts[op]);
    CHECK_TRUE(wrong.empty(), "seed " + std::to_string(seed) + ", case " + std::to_string(number) + ": " + wrong + "\n" +
                                  call.DebugString());
  }
  for (const auto& [op, c] : counts) {
    std::printf("%-26s %9lld right %9lld refused\n", op.c_str(), static_cast<long long>(c.right),
                static_cast<long long>(c.refused));
    // A fuzzer that draws nothing sound, or nothing else, looks at half of the code.
    if (count >= 10000) CHECK_TRUE(c.right > 20 && c.refused > 20, op);
  }
}

}  // namespace
}  // namespace blocksparse_test

int main(int argc, char** argv) {
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 40000;
  blocksparse_test::Sample sample("op_fuzz");
  blocksparse_test::Fuzz(count, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1, argc > 3 ? argv[3] : "",
                         argc > 1 ? nullptr : &sample);
  return blocksparse_test::Finish();
}
