// Numbers of 16 bits, in another way than the kernels make them: by looking for the nearest.
#ifndef TF_BLOCKSPARSE_TESTS_CUDA_NUMBERS_H_
#define TF_BLOCKSPARSE_TESTS_CUDA_NUMBERS_H_

#include <cmath>
#include <cstdint>

namespace blocksparse_test {

// A number with so many bits of exponent and of fraction.
template <int kExponent, int kFraction>
double BitsValue(uint16_t bits) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  const int exponent = bits >> kFraction & ((1 << kExponent) - 1);
  const int fraction = bits & ((1 << kFraction) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << kExponent) - 1) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - kBias - kFraction);
  return sign * std::ldexp(fraction + (1 << kFraction), exponent - kBias - kFraction);
}

// The nearest, of two equally near ones that with an even fraction.
template <int kExponent, int kFraction>
uint16_t NearestBits(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = ((1 << kExponent) - 1) << kFraction;
  if (value != value) return sign | infinity | 1;
  const double size = std::fabs(value);
  uint16_t low = 0, high = infinity;  // positive numbers are in the order of their bits
  while (high - low > 1) {
    const uint16_t middle = (low + high) / 2;
    (BitsValue<kExponent, kFraction>(middle) <= size ? low : high) = middle;
  }
  const double below = BitsValue<kExponent, kFraction>(low);
  // Infinity is where the next number would be.
  const double above = high == infinity ? 2 * below - BitsValue<kExponent, kFraction>(low - 1)
                                        : BitsValue<kExponent, kFraction>(high);
  const double down = size - below, up = above - size;
  return sign | (down < up || (down == up && low % 2 == 0) ? low : high);
}

inline uint16_t HalfBits(double value) { return NearestBits<5, 10>(value); }
inline float HalfValue(uint16_t bits) { return static_cast<float>(BitsValue<5, 10>(bits)); }
inline uint16_t BFloat16Bits(double value) { return NearestBits<8, 7>(value); }
inline float BFloat16Value(uint16_t bits) { return static_cast<float>(BitsValue<8, 7>(bits)); }

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_CUDA_NUMBERS_H_
