// The products on a GPU: which kernels, how many thread blocks, and with what arguments. Each is a plan, which says
// what scratch memory it needs, then a run, which starts the kernels and does not wait for them.
#ifndef TF_BLOCKSPARSE_CUDA_LAUNCH_H_
#define TF_BLOCKSPARSE_CUDA_LAUNCH_H_

#include <cstdint>
#include <functional>
#include <string>

#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"
#include "tf_blocksparse/custom_ops/cc/cuda/pattern.h"
#include "tf_blocksparse/custom_ops/cc/kernels/cells.h"

namespace blocksparse {
namespace cuda {

// Starts kernel `kernel` of the table; returns an empty string, or the text of an error.
using Start = std::function<std::string(int kernel, int64_t grid, const void* args)>;

// Of the kernels' epilogue.cuh.
int ActivationCode(Activation activation);

struct Device {
  int architecture = 70;
  int64_t multiprocessors = 1;
  int64_t max_grid = (int64_t{1} << 31) - 1;  // thread blocks of a launch
};

struct ProductPlan {
  const ProductPattern* pattern = nullptr;
  const Split* split = nullptr;
  Type type = Type::kFloat32;
  bool transposed = false;
  int kernel = 0;
  int combine = 0;
  int64_t batch = 0;
  int64_t launch_rows = 0;     // of the batch, in a launch
  int64_t column_tiles = 0;
  int64_t partial_floats = 0;  // of scratch memory
};

// Of `choice`, block_k, block_n and role are the pattern's; transposed: dx = dy W^T. Returns the text of an error, or
// an empty string.
std::string PlanProduct(const ProductPattern& pattern, const Device& device, bool transposed, KernelChoice choice,
                        ProductPlan* plan);

// `pattern`: the pattern's image in the device's memory, as are all others. y is written in full.
std::string RunProduct(const ProductPlan& plan, const Start& start, const void* pattern, const void* x,
                       const void* blocks, const void* bias, int activation, void* y, float* partial);

struct GradPlan {
  const GradPattern* pattern = nullptr;
  Type type = Type::kFloat32;
  int kernel = 0;
  int combine = 0;
  int64_t batch = 0;
  int64_t splits = 1;
  int64_t split_rows = 0;
  int64_t grid = 0;
  int64_t partial_floats = 0;
};

std::string PlanGrad(const GradPattern& pattern, const Device& device, KernelChoice choice, GradPlan* plan);

// Of no rows at all: zeros, without a pattern.
std::string RunEmptyGrad(Type type, const Start& start, int64_t elements, void* dblocks);

// dblocks is written in full.
std::string RunGrad(const GradPlan& plan, const Start& start, const void* pattern, const void* x, const void* dy,
                    void* dblocks, float* partial);

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_LAUNCH_H_
