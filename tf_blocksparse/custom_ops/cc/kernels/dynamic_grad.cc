// The gradients, by the kernels of the product: x and dz of the examples that share a block are gathered, so that
//   dx and dgates  U = dZ B^T is a product with the turned block, and then dx += gate * u, dgate = x u;
//   dblocks        (gate * X)^T dZ is a product with the gathered dZ as block.
#include <algorithm>
#include <cstring>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/kernels/round_up.h"

namespace blocksparse {
namespace {

// Examples gathered at a time: they stay in the second-level cache with the largest of the usual blocks, 128x128.
constexpr int64_t kChunk = 64;

int64_t Height(const Grid& grid) { return std::min(grid.rows.block, grid.rows.features); }
int64_t Width(const Grid& grid) { return std::min(grid.columns.block, grid.columns.features); }
int64_t NumGroups(const Grid& grid) { return grid.rows.lines * grid.columns.lines; }

int64_t LargestGroup(const Grid& grid, const Groups& groups) {
  int64_t largest = 0;
  for (int64_t g = 0; g < NumGroups(grid); ++g) largest = std::max(largest, groups.size(g));
  return largest;
}

// Pieces of a worker's memory.
struct InputScratch {
  InputScratch(const DynamicKernels& kernels, const Grid& grid, int64_t chunk)
      : lanes(RoundUp(Height(grid), kernels.common().lanes)), turned(RoundUp(lanes * Width(grid), 16)),
        dz(RoundUp(chunk * Width(grid), 16)), u(RoundUp(chunk * Height(grid), 16)) {}

  int64_t floats(int64_t chunk) const { return turned + dz + u + RoundUp(2 * chunk, 16); }

  int64_t lanes;   // floats from one row of the turned block to the next
  int64_t turned;  // floats of each piece
  int64_t dz;
  int64_t u;
};

struct BlockScratch {
  BlockScratch(const DynamicKernels& kernels, const Grid& grid, int64_t chunk)
      : lanes(RoundUp(chunk, kernels.common().lanes)), x(RoundUp(chunk * Height(grid), 16)),
        turned(RoundUp(lanes * Height(grid), 16)), dz(RoundUp(chunk * Width(grid), 16)) {}

  int64_t floats(const Grid& grid) const { return x + turned + dz + RoundUp(2 * Height(grid), 16); }

  int64_t lanes;
  int64_t x;
  int64_t turned;
  int64_t dz;
};

// Entries 0, 1, 2, ... with gate 1: the rows of what was gathered.
void CountUp(DynamicEntry* entries, int64_t count) {
  for (int64_t i = 0; i < count; ++i) entries[i] = {static_cast<int32_t>(i), 1.0f};
}

// A job of the rows of gathered matrices.
DynamicJob GatheredJob(const float* block, int64_t stride, int64_t depth, const DynamicEntry* rows) {
  DynamicJob job = {};
  job.block = job.ahead = block;
  job.rows_ahead = 0;
  job.stride = stride;
  job.depth = depth;
  job.scale = 1.0f;
  job.entries = rows;
  return job;
}

// One worker's block rows.
class InputWorker {
 public:
  InputWorker(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid, int64_t batch,
              const Groups& groups, const DynamicInputGradients& operands, float* workspace)
      : kernels_(kernels), grid_(grid), batch_(batch), groups_(groups), operands_(operands), chunk_(plan.chunk),
        scratch_(kernels, grid, plan.chunk), turned_(workspace), dz_(turned_ + scratch_.turned),
        u_(dz_ + scratch_.dz), counted_(reinterpret_cast<DynamicEntry*>(u_ + scratch_.u)) {
    CountUp(counted_, chunk_);
  }

  void Run(int64_t first_row, int64_t end_row) {
    for (int64_t row = first_row; row < end_row; ++row) {
      const int64_t height = grid_.rows.Extent(row);
      for (int64_t b = 0; b < batch_; ++b) {
        std::fill_n(operands_.dx + b * grid_.rows.features + grid_.rows.Offset(row), height, 0.0f);
      }
      for (int64_t column = 0; column < grid_.columns.lines; ++column) RunBlock(row, column);
    }
  }

