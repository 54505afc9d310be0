// The kernels by the names under which the host finds them.
#include "tf_blocksparse/custom_ops/cc/cuda/cells.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/choose_blocks.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_grad.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_product.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/grad_tensor.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/grad_tile.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_few.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_tensor.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/product_tile.cuh"

namespace blocksparse {
namespace cuda {

// At least 384 threads to a multiprocessor: 168 registers for each, at most.
template <int kThreads>
constexpr int kThreadBlocks = 384 / ((kThreads + 31) / 32 * 32);

#define KERNEL(name, args, ...)                                                                        \
  extern "C" __global__ void __launch_bounds__((__VA_ARGS__::kThreads), kThreadBlocks<__VA_ARGS__::kThreads>) \
      name(const args given) {                                                                         \
    __VA_ARGS__::Run(given);                                                                           \
  }

// Tensor cores know f16 since sm_75 (in the instructions that are used here), bf16 and tf32 since sm_80: the images of
// older architectures are without the kernels that need them.
#if !defined(__CUDACC_RTC__) || __CUDA_ARCH__ >= 750
#define WHERE_KNOWN_Float16(...) __VA_ARGS__
#else
#define WHERE_KNOWN_Float16(...)
#endif
#if !defined(__CUDACC_RTC__) || __CUDA_ARCH__ >= 800
#define WHERE_KNOWN_BFloat16(...) __VA_ARGS__
#define WHERE_KNOWN_Tf32(...) __VA_ARGS__
#else
#define WHERE_KNOWN_BFloat16(...)
#define WHERE_KNOWN_Tf32(...)
#endif

#define PRODUCT_TILE(name, format, ...) KERNEL(name, ProductArgs, ProductTile<format, __VA_ARGS__>)
#define PRODUCT_TENSOR(name, format, ...) \
  WHERE_KNOWN_##format(KERNEL(name, ProductArgs, ProductTensor<format, __VA_ARGS__>))
#define PRODUCT_FEW(name, format, ...) KERNEL(name, ProductArgs, ProductFew<format, __VA_ARGS__>)
#define GRAD_TILE(name, format, ...) KERNEL(name, GradArgs, GradTile<format, __VA_ARGS__>)
#define GRAD_TENSOR(name, format, ...) \
  WHERE_KNOWN_##format(KERNEL(name, GradArgs, GradTensor<format, __VA_ARGS__>))
#define COMBINE(name, format)                                                                       \
  extern "C" __global__ void __launch_bounds__(kCombineThreads) name(const CombineArgs given) {     \
    Combine<format>(given);                                                                         \
  }
#define GRAD_COMBINE(name, format)                                                                  \
  extern "C" __global__ void __launch_bounds__(kCombineThreads) name(const GradCombineArgs given) { \
    GradCombine<format>(given);                                                                     \
  }
#define DYNAMIC(name, format, ...) KERNEL(name, DynamicArgs, DynamicProduct<__VA_ARGS__>)
#define DYNAMIC_GRAD(name, format, ...) KERNEL(name, DynamicGradArgs, DynamicGrad<__VA_ARGS__>)
#define SINGLE(name, kernel, args, threads) \
  static_assert(kernel::kThreads == threads, "the list says so"); \
  KERNEL(name, args, kernel)
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_list.h"

}  // namespace cuda
}  // namespace blocksparse
