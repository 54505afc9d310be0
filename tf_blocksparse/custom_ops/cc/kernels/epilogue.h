// What is done to y before it leaves the cache: activation(y + bias).
#ifndef TF_BLOCKSPARSE_KERNELS_EPILOGUE_H_
#define TF_BLOCKSPARSE_KERNELS_EPILOGUE_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"

namespace blocksparse {

struct Epilogue {
  const float* bias = nullptr;  // [features of y], or null
  Activation activation = Activation::kLinear;

  bool empty() const { return bias == nullptr && activation == Activation::kLinear; }

  // To `features` of y from `first` on; y points at the first of them in the first row, and has `stride` features.
  void Apply(const KernelTable& table, float* y, int64_t stride, int64_t rows, int64_t first, int64_t features) const {
    if (empty()) return;
    table.finish(y, stride, rows, features, bias == nullptr ? nullptr : bias + first, activation);
  }
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_EPILOGUE_H_
