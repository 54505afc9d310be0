// What the forward and the gradient ops of recurrent layers share.
#ifndef TF_BLOCKSPARSE_OPS_SEQUENCE_OP_H_
#define TF_BLOCKSPARSE_OPS_SEQUENCE_OP_H_

#include <memory>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {

constexpr const char* kActivationAttr = "activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'tanh'";
constexpr const char* kRecurrentActivationAttr =
    "recurrent_activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'sigmoid'";

// Reads inputs of a call one after the other; the first error stays.
class SequenceCall {
 public:
  explicit SequenceCall(tensorflow::OpKernelContext* context) : context_(context) {}

  // An input of this rank and shape, of which -1 is any size; `meaning` says what the shape should be.
  const tensorflow::Tensor* Input(const char* name, std::initializer_list<int64_t> shape, const char* meaning);
  // That of a list of none or one; null where there is none.
  const tensorflow::Tensor* Optional(const char* name, std::initializer_list<int64_t> shape, const char* meaning);
  // The blocks of the matrix whose three inputs begin with `prefix`, and its index.
  template <typename Index>
  const tensorflow::Tensor* Matrix(const std::string& prefix, bool optional, int64_t in_features, int64_t out_features,
                                   int64_t gates, IndexCache<Index>* cache, std::shared_ptr<const Index>* index) {
    MatrixInputs matrix;
    if (!FindMatrix(prefix, optional, in_features, out_features, gates, &matrix)) return nullptr;
    const absl::Status status = cache->Get(matrix.grid, *matrix.indices, *matrix.indptr, index);
    return RequireMatrix(prefix, status) ? matrix.blocks : nullptr;
  }

  void Require(absl::Status status) { status_.Update(status); }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  struct MatrixInputs {
    const tensorflow::Tensor* blocks;
    const tensorflow::Tensor* indices;
    const tensorflow::Tensor* indptr;
    Grid grid;
  };
  // False if there is none, or not such a one.
  bool FindMatrix(const std::string& prefix, bool optional, int64_t in_features, int64_t out_features, int64_t gates,
                  MatrixInputs* matrix);
  bool RequireMatrix(const std::string& prefix, const absl::Status& status);
  const tensorflow::Tensor* Checked(const tensorflow::Tensor* tensor, const char* name,
                                    std::initializer_list<int64_t> shape, const char* meaning);
  const tensorflow::Tensor* Find(const std::string& name, bool optional);

  tensorflow::OpKernelContext* context_;
  absl::Status status_;
};

inline const float* Floats(const tensorflow::Tensor* tensor) {
  return tensor == nullptr ? nullptr : tensor->unaligned_flat<float>().data();
}

// What the checks of a sequence read of a matrix: of each kind of index.
inline const BlockIndex* ShapeOf(const BlockIndex* index) { return index; }

// The attributes; what depends on the inputs is set by each call.
absl::Status ReadSequence(tensorflow::OpKernelConstruction* construction, Cell cell, Sequence* sequence);

// The bias; that of a GRU without candidate is two, of x and of h.
void ReadBias(SequenceCall* call, const Sequence& sequence, int64_t units, bool candidate, SequenceInputs* inputs);

// The mask that a call has, or null.
const bool* ReadMask(SequenceCall* call, const Sequence& sequence);

// Allocates output number `index`, and counts on.
absl::Status AllocateNext(tensorflow::OpKernelContext* context, const tensorflow::TensorShape& shape, int* index,
                          float** data);

// [batch, time, features] in the order of the op's arrays.
tensorflow::TensorShape TimeShape(const Sequence& sequence, int64_t features);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_SEQUENCE_OP_H_
