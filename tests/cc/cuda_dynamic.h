// Products of which every example has chosen its blocks through the launch code of the GPU, on the emulator.
#ifndef TF_BLOCKSPARSE_TESTS_CUDA_DYNAMIC_H_
#define TF_BLOCKSPARSE_TESTS_CUDA_DYNAMIC_H_

#include <vector>

#include "tests/cc/cuda_products.h"
#include "tests/cc/dynamic_problem.h"

namespace blocksparse_test {

// The product, or dx where `transposed`.
std::vector<float> EmulatedDynamic(const Emulation& emulation, const DynamicProblem& p, bool transposed,
                                   const Ending& ending = {});
std::vector<float> EmulatedDynamicGates(const Emulation& emulation, const DynamicProblem& p);
std::vector<float> EmulatedDynamicGrad(const Emulation& emulation, const DynamicProblem& p);

struct Chosen {
  std::vector<int32_t> ids;
  std::vector<float> gates;
};
Chosen EmulatedChoice(const Emulation& emulation, const std::vector<float>& scores, int64_t batch, int64_t count,
                      float epsilon);

// All of them: results have to be equal.
void CheckDynamic(const Emulation& emulation, const DynamicProblem& p);

// Against a stable sort.
void CheckChoice(const Emulation& emulation, const std::vector<float>& scores, int64_t batch, int64_t count);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_CUDA_DYNAMIC_H_
