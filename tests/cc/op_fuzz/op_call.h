// A call of one op, and what comes of it: attributes, shape function, kernel and result, in this process.
#ifndef TF_BLOCKSPARSE_TESTS_OP_CALL_H_
#define TF_BLOCKSPARSE_TESTS_OP_CALL_H_

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/core/framework/allocator.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse_test {

class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits_() % static_cast<uint64_t>(n)); }
  bool Yes() { return Below(2) == 0; }
  template <typename List>
  auto Of(const List& list) {
    return *(std::begin(list) + Below(static_cast<int64_t>(std::size(list))));
  }

 private:
  std::mt19937_64 bits_;
};

// Gives every tensor a piece of the heap of its own, so that AddressSanitizer sees what is next to it; refuses more than
// 64 MiB.
tensorflow::Allocator* HeapAllocator();

// Arguments in the op's order; that of a list has any number of tensors, the others one.
struct OpCall {
  std::string op;
  std::vector<std::pair<std::string, std::vector<tensorflow::Tensor>>> arguments;
  std::map<std::string, tensorflow::AttrValue> attrs;

  const std::vector<tensorflow::Tensor>& List(const std::string& name) const;
  std::vector<tensorflow::Tensor>& List(const std::string& name);
  const tensorflow::Tensor& One(const std::string& name) const { return List(name)[0]; }
  int64_t Int(const std::string& name) const { return attrs.at(name).i(); }
  bool Bool(const std::string& name) const { return attrs.at(name).b(); }
  const std::string& Word(const std::string& name) const { return attrs.at(name).s(); }
  std::string DebugString() const;
};

struct Outcome {
  absl::Status shapes;  // of the shape function, with shapes that are known in part
  absl::Status status;  // of the attributes, the kernel's construction and its run
  std::vector<tensorflow::Tensor> outputs;
  bool fits = true;  // the outputs' shapes are what the shape function said
};

// Runs it on a small CPU device with two threads.
Outcome Run(const OpCall& call, Random* random);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_OP_CALL_H_
