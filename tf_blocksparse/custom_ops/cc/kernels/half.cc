#include "tf_blocksparse/custom_ops/cc/kernels/half.h"

#include <cstring>

namespace blocksparse {
namespace {

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t size = half & 0x7fffu;
  if (size >= 0x7c00u) return FloatOf(sign | 0x7f800000u | (size & 0x3ffu) << 13);
  if (size >= 0x400u) return FloatOf(sign | ((size << 13) + (112u << 23)));  // exponents from -15 on, not from -127
  // Not by way of a float with a denormal, which TensorFlow's threads take for zero.
  return FloatOf(sign | BitsOf(static_cast<float>(size) * 0x1p-24f));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520, half way to what would come next
  if (size < 0x38800000u) {
    // Below 2^-14 a half counts in steps of 2^-24, which are the last bits of a float beside 0.5.
    return static_cast<uint16_t>(sign | (BitsOf(FloatOf(size) + 0.5f) - BitsOf(0.5f)));
  }
  const uint32_t rounded = size + 0xfffu + (size >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

float BfloatToFloat(uint16_t value) { return FloatOf(static_cast<uint32_t>(value) << 16); }

uint16_t FloatToBfloat(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace

void ToFloats(Number number, const void* from, int64_t count, float* to) {
  const auto* values = static_cast<const uint16_t*>(from);
  const bool half = number == Number::kFloat16;
  for (int64_t i = 0; i < count; ++i) to[i] = half ? HalfToFloat(values[i]) : BfloatToFloat(values[i]);
}

void FromFloats(Number number, const float* from, int64_t count, void* to) {
  auto* values = static_cast<uint16_t*>(to);
  const bool half = number == Number::kFloat16;
  for (int64_t i = 0; i < count; ++i) values[i] = half ? FloatToHalf(from[i]) : FloatToBfloat(from[i]);
}

}  // namespace blocksparse
