// Numbers of 16 bits: from and to float32, in memory. What multiplies is float32.
#ifndef TF_BLOCKSPARSE_KERNELS_HALF_H_
#define TF_BLOCKSPARSE_KERNELS_HALF_H_

#include <cstdint>

namespace blocksparse {

enum class Number { kFloat32, kFloat16, kBfloat16 };

// Exact. `number` is one of the two of 16 bits.
void ToFloats(Number number, const void* from, int64_t count, float* to);

// To the nearest, ties to even; NaN stays NaN.
void FromFloats(Number number, const float* from, int64_t count, void* to);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_HALF_H_
