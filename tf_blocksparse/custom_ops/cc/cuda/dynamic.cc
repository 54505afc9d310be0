#include "tf_blocksparse/custom_ops/cc/cuda/dynamic.h"

#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/cuda/lanes.h"

namespace blocksparse {
namespace cuda {
namespace {

constexpr int64_t kMaxScratchFloats = 16 << 20;  // 64 MB, where one example does not take more
constexpr int64_t kMaxParts = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string TooMany(const char* what, int64_t value, int64_t limit) {
  return std::string(what) + " may be at most " + std::to_string(limit) + " on a GPU, got " + std::to_string(value);
}

int64_t NumBlocks(const Grid& grid) { return grid.rows.lines * grid.columns.lines; }

// Rows of the batch of a launch: of each, `floats` of scratch memory and `thread_blocks` or part of one.
int64_t LaunchRows(const Device& device, int64_t batch, int64_t floats, int64_t thread_blocks, int64_t rows_of_one) {
  const int64_t by_memory = std::max<int64_t>(kMaxScratchFloats / std::max<int64_t>(floats, 1), 1);
  const int64_t by_grid = device.max_grid / std::max<int64_t>(thread_blocks, 1) * rows_of_one;
  return std::min({batch, by_memory, by_grid});
}

std::string Scatter(const Start& start, const ChoiceArgs& args) {
  const int clear = SingleKernel(Role::kChoiceClear), scatter = SingleKernel(Role::kChoiceScatter);
  std::string error = start(clear, CeilDiv(args.cells, KernelTable()[clear].threads), &args);
  const int64_t choices = int64_t{args.batch} * args.count;
  if (error.empty() && choices > 0) {
    error = start(scatter, CeilDiv(choices, KernelTable()[scatter].threads), &args);
  }
  return error;
}

// Of the examples from `row` on. The table begins at `table`.
ChoiceArgs MakeChoices(const Grid& grid, const DeviceChoices& choices, int64_t row, int64_t rows, float* table) {
  ChoiceArgs args = {};
  args.ids = choices.ids + row * choices.count;
  args.gates = choices.gates + row * choices.count;
  args.table = table;
  args.faults = table + rows * NumBlocks(grid);
  args.cells = rows * (NumBlocks(grid) + 1);
  args.batch = static_cast<int>(rows);
  args.count = static_cast<int>(choices.count);
  args.rows = static_cast<int>(grid.rows.lines);
  args.columns = static_cast<int>(grid.columns.lines);
  return args;
}

DynamicArgs MakeArgs(const DynamicPlan& plan) {
  const Axis& lines = plan.transposed ? plan.grid.rows : plan.grid.columns;
  const Axis& across = plan.transposed ? plan.grid.columns : plan.grid.rows;
  DynamicArgs args = {};
  args.x_features = static_cast<int>(across.features);
  args.y_features = static_cast<int>(lines.features);
  args.block_k = static_cast<int>(across.block);
  args.block_n = static_cast<int>(lines.block);
  args.lines = static_cast<int>(lines.lines);
  args.across = static_cast<int>(across.lines);
  const int columns = static_cast<int>(plan.grid.columns.lines);
  args.line_stride = plan.transposed ? columns : 1;
  args.across_stride = plan.transposed ? 1 : columns;
  args.column_tiles = static_cast<int>(plan.column_tiles);
  args.parts = static_cast<int>(plan.parts);
  args.part_blocks = static_cast<int>(plan.part_blocks);
  SetLanes(plan.transposed, &args);
  return args;
}

// Of the examples that args.batch says.
std::string RunRows(const DynamicPlan& plan, const Start& start, const DeviceChoices& choices, int64_t row,
                    float* scratch, DynamicArgs* args) {
  const KernelInfo& kernel = KernelTable()[plan.kernel];
  ChoiceArgs table = MakeChoices(plan.grid, choices, row, args->batch, scratch);
  table.example_stride = NumBlocks(plan.grid);
  table.row_stride = plan.transposed ? table.columns : 1;
  table.column_stride = plan.transposed ? 1 : table.rows;
  std::string error = Scatter(start, table);
  if (!error.empty()) return error;
  args->table = table.table;
  args->faults = table.faults;
  args->partial = scratch + table.cells;
  args->batch_tiles = static_cast<int>(CeilDiv(args->batch, kernel.rows));
  error = start(plan.kernel, int64_t{args->lines} * plan.parts * plan.column_tiles * args->batch_tiles, args);
  if (!error.empty() || plan.parts == 1) return error;
  const int combine = SingleKernel(Role::kDynamicCombine);
  return start(combine, CeilDiv(int64_t{args->batch} * args->y_features, KernelTable()[combine].threads), args);
}

}  // namespace

std::string PlanDynamic(const Grid& grid, const Device& device, bool transposed, int64_t batch, int64_t count,
                        DynamicPlan* plan) {
  const Axis& lines = transposed ? grid.rows : grid.columns;
  const Axis& across = transposed ? grid.columns : grid.rows;
  plan->grid = grid;
  plan->transposed = transposed;
  plan->batch = batch;
  KernelChoice choice = {};
  choice.role = Role::kDynamicProduct;
  choice.batch = batch;
  plan->kernel = ChooseKernel(choice);
  DynamicArgs args = {};
  args.block_k = static_cast<int>(across.block);
  args.block_n = static_cast<int>(lines.block);
  SetLanes(transposed, &args);
  plan->column_tiles = CeilDiv(lines.block, args.n_lanes);
  // As many parts as keep a device busy with one example, each of 2048 elements of blocks or more.
  const int64_t smallest = CeilDiv(2048, across.block * lines.block);
  const int64_t wanted = CeilDiv(2 * device.multiprocessors, lines.lines * plan->column_tiles);
  plan->parts = std::max<int64_t>(std::min({wanted, across.lines / smallest, kMaxParts}), 1);
  plan->part_blocks = CeilDiv(across.lines, plan->parts);
  plan->parts = CeilDiv(across.lines, plan->part_blocks);
  const int64_t floats = NumBlocks(grid) + 1 + (plan->parts > 1 ? plan->parts * lines.features : 0);
  const int64_t line_blocks = lines.lines * plan->column_tiles * plan->parts;
  if (line_blocks > device.max_grid) return TooMany("thread blocks", line_blocks, device.max_grid);
  // The kernel for one example is used for single ones only.
  plan->launch_rows = LaunchRows(device, batch, floats, line_blocks, KernelTable()[plan->kernel].rows);
  plan->launch_rows = std::min(plan->launch_rows, ((int64_t{1} << 31) - 1) / std::max<int64_t>(count, 1) + 1);
  plan->scratch_floats = plan->launch_rows * floats;
  return "";
}

std::string RunDynamic(const DynamicPlan& plan, const Start& start, const DeviceChoices& choices, const float* x,
                       const float* blocks, const float* bias, int activation, float* y, float* scratch) {
  for (int64_t row = 0; row < plan.batch; row += plan.launch_rows) {
    DynamicArgs args = MakeArgs(plan);
    args.x = x + row * args.x_features;
    args.y = y + row * args.y_features;
    args.blocks = blocks;
    args.bias = bias;
    args.activation = activation;
    args.batch = static_cast<int>(std::min(plan.launch_rows, plan.batch - row));
    const std::string error = RunRows(plan, start, choices, row, scratch, &args);
    if (!error.empty()) return error;
  }
  return "";
}

std::string RunDynamicGates(const Grid& grid, const Device& device, const Start& start, const DeviceChoices& choices,
                            int64_t batch, const float* x, const float* dy, const float* blocks, float* dgates) {
  DynamicGatesArgs args = {};
  args.blocks = blocks;
  args.count = static_cast<int>(choices.count);
  args.x_features = static_cast<int>(grid.rows.features);
  args.y_features = static_cast<int>(grid.columns.features);
  args.height = static_cast<int>(grid.rows.block);
  args.width = static_cast<int>(grid.columns.block);
  args.rows = static_cast<int>(grid.rows.lines);
  args.columns = static_cast<int>(grid.columns.lines);
  if (choices.count > device.max_grid) return TooMany("k", choices.count, device.max_grid);
  const int64_t launch_rows = std::min(batch, device.max_grid / choices.count);
  for (int64_t row = 0; row < batch; row += launch_rows) {
    args.batch = static_cast<int>(std::min(launch_rows, batch - row));
    args.x = x + row * args.x_features;
    args.dy = dy + row * args.y_features;
    args.ids = choices.ids + row * choices.count;
    args.dgates = dgates + row * choices.count;
    const std::string error = start(SingleKernel(Role::kDynamicGates), args.batch * choices.count, &args);
    if (!error.empty()) return error;
  }
  return "";
}

std::string PlanDynamicGrad(const Grid& grid, const Device& device, int64_t batch, int64_t count,
                            DynamicGradPlan* plan) {
  plan->grid = grid;
  plan->batch = batch;
  KernelChoice choice = {};
  choice.role = Role::kDynamicGrad;
  choice.block_k = grid.rows.block;
  choice.block_n = grid.columns.block;
  plan->kernel = ChooseKernel(choice);
  const KernelInfo& kernel = KernelTable()[plan->kernel];
  plan->row_tiles = CeilDiv(grid.rows.block, kernel.rows);
  plan->column_tiles = CeilDiv(grid.columns.block, kernel.columns);
  const int64_t thread_blocks = NumBlocks(grid) * plan->row_tiles * plan->column_tiles;
  if (thread_blocks > device.max_grid) return TooMany("thread blocks", thread_blocks, device.max_grid);
  plan->launch_rows = LaunchRows(device, batch, NumBlocks(grid) + 1, 1, 1);
  plan->launch_rows = std::min(plan->launch_rows, ((int64_t{1} << 31) - 1) / std::max<int64_t>(count, 1) + 1);
  plan->scratch_floats = plan->launch_rows * (NumBlocks(grid) + 1);
  return "";
}

std::string RunDynamicGrad(const DynamicGradPlan& plan, const Start& start, const DeviceChoices& choices,
                           const float* x, const float* dy, float* dblocks, float* scratch) {
  DynamicGradArgs args = {};
  args.table = scratch;
  args.dblocks = dblocks;
  args.x_features = static_cast<int>(plan.grid.rows.features);
  args.y_features = static_cast<int>(plan.grid.columns.features);
  args.height = static_cast<int>(plan.grid.rows.block);
  args.width = static_cast<int>(plan.grid.columns.block);
  args.columns = static_cast<int>(plan.grid.columns.lines);
  args.row_tiles = static_cast<int>(plan.row_tiles);
  args.column_tiles = static_cast<int>(plan.column_tiles);
  const int64_t thread_blocks = NumBlocks(plan.grid) * plan.row_tiles * plan.column_tiles;
  for (int64_t row = 0; row < std::max<int64_t>(plan.batch, 1); row += std::max<int64_t>(plan.launch_rows, 1)) {
    args.batch = static_cast<int>(std::min(plan.launch_rows, plan.batch - row));
    args.accumulate = row > 0;
    args.x = x + row * args.x_features;
    args.dy = dy + row * args.y_features;
    std::string error;
    if (args.batch > 0) {
      ChoiceArgs table = MakeChoices(plan.grid, choices, row, args.batch, scratch);
      table.example_stride = 1;
      table.row_stride = int64_t{args.columns} * args.batch;
      table.column_stride = args.batch;
      error = Scatter(start, table);
    }
    if (error.empty()) error = start(plan.kernel, thread_blocks, &args);
    if (!error.empty()) return error;
  }
  return "";
}

std::string RunChooseBlocks(const Device& device, const Start& start, int64_t batch, ChooseArgs args) {
  for (int64_t row = 0; row < batch; row += device.max_grid) {
    const int64_t rows = std::min(device.max_grid, batch - row);
    const std::string error = start(SingleKernel(Role::kChooseBlocks), rows, &args);
    if (!error.empty()) return error;
    args.scores += rows * args.blocks;
    args.ids += rows * args.count;
    args.gates += rows * args.count;
  }
  return "";
}

}  // namespace cuda
}  // namespace blocksparse
