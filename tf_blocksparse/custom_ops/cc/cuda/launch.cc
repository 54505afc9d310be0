#include "tf_blocksparse/custom_ops/cc/cuda/launch.h"

#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/cuda/lanes.h"

namespace blocksparse {
namespace cuda {
namespace {

constexpr int64_t kMaxPartialFloats = 16 << 20;  // 64 MB
constexpr int64_t kMaxBatch = int64_t{1} << 30;  // so that no sum of rows in a kernel overflows

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string TooLarge(const char* what, int64_t value, int64_t limit) {
  return std::string(what) + " may be at most " + std::to_string(limit) + " on a GPU, got " + std::to_string(value);
}

const unsigned char* At(const void* memory, size_t bytes) { return static_cast<const unsigned char*>(memory) + bytes; }

// Whether rows of `features` numbers from p on, read in chunks of `chunk` bytes at multiples of `multiple` features,
// are read at multiples of 16 bytes.
bool Aligned(const void* p, int64_t features, int64_t multiple, Type type) {
  const int64_t chunk = 16 / Bytes(type);
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && features % chunk == 0 && multiple % chunk == 0;
}

// Lines are split where whole ones would leave most of the device waiting for the longest, and there is memory for it.
const Split& ChooseSplit(const ProductPattern& pattern, const Device& device, const KernelInfo& kernel, int64_t batch) {
  const Split& split = kernel.role == Role::kFewRows ? pattern.few : pattern.even;
  if (split.slots * batch * pattern.block_n > kMaxPartialFloats) return pattern.whole;
  if (kernel.role == Role::kFewRows) return split;
  const int64_t tiles = CeilDiv(batch, kernel.rows);
  const bool balanced = tiles * pattern.num_blocks >= 2 * pattern.max_entries * device.multiprocessors;
  return balanced ? pattern.whole : split;
}

int64_t ColumnTiles(const ProductPattern& pattern, const KernelInfo& kernel, bool transposed) {
  if (kernel.role != Role::kFewRows) return CeilDiv(pattern.block_n, kernel.columns);
  ProductArgs args = {};
  args.block_k = static_cast<int>(pattern.block_k);
  args.block_n = static_cast<int>(pattern.block_n);
  SetLanes(transposed, &args);
  return CeilDiv(pattern.block_n, args.n_lanes);
}

ProductArgs MakeArgs(const ProductPlan& plan, const void* pattern, const void* x, const void* blocks) {
  const ProductPattern& p = *plan.pattern;
  ProductArgs args = {};
  args.x = x;
  args.blocks = blocks;
  args.entries = reinterpret_cast<const Entry*>(At(pattern, p.entries_at));
  args.items = reinterpret_cast<const Item*>(At(pattern, plan.split->items_at));
  args.x_features = static_cast<int>(p.x_features);
  args.y_features = static_cast<int>(p.y_features);
  args.block_k = static_cast<int>(p.block_k);
  args.block_n = static_cast<int>(p.block_n);
  args.edge_k = static_cast<int>(p.edge_k);
  args.column_tiles = static_cast<int>(plan.column_tiles);
  args.x_aligned = Aligned(x, p.x_features, p.offset_multiple, plan.type);
  const int64_t row = plan.transposed ? p.block_k : p.block_n;  // of a block
  args.blocks_aligned = Aligned(blocks, row, row, plan.type);
  SetLanes(plan.transposed, &args);
  return args;
}

std::string RunCombine(const ProductPlan& plan, const Start& start, const void* pattern, const ProductArgs& product) {
  CombineArgs args = {};
  args.partial = product.partial;
  args.bias = product.bias;
  args.y = product.y;
  args.groups = reinterpret_cast<const Group*>(At(pattern, plan.split->groups_at));
  args.batch = product.batch;
  args.y_features = product.y_features;
  args.block_n = product.block_n;
  args.tiles = static_cast<int>(CeilDiv(int64_t{args.batch} * args.block_n, KernelTable()[plan.combine].threads));
  args.activation = product.activation;
  return start(plan.combine, plan.split->groups * args.tiles, &args);
}

}  // namespace

int ActivationCode(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return 1;
    case Activation::kTanh:
      return 2;
    case Activation::kSigmoid:
      return 3;
    case Activation::kLinear:
      break;
  }
  return 0;
}

std::string PlanProduct(const ProductPattern& pattern, const Device& device, bool transposed, KernelChoice choice,
                        ProductPlan* plan) {
  if (choice.batch > kMaxBatch) return TooLarge("batch", choice.batch, kMaxBatch);
  choice.architecture = device.architecture;
  choice.block_k = pattern.block_k;
  choice.block_n = pattern.block_n;
  choice.role = choice.batch <= kFewRows ? Role::kFewRows : transposed ? Role::kGradX : Role::kProduct;
  plan->kernel = ChooseKernel(choice);
  const KernelInfo& kernel = KernelTable()[plan->kernel];
  choice.role = Role::kCombine;
  plan->combine = ChooseKernel(choice);
  plan->pattern = &pattern;
  plan->type = choice.type;
  plan->transposed = transposed;
  plan->batch = choice.batch;
  plan->split = &ChooseSplit(pattern, device, kernel, choice.batch);
  plan->column_tiles = ColumnTiles(pattern, kernel, transposed);
  const int64_t line_blocks = plan->split->items * plan->column_tiles;
  if (line_blocks > device.max_grid) return TooLarge("thread blocks", line_blocks, device.max_grid);
  plan->launch_rows = std::min(choice.batch, device.max_grid / line_blocks * kernel.rows);
  plan->partial_floats = plan->split->slots * plan->launch_rows * pattern.block_n;
  return "";
}

std::string RunProduct(const ProductPlan& plan, const Start& start, const void* pattern, const void* x,
                       const void* blocks, const void* bias, int activation, void* y, float* partial) {
  const ProductPattern& p = *plan.pattern;
  const KernelInfo& kernel = KernelTable()[plan.kernel];
  for (int64_t row = 0; row < plan.batch; row += plan.launch_rows) {
    ProductArgs args = MakeArgs(plan, pattern, At(x, row * p.x_features * Bytes(plan.type)), blocks);
    args.bias = bias;
    args.activation = activation;
    args.partial = partial;
    args.y = const_cast<unsigned char*>(At(y, row * p.y_features * Bytes(plan.type)));
    args.batch = static_cast<int>(std::min(plan.launch_rows, plan.batch - row));
    args.batch_tiles = static_cast<int>(CeilDiv(args.batch, kernel.rows));
    const int64_t grid = plan.split->items * plan.column_tiles * args.batch_tiles;
    std::string error = start(plan.kernel, grid, &args);
    if (error.empty() && plan.split->groups > 0) error = RunCombine(plan, start, pattern, args);
    if (!error.empty()) return error;
  }
  return "";
}

std::string PlanGrad(const GradPattern& pattern, const Device& device, KernelChoice choice, GradPlan* plan) {
  if (choice.batch > kMaxBatch) return TooLarge("batch", choice.batch, kMaxBatch);
  choice.architecture = device.architecture;
  choice.role = Role::kGradBlocks;
  choice.block_k = pattern.height;
  choice.block_n = pattern.width;
  plan->kernel = ChooseKernel(choice);
  const KernelInfo& kernel = KernelTable()[plan->kernel];
  choice.role = Role::kGradCombine;
  plan->combine = ChooseKernel(choice);
  plan->pattern = &pattern;
  plan->type = choice.type;
  plan->batch = choice.batch;
  const int64_t tiles =
      pattern.num_blocks * CeilDiv(pattern.height, kernel.rows) * CeilDiv(pattern.width, kernel.columns);
  const int64_t elements = pattern.num_blocks * pattern.height * pattern.width;
  // The batch is split where the blocks are too few to keep the device busy, into parts of 128 rows or more.
  plan->splits = 1;
  if (tiles > 0) {
    plan->splits = std::min({CeilDiv(2 * device.multiprocessors, tiles), choice.batch / 128,
                             kMaxPartialFloats / std::max<int64_t>(elements, 1)});
    plan->splits = std::max<int64_t>(plan->splits, 1);
  }
  plan->split_rows = CeilDiv(choice.batch, plan->splits);
  plan->splits = std::max<int64_t>(CeilDiv(choice.batch, std::max<int64_t>(plan->split_rows, 1)), 1);
  plan->grid = tiles * plan->splits;
  plan->partial_floats = plan->splits > 1 ? plan->splits * elements : 0;
  if (plan->grid > device.max_grid) return TooLarge("thread blocks", plan->grid, device.max_grid);
  return "";
}

std::string RunEmptyGrad(Type type, const Start& start, int64_t elements, void* dblocks) {
  const int combine = ChooseKernel({Role::kGradCombine, type});
  GradCombineArgs args = {nullptr, dblocks, elements, 0};
  return start(combine, CeilDiv(elements, KernelTable()[combine].threads), &args);
}

std::string RunGrad(const GradPlan& plan, const Start& start, const void* pattern, const void* x, const void* dy,
                    void* dblocks, float* partial) {
  const GradPattern& p = *plan.pattern;
  if (p.num_blocks == 0) return "";
  const KernelInfo& kernel = KernelTable()[plan.kernel];
  GradArgs args = {};
  args.x = x;
  args.dy = dy;
  args.dblocks = dblocks;
  args.partial = partial;
  args.places = static_cast<const Place*>(pattern);
  args.batch = static_cast<int>(plan.batch);
  args.x_features = static_cast<int>(p.x_features);
  args.y_features = static_cast<int>(p.y_features);
  args.height = static_cast<int>(p.height);
  args.width = static_cast<int>(p.width);
  args.row_tiles = static_cast<int>(CeilDiv(p.height, kernel.rows));
  args.column_tiles = static_cast<int>(CeilDiv(p.width, kernel.columns));
  args.splits = static_cast<int>(plan.splits);
  args.split_rows = static_cast<int>(plan.split_rows);
  args.x_aligned = Aligned(x, p.x_features, p.row_multiple, plan.type);
  args.dy_aligned = Aligned(dy, p.y_features, p.column_multiple, plan.type);
  args.elements = p.num_blocks * p.height * p.width;
  std::string error = start(plan.kernel, plan.grid, &args);
  if (!error.empty() || plan.splits == 1) return error;
  GradCombineArgs combine = {partial, dblocks, args.elements, args.splits};
  return start(plan.combine, CeilDiv(args.elements, KernelTable()[plan.combine].threads), &combine);
}

}  // namespace cuda
}  // namespace blocksparse
