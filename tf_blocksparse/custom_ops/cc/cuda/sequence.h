// Recurrent layers over whole sequences on a GPU: a loop of launches on one stream, which waits for nothing.
//
// Forward: x W of all steps, then for each step h U and what the cell makes of both. Backward: for each step what the
// cell makes of the gradient, then its product with U^T.
#ifndef TF_BLOCKSPARSE_CUDA_SEQUENCE_H_
#define TF_BLOCKSPARSE_CUDA_SEQUENCE_H_

#include <cstdint>
#include <string>

#include "tf_blocksparse/custom_ops/cc/cuda/launch.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace blocksparse {
namespace cuda {

// A matrix in the memory of the device; of a plan only `pattern` is read.
struct DeviceMatrix {
  const ProductPattern* pattern = nullptr;
  const void* image = nullptr;  // of the pattern
  const float* blocks = nullptr;
};

// The matrices by column to go forward, by row backward, where there is no kernel.
struct DeviceMatrices {
  DeviceMatrix kernel;
  DeviceMatrix recurrent;
  DeviceMatrix candidate;
};

struct DeviceSequencePlan {
  Sequence sequence;
  ProductPlan kernel;
  ProductPlan recurrent;
  ProductPlan candidate;
  // Of the scratch memory.
  int64_t projected_floats = 0;  // forward: of all steps; backward: the sums of a step
  int64_t sum_floats = 0;
  int64_t state_floats = 0;      // of each of the states that are kept
  int64_t states = 0;
  int64_t flag_floats = 0;
  int64_t partial_floats = 0;
  int64_t scratch_floats() const {
    return projected_floats + sum_floats + states * state_floats + flag_floats + partial_floats;
  }
};

// Of `sequence` the sizes, the cell and the flags; there are examples. `choice`: its type and whether TF32 is allowed.
std::string PlanDeviceSequence(const Sequence& sequence, const DeviceMatrices& matrices, bool masked,
                               const Device& device, const KernelChoice& choice, DeviceSequencePlan* plan);

std::string RunDeviceSequence(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
                              const SequenceInputs& inputs, const SequenceOutputs& outputs, float* scratch);

std::string PlanDeviceSequenceGrad(const Sequence& sequence, const DeviceMatrices& matrices, bool masked,
                                   const Device& device, const KernelChoice& choice, DeviceSequencePlan* plan);

std::string RunDeviceSequenceGrad(const DeviceSequencePlan& plan, const Start& start, const DeviceMatrices& matrices,
                                  const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs, float* scratch);

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_SEQUENCE_H_
