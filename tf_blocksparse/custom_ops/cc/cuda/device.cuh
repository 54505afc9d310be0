// The words that all kernels are written in: number formats, chunks of memory, matrix multiplication by a warp.
//
// The kernels are compiled by NVRTC, without any header of CUDA's, and for tests by a C++ compiler against
// tests/cc/cuda_emulator.h, which has what a device has: threads, barriers, and the few instructions that are asked
// for by name here.
#ifndef TF_BLOCKSPARSE_CUDA_DEVICE_CUH_
#define TF_BLOCKSPARSE_CUDA_DEVICE_CUH_

#ifndef __CUDACC_RTC__
#include "tests/cc/cuda_emulator.h"
#endif

#define DEVICE __device__ __forceinline__

namespace blocksparse {
namespace cuda {

// --- Number formats. Sums are always float.
struct Float32 {
  typedef float Storage;
};
struct Tf32 {  // float in memory; tensor cores round its fraction to 10 bits
  typedef float Storage;
};
struct Float16 {
  struct Storage {
    unsigned short bits;
  };
};
struct BFloat16 {
  struct Storage {
    unsigned short bits;
  };
};

DEVICE float ToFloat(float value) { return value; }
DEVICE float ToFloat(BFloat16::Storage value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
DEVICE float ToFloat(Float16::Storage value) {
#ifdef __CUDACC_RTC__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return cuda_emulator::HalfToFloat(value.bits);
#endif
}

DEVICE void FromFloat(float value, float* result) { *result = value; }
// To the nearest, ties to even; by hand, since the instruction begins with sm_80.
DEVICE void FromFloat(float value, BFloat16::Storage* result) {
  const unsigned bits = __float_as_uint(value);
  const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  result->bits = static_cast<unsigned short>(value != value ? 0x7fc0u : rounded);
}
DEVICE void FromFloat(float value, Float16::Storage* result) {
#ifdef __CUDACC_RTC__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result->bits) : "f"(value));
#else
  result->bits = cuda_emulator::FloatToHalf(value);
#endif
}

// --- Chunks: neighbours in memory that one instruction moves, or two where they are more than 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Chunk {
  T at[kCount];
};

template <typename T>
DEVICE T Zero() {
  return T();
}

// `valid` elements from p, then zeros; `aligned` promises that a whole chunk can be read at once.
template <typename T, int kCount>
DEVICE Chunk<T, kCount> LoadChunk(const T* p, int valid, bool aligned) {
  if (aligned && valid >= kCount) return *reinterpret_cast<const Chunk<T, kCount>*>(p);
  Chunk<T, kCount> chunk;
#pragma unroll
  for (int i = 0; i < kCount; ++i) chunk.at[i] = i < valid ? p[i] : Zero<T>();
  return chunk;
}

// --- Tensor cores: c[16 rows, 8 columns] += a b, by the 32 threads of a warp. A word is one float, or two numbers of
// 16 bits that are neighbours on the axis that is summed over, of which there are 8 words. Thread `lane` holds, with
// g = lane / 4 and t = lane % 4, of a [16, words]: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); of b
// [columns, words]: (g, t), (g, t + 4); of c: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). This is what
// the PTX manual, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8", says of f16, bf16 and tf32 alike.
#ifdef __CUDACC_RTC__
#define BLOCKSPARSE_MMA(instruction)                                                                            \
  asm("mma.sync.aligned." instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                          \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#if __CUDA_ARCH__ >= 800
DEVICE void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Float16) {
  BLOCKSPARSE_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
DEVICE void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], BFloat16) {
  BLOCKSPARSE_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
DEVICE void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Tf32) {
  BLOCKSPARSE_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#elif __CUDA_ARCH__ >= 750
// Turing has half of it in an instruction.
DEVICE void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Float16) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
}
#endif
#else
template <typename Format>
void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Format) {
  cuda_emulator::WarpMultiply<sizeof(typename Format::Storage) == 2 ? 2 : 1>(c, a, b, [](unsigned word, int part) {
    if (sizeof(typename Format::Storage) == 4) return __uint_as_float(word & 0xffffe000u);
    typename Format::Storage value;
    const unsigned short bits = static_cast<unsigned short>(word >> (16 * part));
    __builtin_memcpy(&value, &bits, sizeof(bits));
    return ToFloat(value);
  });
}
#endif

// A word as tensor cores take it: tf32 rounded to the nearest, all others as they are.
template <typename Format>
DEVICE unsigned TensorWord(unsigned word, Format) {
  return word;
}
DEVICE unsigned TensorWord(unsigned word, Tf32) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
  unsigned result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(__uint_as_float(word)));
  return result;
#else
  const bool finite = (word & 0x7f800000u) != 0x7f800000u;
  return finite ? (word + 0x1000u) & 0xffffe000u : word;
#endif
}

// --- Shared memory. A kernel declares one struct of all that it shares: the emulator then knows how large it is, fills
// it with NaN before each thread block, and sees what is read or written past it.
template <typename Layout>
DEVICE Layout& SharedMemory() {
#ifdef __CUDACC_RTC__
  __shared__ __align__(16) unsigned char memory[sizeof(Layout)];
  return *reinterpret_cast<Layout*>(memory);
#else
  return *static_cast<Layout*>(cuda_emulator::SharedMemory(sizeof(Layout)));
#endif
}

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DEVICE_CUH_
