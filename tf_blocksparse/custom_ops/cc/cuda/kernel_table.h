// The CUDA kernels as the host knows them: what each can do, and how it is launched.
#ifndef TF_BLOCKSPARSE_CUDA_KERNEL_TABLE_H_
#define TF_BLOCKSPARSE_CUDA_KERNEL_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace blocksparse {
namespace cuda {

// What the numbers in memory are. Sums are float32 always.
enum class Type { kFloat32, kFloat16, kBFloat16 };

constexpr int Bytes(Type type) { return type == Type::kFloat32 ? 4 : 2; }

enum class Role {
  kProduct,
  kGradX,
  kFewRows,
  kGradBlocks,
  kCombine,
  kGradCombine,
  // Products with chosen blocks, always float32; of each of these but the first two there is one kernel.
  kDynamicProduct,
  kDynamicGrad,
  kChoiceClear,
  kChoiceScatter,
  kDynamicCombine,
  kDynamicGates,
  kChooseBlocks,
  // Recurrent layers.
  kMaskFlags,
  kAdd,
  kCellStep,
  kCellGrad,
};

struct KernelInfo {
  const char* name;
  Role role;
  Type type;
  bool tensor_cores;
  int min_architecture;  // 70 for 7.0: below it the kernel is not in the image
  int rows;              // of a thread block's tile; of a product, rows of the batch
  int columns;
  int threads;
  int block_k;           // the only one that it can do, or 0
  int multiple_k;        // divides block_k, and
  int multiple_n;        // block_n
};

const std::vector<KernelInfo>& KernelTable();

struct KernelChoice {
  Role role;
  Type type;
  bool tf32 = false;      // float32 may be rounded to 10 bits of fraction before it is multiplied
  int architecture = 70;
  int64_t batch = 1;
  int64_t block_k = 1;    // of a gradient of the blocks: the height
  int64_t block_n = 1;    // and the width
};

// The index in the table of the kernel to use: there is one for every choice.
int ChooseKernel(const KernelChoice& choice);

// The only kernel of a role.
int SingleKernel(Role role);

// A batch as small as this is done by a kernel for few rows.
constexpr int64_t kFewRows = 8;

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_KERNEL_TABLE_H_
