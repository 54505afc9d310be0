// Random tensors, and what spoils them.
#ifndef TF_BLOCKSPARSE_TESTS_OP_TENSORS_H_
#define TF_BLOCKSPARSE_TESTS_OP_TENSORS_H_

#include <vector>

#include "tests/cc/op_fuzz/op_call.h"

namespace blocksparse_test {

// Integers from -4 to 4, times `scale`.
tensorflow::Tensor Integers(const tensorflow::TensorShape& shape, float scale, Random* random);
// The same as bfloat16 or int8.
tensorflow::Tensor Narrow(const tensorflow::TensorShape& shape, tensorflow::DataType type, Random* random);
tensorflow::Tensor Bools(const tensorflow::TensorShape& shape, Random* random);
tensorflow::Tensor Ids(int64_t count, int64_t below, tensorflow::DataType type, Random* random);
tensorflow::Tensor Ints(const std::vector<int32_t>& values);
tensorflow::Tensor Reshaped(const tensorflow::Tensor& tensor, const tensorflow::TensorShape& shape);

// Numbers of any type, in double.
std::vector<double> Doubles(const tensorflow::Tensor& tensor);
std::vector<int64_t> Longs(const tensorflow::Tensor& tensor);

// Another shape, or other numbers.
tensorflow::Tensor Spoilt(const tensorflow::Tensor& tensor, Random* random);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_OP_TENSORS_H_