 private:
  void RunBlock(int64_t row, int64_t column) {
    const int64_t group = row * grid_.columns.lines + column;
    if (groups_.size(group) == 0) return;
    const int64_t height = grid_.rows.Extent(row);
    const int64_t width = grid_.columns.Extent(column);
    kernels_.common().pack(operands_.blocks + group * grid_.block_elements(), grid_.columns.block, height, width,
                           RoundUp(height, kernels_.common().lanes), turned_);
    const int64_t end = groups_.start[group + 1];
    for (int64_t first = groups_.start[group]; first < end; first += chunk_) {
      RunChunk(row, column, first, std::min(chunk_, end - first));
    }
  }

  void RunChunk(int64_t row, int64_t column, int64_t first, int64_t count) {
    const int64_t in = grid_.rows.features;
    const int64_t out = grid_.columns.features;
    const int64_t height = grid_.rows.Extent(row);
    const int64_t width = grid_.columns.Extent(column);
    const DynamicEntry* entries = groups_.entries + first;
    for (int64_t m = 0; m < count; ++m) {
      std::memcpy(dz_ + m * width, operands_.dz + entries[m].example * out + grid_.columns.Offset(column),
                  width * sizeof(float));
    }
    std::fill_n(u_, count * height, 0.0f);
    DynamicJob job = GatheredJob(turned_, RoundUp(height, kernels_.common().lanes), width, counted_);
    job.x = dz_;
    job.x_stride = width;
    job.y = u_;
    job.y_stride = height;
    kernels_.Multiply(job, height, count);
    for (int64_t m = 0; m < count; ++m) {
      const int64_t offset = entries[m].example * in + grid_.rows.Offset(row);
      Spread(u_ + m * height, operands_.x + offset, entries[m].gate, height, operands_.dx + offset,
             operands_.dgates + groups_.places[first + m]);
    }
  }

  static void Spread(const float* u, const float* x, float gate, int64_t height, float* dx, float* dgate) {
    // Sums side by side: one alone would wait for each of its additions.
    float sums[16] = {};
    for (int64_t r = 0; r < height; ++r) sums[r % 16] += x[r] * u[r];
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    *dgate = sums[0];
    if (gate == 0.0f) return;  // as good as none, even beside an infinity
    for (int64_t r = 0; r < height; ++r) dx[r] += gate * u[r];
  }

  const DynamicKernels& kernels_;
  const Grid& grid_;
  int64_t batch_;
  const Groups& groups_;
  const DynamicInputGradients& operands_;
  int64_t chunk_;
  InputScratch scratch_;
  float* turned_;
  float* dz_;
  float* u_;
  DynamicEntry* counted_;
};

// One worker's blocks.
class BlockWorker {
 public:
  BlockWorker(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
              const float* x, const float* dz, float* dblocks, float* workspace)
      : kernels_(kernels), grid_(grid), groups_(groups), all_x_(x), all_dz_(dz), dblocks_(dblocks),
        chunk_(plan.chunk), scratch_(kernels, grid, plan.chunk), x_(workspace), turned_(x_ + scratch_.x),
        dz_(turned_ + scratch_.turned), counted_(reinterpret_cast<DynamicEntry*>(dz_ + scratch_.dz)) {
    CountUp(counted_, Height(grid));
  }

  void Run(int64_t first_group, int64_t end_group) {
    for (int64_t group = first_group; group < end_group; ++group) {
      float* dblock = dblocks_ + group * grid_.block_elements();
      std::fill_n(dblock, grid_.block_elements(), 0.0f);
      const int64_t end = groups_.start[group + 1];
      for (int64_t first = groups_.start[group]; first < end; first += chunk_) {
        RunChunk(group, first, std::min(chunk_, end - first), dblock);
      }
    }
  }

 private:
  void RunChunk(int64_t group, int64_t first, int64_t count, float* dblock) {
    const int64_t row = group / grid_.columns.lines;
    const int64_t column = group % grid_.columns.lines;
    const int64_t height = grid_.rows.Extent(row);
    const int64_t width = grid_.columns.Extent(column);
    for (int64_t m = 0; m < count; ++m) {
      const DynamicEntry& entry = groups_.entries[first + m];
      const float* x = all_x_ + entry.example * grid_.rows.features + grid_.rows.Offset(row);
      for (int64_t r = 0; r < height; ++r) x_[m * height + r] = entry.gate * x[r];
      std::memcpy(dz_ + m * width, all_dz_ + entry.example * grid_.columns.features + grid_.columns.Offset(column),
                  width * sizeof(float));
    }
    kernels_.common().pack(x_, height, count, height, scratch_.lanes, turned_);
    DynamicJob job = GatheredJob(dz_, width, count, counted_);
    job.x = turned_;
    job.x_stride = scratch_.lanes;
    job.y = dblock;
    job.y_stride = grid_.columns.block;
    kernels_.Multiply(job, width, height);
  }

