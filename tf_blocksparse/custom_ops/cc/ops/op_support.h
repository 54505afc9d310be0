// What the ops share: checks of untrusted inputs, and TensorFlow's threads for the kernels' drivers.
#ifndef TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_
#define TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_

#include <cstdint>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"
#include "tf_blocksparse/custom_ops/cc/kernels/epilogue.h"
#include "tf_blocksparse/custom_ops/cc/kernels/half.h"
#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/team.h"

namespace blocksparse {

// OK for an empty text, else InvalidArgument.
absl::Status InvalidIf(const std::string& error);

// "x must have shape [batch, in_features], got shape [3]".
absl::Status CheckRank(const tensorflow::Tensor& tensor, int rank, const char* name, const char* meaning);

// `tensor`'s dimension `axis` has to be `expected`, which is `what`.
absl::Status CheckDim(const tensorflow::Tensor& tensor, int axis, const char* name, int64_t expected,
                      const char* what);

// blocks [num_blocks, height, width], indices [num_blocks], indptr [lines + 1].
absl::Status CheckBsrShapes(const tensorflow::Tensor& blocks, const tensorflow::Tensor& indices,
                            const tensorflow::Tensor& indptr);

// Of the values of the ops' attribute `activation`.
Activation ActivationOf(const std::string& name);

// The attributes `activation` and `num_biases`, which may be one at most.
absl::Status ReadActivation(tensorflow::OpKernelConstruction* construction, Activation* activation);

// The attribute `T`, the type of all numbers of a product.
absl::Status ReadNumber(tensorflow::OpKernelConstruction* construction, Number* number);

// The epilogue of a product; its bias [out_features] is the input of number `bias`, the last, if there is one. Of another
// type than float32 it is the memory of that input, for those alone who know what is in it.
absl::Status ReadEpilogue(tensorflow::OpKernelContext* context, int bias, int64_t out_features, Activation activation,
                          Epilogue* epilogue);

// The best kernels that this machine and TF_BLOCKSPARSE_MAX_ISA allow.
absl::Status GetTable(const KernelTable** table);

// The intra-op threads of the op's device.
int64_t NumThreads(tensorflow::OpKernelContext* context);
ParallelFor IntraOpParallelFor(tensorflow::OpKernelContext* context);
RunTeam IntraOpTeam(tensorflow::OpKernelContext* context);

// Scratch memory from TensorFlow's allocator, which says so when there is none; kept alive by `holder`.
absl::Status AllocateWorkspace(tensorflow::OpKernelContext* context, int64_t floats, tensorflow::Tensor* holder,
                               float** workspace);

// The numbers of an input as float32: the input itself where it is, else a copy, kept alive by `holder`.
absl::Status ReadFloats(tensorflow::OpKernelContext* context, Number number, const tensorflow::Tensor& tensor,
                        tensorflow::Tensor* holder, const float** floats);

// Where float32 results go that WriteFloats() rounds to `output`: its own memory if it is float32.
absl::Status AllocateFloats(tensorflow::OpKernelContext* context, Number number, const tensorflow::Tensor& output,
                            tensorflow::Tensor* holder, float** floats);
void WriteFloats(Number number, const float* floats, const tensorflow::Tensor& output);

// --- For shape functions.

// Ranks of blocks (input `first`), indices and indptr, their common number of blocks, and that indptr fits the matrix
// [in_features, out_features] of the attributes `gates` and `order`, by default 1 and row, where all is known.
absl::Status MatrixShapes(tensorflow::shape_inference::InferenceContext* c, int first,
                          tensorflow::shape_inference::DimensionOrConstant in_features,
                          tensorflow::shape_inference::DimensionOrConstant out_features);

// The same with gates and order given: by_row says what indptr counts.
absl::Status MatrixShapes(tensorflow::shape_inference::InferenceContext* c, int first,
                          tensorflow::shape_inference::DimensionOrConstant in_features,
                          tensorflow::shape_inference::DimensionOrConstant out_features, int64_t gates, bool by_row);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_OP_SUPPORT_H_
