// What the ops of the three products are told about a matrix by their attributes, and the checks that follow from it.
#ifndef TF_BLOCKSPARSE_OPS_STORED_MATRIX_H_
#define TF_BLOCKSPARSE_OPS_STORED_MATRIX_H_

#include <cstdint>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {

class StoredMatrix {
 public:
  explicit StoredMatrix(tensorflow::OpKernelConstruction* construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("gates", &gates_));
    OP_REQUIRES_OK(construction, construction->GetAttr("out_features", &out_features_));
    std::string order;
    OP_REQUIRES_OK(construction, construction->GetAttr("order", &order));
    order_ = order == "row" ? Order::kRow : Order::kColumn;
  }

  absl::Status MakeGrid(const tensorflow::Tensor& blocks, int64_t in_features, Grid* grid) const {
    return InvalidIf(blocksparse::MakeGrid(in_features, out_features_, gates_, blocks.dim_size(1), blocks.dim_size(2),
                                           grid));
  }

  // x [batch, in_features] and dy [batch, out_features].
  absl::Status CheckPair(const tensorflow::Tensor& x, const tensorflow::Tensor& dy) const {
    TF_RETURN_IF_ERROR(CheckRank(x, 2, "x", "[batch, in_features]"));
    TF_RETURN_IF_ERROR(CheckRank(dy, 2, "dy", "[batch, out_features]"));
    TF_RETURN_IF_ERROR(CheckDim(dy, 0, "dy", x.dim_size(0), "the batch, as in x"));
    return CheckDim(dy, 1, "dy", out_features_, "out_features");
  }

  absl::Status CheckPattern(const Grid& grid, const tensorflow::Tensor& indices,
                            const tensorflow::Tensor& indptr) const {
    return InvalidIf(CheckBsr(grid, order_, indptr.unaligned_flat<int32_t>().data(), indptr.NumElements(),
                              indices.unaligned_flat<int32_t>().data(), indices.NumElements()));
  }

  int64_t out_features() const { return out_features_; }
  Order order() const { return order_; }

 private:
  int64_t gates_ = 1;
  int64_t out_features_ = 1;
  Order order_ = Order::kRow;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_STORED_MATRIX_H_