  const DynamicKernels& kernels_;
  const Grid& grid_;
  const Groups& groups_;
  const float* all_x_;
  const float* all_dz_;
  float* dblocks_;
  int64_t chunk_;
  BlockScratch scratch_;
  float* x_;
  float* turned_;
  float* dz_;
  DynamicEntry* counted_;
};

// Bounds [workers + 1] of lines, each of `groups_a_line` groups, with about equal work in between.
std::vector<int64_t> SplitGroups(const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
                                 int64_t groups_a_line, int64_t threads) {
  const int64_t lines = NumGroups(grid) / groups_a_line;
  const double elements = static_cast<double>(grid.block_elements());
  const double read = EstimateNanoseconds(kernels.common(), elements, 0);
  const double multiply = EstimateNanoseconds(kernels.common(), elements, 1) - read;
  std::vector<double> done(lines + 1, 0.0);
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t first = line * groups_a_line;
    const int64_t entries = groups.start[first + groups_a_line] - groups.start[first];
    done[line + 1] = done[line] + static_cast<double>(groups_a_line) * read + static_cast<double>(entries) * multiply;
  }
  const int64_t workers = std::min(UsefulWorkers(done.back(), threads), lines);
  std::vector<int64_t> bounds = {0};
  for (int64_t w = 1; w < workers; ++w) {
    const double target = done.back() * static_cast<double>(w) / static_cast<double>(workers);
    const int64_t line = std::lower_bound(done.begin(), done.end() - 1, target) - done.begin();
    bounds.push_back(std::max(bounds.back(), line));
  }
  bounds.push_back(lines);
  return bounds;
}

void RunWorkers(int64_t workers, const ParallelFor& parallel_for, const std::function<void(int64_t)>& work) {
  if (workers == 1) {
    work(0);
  } else {
    parallel_for(workers, work);
  }
}

}  // namespace

DynamicGradPlan PlanInputGradients(const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
                                   int64_t threads) {
  DynamicGradPlan plan;
  plan.bounds = SplitGroups(kernels, grid, groups, grid.columns.lines, threads);
  plan.workers = static_cast<int64_t>(plan.bounds.size()) - 1;
  plan.chunk = std::min(kChunk, LargestGroup(grid, groups));
  plan.worker_floats = InputScratch(kernels, grid, plan.chunk).floats(plan.chunk);
  plan.workspace_floats = plan.workers * plan.worker_floats;
  return plan;
}

void RunInputGradients(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid, int64_t batch,
                       const Groups& groups, const DynamicInputGradients& operands, float* workspace,
                       const ParallelFor& parallel_for) {
  RunWorkers(plan.workers, parallel_for, [&](int64_t worker) {
    InputWorker part(plan, kernels, grid, batch, groups, operands, workspace + worker * plan.worker_floats);
    part.Run(plan.bounds[worker], plan.bounds[worker + 1]);
  });
}

DynamicGradPlan PlanBlockGradients(const DynamicKernels& kernels, const Grid& grid, const Groups& groups,
                                   int64_t threads) {
  DynamicGradPlan plan;
  plan.bounds = SplitGroups(kernels, grid, groups, 1, threads);
  plan.workers = static_cast<int64_t>(plan.bounds.size()) - 1;
  plan.chunk = std::min(kChunk, LargestGroup(grid, groups));
  plan.worker_floats = BlockScratch(kernels, grid, plan.chunk).floats(grid);
  plan.workspace_floats = plan.workers * plan.worker_floats;
  return plan;
}

void RunBlockGradients(const DynamicGradPlan& plan, const DynamicKernels& kernels, const Grid& grid,
                       const Groups& groups, const float* x, const float* dz, float* dblocks, float* workspace,
                       const ParallelFor& parallel_for) {
  RunWorkers(plan.workers, parallel_for, [&](int64_t worker) {
    BlockWorker part(plan, kernels, grid, groups, x, dz, dblocks, workspace + worker * plan.worker_floats);
    part.Run(plan.bounds[worker], plan.bounds[worker + 1]);
  });
}

}  // namespace blocksparse
