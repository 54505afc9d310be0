#include <cmath>

#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

namespace blocksparse {
namespace {

template <typename Function>
void Apply(float* y, int64_t features, const float* bias, const Function& function) {
  if (bias == nullptr) {
    for (int64_t c = 0; c < features; ++c) y[c] = function(y[c]);
  } else {
    for (int64_t c = 0; c < features; ++c) y[c] = function(y[c] + bias[c]);
  }
}

}  // namespace

void FinishLowPrecision(float* y, int64_t stride, int64_t rows, int64_t features, const float* bias,
                        LowPrecisionActivation activation) {
  if (bias == nullptr && activation == LowPrecisionActivation::kLinear) return;
  for (int64_t r = 0; r < rows; ++r, y += stride) {
    switch (activation) {
      case LowPrecisionActivation::kLinear:
        Apply(y, features, bias, [](float v) { return v; });
        break;
      case LowPrecisionActivation::kRelu:
        Apply(y, features, bias, [](float v) { return v < 0.0f ? 0.0f : v; });  // NaN stays NaN
        break;
      case LowPrecisionActivation::kTanh:
        Apply(y, features, bias, [](float v) { return std::tanh(v); });
        break;
      case LowPrecisionActivation::kSigmoid:
        Apply(y, features, bias, [](float v) { return 1.0f / (1.0f + std::exp(-v)); });
        break;
    }
  }
}

}  // namespace blocksparse
