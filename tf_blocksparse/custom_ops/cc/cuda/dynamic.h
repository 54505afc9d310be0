// Products of which every example has chosen its blocks, on a GPU: which kernels, how many thread blocks. As launch.h.
//
// Long batches are done in parts, so that the table of who chose what has a bounded size.
#ifndef TF_BLOCKSPARSE_CUDA_DYNAMIC_H_
#define TF_BLOCKSPARSE_CUDA_DYNAMIC_H_

#include <cstdint>
#include <string>

#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_arguments.h"
#include "tf_blocksparse/custom_ops/cc/cuda/launch.h"
#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

namespace blocksparse {
namespace cuda {

// In the memory of the device, as all other pointers here.
struct DeviceChoices {
  const int* ids;      // [batch, count]
  const float* gates;  // [batch, count]
  int64_t count;
};

struct DynamicPlan {
  Grid grid;
  bool transposed = false;  // the gradient of x
  int kernel = 0;
  int64_t batch = 0;
  int64_t launch_rows = 0;
  int64_t parts = 1;  // of a line: they depend on the matrix and the device, not on the batch
  int64_t part_blocks = 0;
  int64_t column_tiles = 0;
  int64_t scratch_floats = 0;
};

std::string PlanDynamic(const Grid& grid, const Device& device, bool transposed, int64_t batch, int64_t count,
                        DynamicPlan* plan);

// y is written in full. `scratch`: as many floats as the plan says.
std::string RunDynamic(const DynamicPlan& plan, const Start& start, const DeviceChoices& choices, const float* x,
                       const float* blocks, const float* bias, int activation, float* y, float* scratch);

// The gradient of the gates, [batch, count]; there is at least one choice.
std::string RunDynamicGates(const Grid& grid, const Device& device, const Start& start, const DeviceChoices& choices,
                            int64_t batch, const float* x, const float* dy, const float* blocks, float* dgates);

struct DynamicGradPlan {
  Grid grid;
  int kernel = 0;
  int64_t batch = 0;
  int64_t launch_rows = 0;
  int64_t row_tiles = 0;
  int64_t column_tiles = 0;
  int64_t scratch_floats = 0;
};

std::string PlanDynamicGrad(const Grid& grid, const Device& device, int64_t batch, int64_t count,
                            DynamicGradPlan* plan);

// dblocks is written in full.
std::string RunDynamicGrad(const DynamicGradPlan& plan, const Start& start, const DeviceChoices& choices,
                           const float* x, const float* dy, float* dblocks, float* scratch);

// The blocks of each of `batch` examples; there are some, and `count` is above 0.
std::string RunChooseBlocks(const Device& device, const Start& start, int64_t batch, ChooseArgs args);

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DYNAMIC_H_
