// Which blocks an example wants: the largest of its gates. A thread block an example.
//
// The smallest gate that is kept is found digit by digit, eight bits at a time from the highest, by counting how many
// gates have which digit behind those that are known.
#ifndef TF_BLOCKSPARSE_CUDA_CHOOSE_BLOCKS_CUH_
#define TF_BLOCKSPARSE_CUDA_CHOOSE_BLOCKS_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_arguments.h"

namespace blocksparse {
namespace cuda {

struct ChooseBlocks {
  static constexpr int kThreads = 256;  // as many as an eight-bit digit has values

  struct Shared {
    double sums[kThreads];
    int counts[kThreads];
    unsigned key;
    int equal;
  };

  // The smallest key that is kept, and how many that are equal to it.
  struct Threshold {
    unsigned key;
    int equal;
  };

  // In the order of max(score, 0), to the last bit; NaN is larger than any number.
  static DEVICE unsigned Key(float score) {
    const unsigned bits = __float_as_uint(score);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
    return bits >> 31 ? 0u : bits;
  }

  static DEVICE Threshold Find(const ChooseArgs& args, const float* scores, Shared& shared) {
    Threshold found = {0, args.count};
#pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
      const unsigned known = shift == 24 ? 0u : ~0u << (shift + 8);
      shared.counts[threadIdx.x] = 0;
      __syncthreads();
      for (int i = threadIdx.x; i < args.blocks; i += kThreads) {
        const unsigned key = Key(scores[i]);
        if ((key & known) == found.key) atomicAdd(&shared.counts[key >> shift & 0xffu], 1);
      }
      __syncthreads();
      int larger = 0;
      for (int digit = threadIdx.x + 1; digit < kThreads; ++digit) larger += shared.counts[digit];
      if (larger < found.equal && larger + shared.counts[threadIdx.x] >= found.equal) {  // one thread
        shared.key = found.key | static_cast<unsigned>(threadIdx.x) << shift;
        shared.equal = found.equal - larger;
      }
      __syncthreads();
      found = {shared.key, shared.equal};
    }
    return found;
  }

  // Ids and gates, by rising id.
  static DEVICE void Write(const ChooseArgs& args, const float* scores, const Threshold& threshold, int* ids,
                           float* gates, Shared& shared) {
    int larger = 0, equal = 0;  // of the blocks before
    for (int first = 0; first < args.blocks && larger + min(equal, threshold.equal) < args.count; first += kThreads) {
      const int i = first + threadIdx.x;
      const unsigned key = i < args.blocks ? Key(scores[i]) : 0u;
      const int kind = i >= args.blocks ? 0 : key > threshold.key ? 1 : key == threshold.key ? 2 : 0;
      __syncthreads();  // the kinds before have been read
      shared.counts[threadIdx.x] = kind;
      __syncthreads();
      int place = larger, rank = equal;
      for (int t = 0; t < kThreads; ++t) {
        const int other = shared.counts[t];
        const bool before = t < static_cast<int>(threadIdx.x);
        larger += other == 1;
        equal += other == 2;
        place += before && other == 1;
        rank += before && other == 2;
      }
      if (kind == 1 || (kind == 2 && rank < threshold.equal)) {
        place += min(rank, threshold.equal);
        ids[place] = i;
        gates[place] = key == 0 ? 0.0f : scores[i];
      }
    }
  }

  static DEVICE float Mean(const ChooseArgs& args, const float* gates, Shared& shared) {
    double sum = 0;
    for (int k = threadIdx.x; k < args.count; k += kThreads) sum += gates[k];
    shared.sums[threadIdx.x] = sum;
#pragma unroll 1
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) shared.sums[threadIdx.x] += shared.sums[threadIdx.x + half];
    }
    __syncthreads();
    return static_cast<float>(shared.sums[0] / args.blocks);
  }

  static DEVICE void Run(const ChooseArgs& args) {
    Shared& shared = SharedMemory<Shared>();
    const float* scores = args.scores + static_cast<size_t>(blockIdx.x) * args.blocks;
    int* ids = args.ids + static_cast<size_t>(blockIdx.x) * args.count;
    float* gates = args.gates + static_cast<size_t>(blockIdx.x) * args.count;
    const Threshold threshold = Find(args, scores, shared);
    Write(args, scores, threshold, ids, gates, shared);
    __syncthreads();  // all gates are there
    const float mean = Mean(args, gates, shared);
    const float divisor = mean < args.epsilon ? args.epsilon : mean;  // NaN stays
    for (int k = threadIdx.x; k < args.count; k += kThreads) gates[k] /= divisor;
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_CHOOSE_BLOCKS_CUH_
