#include "tests/cc/cuda_kernels.h"

#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernels.cu"

namespace blocksparse_test {
namespace {

using namespace blocksparse::cuda;

template <typename Args, void (*kKernel)(const Args)>
void Call(const void* args) {
  kKernel(*static_cast<const Args*>(args));
}

// In the order of the table.
using Function = void (*)(const void*);
constexpr Function kFunctions[] = {
#define PRODUCT_TILE(name, ...) Call<ProductArgs, name>,
#define PRODUCT_TENSOR(name, ...) Call<ProductArgs, name>,
#define PRODUCT_FEW(name, ...) Call<ProductArgs, name>,
#define GRAD_TILE(name, ...) Call<GradArgs, name>,
#define GRAD_TENSOR(name, ...) Call<GradArgs, name>,
#define COMBINE(name, ...) Call<CombineArgs, name>,
#define GRAD_COMBINE(name, ...) Call<GradCombineArgs, name>,
#define DYNAMIC(name, ...) Call<DynamicArgs, name>,
#define DYNAMIC_GRAD(name, ...) Call<DynamicGradArgs, name>,
#define SINGLE(name, kernel, args, ...) Call<args, name>,
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_list.h"
};

}  // namespace

void EmulateKernel(int kernel, int64_t grid, const void* args, ThreadOrder order) {
  cuda_emulator::Launch([&] { kFunctions[kernel](args); }, grid, KernelTable()[kernel].threads,
                        static_cast<cuda_emulator::Order>(order));
}

}  // namespace blocksparse_test
