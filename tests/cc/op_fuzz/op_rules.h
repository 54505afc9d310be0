// What a call of an op has to answer, by plain loops and rules that share no code with the ops.
#ifndef TF_BLOCKSPARSE_TESTS_OP_RULES_H_
#define TF_BLOCKSPARSE_TESTS_OP_RULES_H_

#include <optional>
#include <string>
#include <vector>

#include "tests/cc/op_fuzz/op_call.h"

namespace blocksparse_test {

// An output: its shape, and what its numbers are and how far they may be off. No numbers: they may be any.
// Numbers that are not finite, or hardly in float32, may be any as well: sums overflow in one order and not in another.
struct Expected {
  tensorflow::TensorShape shape;
  std::vector<double> values;
  std::vector<double> allowed;
};

// Null if the call is not sound.
std::optional<std::vector<Expected>> Expect(const OpCall& call);

// --- What the rules share.

// A stored number that lies in the matrix: element `at` of the blocks' tensor, in [row, column] of the matrix.
struct Element {
  int64_t at, row, column;
  double value;
};

struct Sizes {
  int64_t in, out, gates;
  bool by_row;
};

// `values` of blocks [n, height, width] whose numbers are stored where `place(k, r, c)` says. False if it is no pattern.
using Place = std::function<int64_t(int64_t k, int64_t r, int64_t c)>;
bool ReadElements(const std::vector<double>& values, int64_t n, int64_t height, int64_t width,
                  const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr, const Sizes& sizes,
                  const Place& place, std::vector<Element>* elements);
// The same of float blocks.
bool ReadMatrix(const tensorflow::Tensor& blocks, const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr,
                const Sizes& sizes, std::vector<Element>* elements);
// The same of blocks in words.
bool ReadWords(const tensorflow::Tensor& blocks, const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr,
               const tensorflow::Tensor& scales, int64_t height, const Sizes& sizes, std::vector<Element>* elements);

bool IsActivation(const std::string& name);
double Activate(const std::string& name, double z);
// x may be rounded to the blocks' type or not at all.
bool IsXType(const std::string& x_dtype, tensorflow::DataType type);

// All numbers of all arguments are finite and none is large.
bool AllSmall(const OpCall& call);

std::optional<std::vector<Expected>> ExpectSequence(const OpCall& call);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_OP_RULES_H_
