#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

#include <algorithm>

namespace blocksparse {
namespace cuda {
namespace {

struct Format {
  Type type;
  int tensor_architecture;  // since which its kernels on tensor cores are there
};

constexpr Format Float32 = {Type::kFloat32, 0};
constexpr Format Float16 = {Type::kFloat16, 75};
constexpr Format BFloat16 = {Type::kBFloat16, 80};
constexpr Format Tf32 = {Type::kFloat32, 80};

constexpr int kTensorThreads = 128;
constexpr int kFewThreads = 128;
constexpr int kCombineThreads = 256;
constexpr int kLowest = 70;

constexpr Role ProductRole(bool transposed) { return transposed ? Role::kGradX : Role::kProduct; }

std::vector<KernelInfo> MakeTable() {
  return {
#define PRODUCT_TILE(name, format, transposed, block_k, chunk_k, chunk_n, rows, columns, thread_rows, thread_columns) \
  {#name, ProductRole(transposed), format.type, false, kLowest, rows, columns,                                        \
   (rows) / (thread_rows) * ((columns) / (thread_columns)), block_k, chunk_k, (block_k) > 0 ? (columns) : (chunk_n)},
#define PRODUCT_TENSOR(name, format, transposed, rows, columns)                                                 \
  {#name, ProductRole(transposed), format.type, true, format.tensor_architecture, rows, columns, kTensorThreads, 0, \
   16, 16},
#define PRODUCT_FEW(name, format, rows) \
  {#name, Role::kFewRows, format.type, false, kLowest, rows, 1, kFewThreads, 0, 1, 1},
#define GRAD_TILE(name, format, rows, columns, thread_rows, thread_columns, lanes)    \
  {#name, Role::kGradBlocks, format.type, false, kLowest, rows, columns,              \
   (rows) / (thread_rows) * ((columns) / (thread_columns)) * (lanes), 0, 1, 1},
#define GRAD_TENSOR(name, format, side)                                                                     \
  {#name, Role::kGradBlocks, format.type, true, format.tensor_architecture, side, side, kTensorThreads, 0, 16, 16},
#define COMBINE(name, format) {#name, Role::kCombine, format.type, false, kLowest, 1, 1, kCombineThreads, 0, 1, 1},
#define GRAD_COMBINE(name, format) \
  {#name, Role::kGradCombine, format.type, false, kLowest, 1, 1, kCombineThreads, 0, 1, 1},
#define DYNAMIC(name, format, rows) \
  {#name, Role::kDynamicProduct, format.type, false, kLowest, rows, 1, kFewThreads, 0, 1, 1},
#define DYNAMIC_GRAD(name, format, rows, columns, thread_rows, thread_columns, lanes) \
  {#name, Role::kDynamicGrad, format.type, false, kLowest, rows, columns,             \
   (rows) / (thread_rows) * ((columns) / (thread_columns)) * (lanes), 0, 1, 1},
#define SINGLE(name, kernel, args, threads) \
  {#name, Role::k##kernel, Type::kFloat32, false, kLowest, 1, 1, threads, 0, 1, 1},
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_list.h"
  };
}

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

bool Fits(const KernelInfo& kernel, const KernelChoice& choice) {
  if (kernel.role != choice.role || kernel.type != choice.type) return false;
  if (choice.architecture < kernel.min_architecture) return false;
  if (kernel.tensor_cores && kernel.type == Type::kFloat32 && !choice.tf32) return false;
  if (kernel.role == Role::kFewRows) return choice.batch <= kernel.rows;
  if (kernel.role == Role::kDynamicProduct) return std::min(choice.batch, kFewRows) <= kernel.rows;
  if (kernel.block_k > 0 && (choice.block_k != kernel.block_k || choice.block_n != kernel.columns)) return false;
  return choice.block_k % kernel.multiple_k == 0 && choice.block_n % kernel.multiple_n == 0;
}

// The part of the work of a block that is of use; less is worse.
double Use(const KernelInfo& kernel, const KernelChoice& choice) {
  double use = static_cast<double>(choice.block_n) / RoundUp(choice.block_n, kernel.columns);
  const bool rows = kernel.role == Role::kGradBlocks || kernel.role == Role::kDynamicGrad;
  if (rows) use *= static_cast<double>(choice.block_k) / RoundUp(choice.block_k, kernel.rows);
  return use;
}

}  // namespace

const std::vector<KernelInfo>& KernelTable() {
  static const auto* table = new std::vector<KernelInfo>(MakeTable());
  return *table;
}

int ChooseKernel(const KernelChoice& choice) {
  const std::vector<KernelInfo>& table = KernelTable();
  int best = -1;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (!Fits(table[i], choice)) continue;
    if (best < 0) {
      best = static_cast<int>(i);
      continue;
    }
    // Tensor cores, then a kernel made for these blocks, then the least waste, then the order of the list.
    const KernelInfo& kernel = table[i];
    const KernelInfo& other = table[best];
    if (kernel.tensor_cores != other.tensor_cores || (kernel.block_k > 0) != (other.block_k > 0)) continue;
    if (kernel.multiple_k < other.multiple_k) continue;
    if (Use(kernel, choice) > Use(other, choice)) best = static_cast<int>(i);
  }
  return best;
}

int SingleKernel(Role role) {
  KernelChoice choice = {};
  choice.role = role;
  return ChooseKernel(choice);
}

}  // namespace cuda
}  // namespace blocksparse
