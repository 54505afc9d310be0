// What the kernels on tensor cores share: two slices in shared memory, as words, multiplied by warps.
#ifndef TF_BLOCKSPARSE_CUDA_TENSOR_TILE_CUH_
#define TF_BLOCKSPARSE_CUDA_TENSOR_TILE_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/arguments.h"
#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace blocksparse {
namespace cuda {

constexpr int kTensorThreads = 128;
constexpr int kWordsDeep = 16;  // words of a slice on the axis that is summed over: two steps of a warp's

typedef Chunk<unsigned, 4> Words;

// `per_word` numbers to a word, and how chunks of 16 bytes of them are read.
template <typename Format>
struct WordsOf {
  typedef typename Format::Storage Storage;
  static constexpr int kPerWord = 4 / sizeof(Storage);
  static constexpr int kPerChunk = 4 * kPerWord;

  static DEVICE Words Load(const Storage* p, int valid, bool aligned) {
    if (aligned && valid >= kPerChunk) return *reinterpret_cast<const Words*>(p);
    Words words;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      words.at[w] = 0;
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) {
        if (w * kPerWord + i < valid) words.at[w] |= Bits(p[w * kPerWord + i]) << (16 * i);
      }
    }
    return words;
  }

  static DEVICE unsigned Bits(float value) { return __float_as_uint(value); }
  template <typename Half>
  static DEVICE unsigned Bits(Half value) {
    return value.bits;
  }

  // Number `i` of a chunk of each of kPerWord lines: the word of neighbours across the lines.
  static DEVICE unsigned Across(const Words* lines, int i) {
    if (kPerWord == 1) return lines[0].at[i];
    const unsigned low = lines[0].at[i / 2] >> (16 * (i % 2)) & 0xffffu;
    const unsigned high = lines[kPerWord - 1].at[i / 2] >> (16 * (i % 2)) & 0xffffu;
    return low | high << 16;
  }
};

// Sums of kRows x kColumns, of which each of the four warps makes a part: kWarpRows x kWarpColumns over all of the
// slice or, where there are fewer parts than warps, over a step in kDeep of it.
template <typename Format, int kRows, int kColumns>
struct TensorTile {
  static constexpr int kWarpRows = kRows < 32 ? kRows : 32;
  static constexpr int kWarpColumns = kColumns < 32 ? kColumns : 32;
  static constexpr int kAcross = kColumns / kWarpColumns;
  static constexpr int kParts = kRows / kWarpRows * kAcross;
  static constexpr int kDeep = 4 / kParts;
  static constexpr int kStride = 4;  // words more than a line has: reads of a warp then hit 32 banks
  static_assert(kParts * kDeep == 4, "the four warps share the tile evenly");

  float sums_[kWarpRows / 16][kWarpColumns / 8][4];

  // a [kRows, words] and b [kColumns, words].
  template <int kWords>
  DEVICE void Multiply(const unsigned (&a)[kRows][kWords + kStride], const unsigned (&b)[kColumns][kWords + kStride]) {
    const int warp = threadIdx.x / 32;
    const int group = threadIdx.x % 32 / 4;
    const int lane = threadIdx.x % 4;
    const int row = warp % kParts / kAcross * kWarpRows + group;
    const int column = warp % kParts % kAcross * kWarpColumns + group;
#pragma unroll
    for (int step = 0; step < kWords / 8 / kDeep; ++step) {
      const int word = (step * kDeep + warp / kParts) * 8 + lane;
      unsigned left[kWarpRows / 16][4];
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) {
        left[i][0] = a[row + 16 * i][word];
        left[i][1] = a[row + 16 * i + 8][word];
        left[i][2] = a[row + 16 * i][word + 4];
        left[i][3] = a[row + 16 * i + 8][word + 4];
      }
#pragma unroll
      for (int j = 0; j < kWarpColumns / 8; ++j) {
        const unsigned right[2] = {b[column + 8 * j][word], b[column + 8 * j][word + 4]};
#pragma unroll
        for (int i = 0; i < kWarpRows / 16; ++i) WarpMultiply(sums_[i][j], left[i], right, Format());
      }
    }
  }

  // To shared memory: the warps that share a part write it one after the other.
  DEVICE void Put(float (&tile)[kRows][kColumns + 1]) {
    const int warp = threadIdx.x / 32;
    const int row = warp % kParts / kAcross * kWarpRows + threadIdx.x % 32 / 4;
    const int column = warp % kParts % kAcross * kWarpColumns + threadIdx.x % 4 * 2;
#pragma unroll 1
    for (int turn = 0; turn < kDeep; ++turn) {
      if (warp / kParts == turn) {
#pragma unroll
        for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
          for (int j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              float& sum = tile[row + 16 * i + e / 2 * 8][column + 8 * j + e % 2];
              sum = sums_[i][j][e] + (turn == 0 ? 0.0f : sum);
            }
          }
        }
      }
      __syncthreads();
    }
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_TENSOR_TILE_CUH_
