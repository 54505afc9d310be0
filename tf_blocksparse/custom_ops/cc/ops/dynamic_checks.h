// What the ops of products with chosen blocks check on every device: all but the ids.
#ifndef TF_BLOCKSPARSE_OPS_DYNAMIC_CHECKS_H_
#define TF_BLOCKSPARSE_OPS_DYNAMIC_CHECKS_H_

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_groups.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {

// W [in_features, out_features] of the attributes.
class DynamicSizes {
 public:
  explicit DynamicSizes(tensorflow::OpKernelConstruction* construction);

  // x [batch, in_features], with `input`, or dy [batch, out_features].
  absl::Status CheckRows(const tensorflow::Tensor& tensor, const char* name, bool input) const;
  // blocks, block_ids and block_gates, the inputs from `first` on; `choices` refers to them.
  absl::Status CheckChoices(tensorflow::OpKernelContext* context, int first, int64_t batch, Grid* grid,
                            Choices* choices) const;
  // x [batch, in_features] and dy [batch, out_features], and the choices from input 2 on.
  absl::Status CheckGradient(tensorflow::OpKernelContext* context, const tensorflow::Tensor& x,
                             const tensorflow::Tensor& dy, Grid* grid, Choices* choices) const;

  int64_t out_features() const { return out_features_; }

 private:
  int64_t in_features_ = 1;
  int64_t out_features_ = 1;
};

// scores [batch, n] and the scalar k; the shape of what is chosen.
absl::Status CheckScores(tensorflow::OpKernelContext* context, tensorflow::TensorShape* chosen);

// The attribute epsilon.
absl::Status ReadEpsilon(tensorflow::OpKernelConstruction* construction, float* epsilon);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_DYNAMIC_CHECKS_H_
