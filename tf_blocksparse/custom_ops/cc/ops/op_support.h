// What the ops share: checks of untrusted inputs, and TensorFlow's threads for the kernels' drivers.
#ifndef TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_
#define TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_

#include <cstdint>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"
#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

// OK for an empty text, else InvalidArgument.
absl::Status InvalidIf(const std::string& error);

// "x must have shape [batch, in_features], got shape [3]".
absl::Status CheckRank(const tensorflow::Tensor& tensor, int rank, const char* name, const char* meaning);

// `tensor`'s dimension `axis` has to be `expected`, which is `what`.
absl::Status CheckDim(const tensorflow::Tensor& tensor, int axis, const char* name, int64_t expected,
                      const char* what);

// blocks [num_blocks, height, width], indices [num_blocks], indptr [block rows + 1].
absl::Status CheckBsrShapes(const tensorflow::Tensor& blocks, const tensorflow::Tensor& indices,
                            const tensorflow::Tensor& indptr);

// The best kernels that this machine and TF_BLOCKSPARSE_MAX_ISA allow.
absl::Status GetTable(const KernelTable** table);

// The intra-op threads of the op's device.
int64_t NumThreads(tensorflow::OpKernelContext* context);
ParallelFor IntraOpParallelFor(tensorflow::OpKernelContext* context);

// Scratch memory from TensorFlow's allocator, which says so when there is none; kept alive by `holder`.
absl::Status AllocateWorkspace(tensorflow::OpKernelContext* context, int64_t floats, tensorflow::Tensor* holder,
                               float** workspace);

// --- For shape functions.

// Ranks of blocks (input `first`), indices and indptr, their common number of blocks, and that indptr fits
// `in_features` where both are known. Sets height and width.
absl::Status BsrShapes(tensorflow::shape_inference::InferenceContext* c, int first,
                       tensorflow::shape_inference::DimensionOrConstant in_features);

// That indptr (input `input`) has ceil(in_features / height) + 1 elements, where these are known.
absl::Status IndptrShape(tensorflow::shape_inference::InferenceContext* c, int input,
                         tensorflow::shape_inference::DimensionOrConstant in_features, int64_t height);

absl::Status CheckGates(int64_t out_features, int64_t gates);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_
