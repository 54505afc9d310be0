#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"

#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {
namespace {

// Where work inside of a block may be split: whole vectors, and whole lines of the cache of y.
constexpr int64_t kSplitColumns = 16;
// What is asked for before it is needed. A core has only so many reads under way, and the hardware's own prefetching
// stops at the end of a page.
constexpr int64_t kPrefetchBytes = 2048;
constexpr int64_t kTileColumns = 64;  // about what a kernel reads of a row

int64_t ElementBytes(DynamicType type) {
  return type == DynamicType::kFloat32 ? 4 : type == DynamicType::kBfloat16 ? 2 : 1;
}

// One worker's part of y: the features [first, end), block column by block column.
class ProductWorker {
 public:
  ProductWorker(const DynamicKernels& kernels, const Grid& grid, int64_t batch, const Groups& groups,
                const DynamicOperands& operands)
      : kernels_(kernels), rows_(grid.rows), columns_(grid.columns), batch_(batch), groups_(groups),
        operands_(operands), block_bytes_(grid.block_elements() * kernels.element_bytes()) {
    const int64_t row_bytes = std::min<int64_t>(columns_.block, kTileColumns) * kernels.element_bytes();
    job_.stride = columns_.block;
    rows_ahead_ = std::max<int64_t>(kPrefetchBytes / row_bytes, 1);
    job_.x_stride = rows_.features;
    job_.y_stride = columns_.features;
    job_.scale = 1.0f;
  }

  void Run(int64_t first, int64_t end) {
    for (int64_t feature = first; feature < end;) {
      const int64_t column = feature / columns_.block;
      const int64_t count = std::min(end, columns_.Offset(column) + columns_.Extent(column)) - feature;
      RunColumn(column, feature, count);
      feature += count;
    }
  }

 private:
  void RunColumn(int64_t column, int64_t feature, int64_t count) {
    float* y = operands_.y + feature;
    for (int64_t b = 0; b < batch_; ++b) std::fill_n(y + b * columns_.features, count, 0.0f);
    const int64_t begin = column * rows_.lines;
    const int64_t within = (feature - columns_.Offset(column)) * kernels_.element_bytes();
    job_.y = y;
    for (int64_t row = NextRow(begin, 0), next = row; row < rows_.lines; row = next) {
      next = NextRow(begin, row + 1);
      const int64_t group = begin + row;
      job_.block = Block(row, column) + within;
      // Behind the last block comes the first of the next column, mostly.
      job_.ahead = next < rows_.lines ? Block(next, column) + within : Block(0, std::min(column + 1, columns_.lines - 1));
      job_.depth = rows_.Extent(row);
      job_.rows_ahead = std::min(rows_ahead_, job_.depth);
      job_.x = operands_.x + rows_.Offset(row);
      job_.entries = groups_.entries + groups_.start[group];
      if (operands_.scales != nullptr) job_.scale = operands_.scales[row * columns_.lines + column];
      kernels_.Multiply(job_, count, groups_.size(group));
    }
    operands_.epilogue.Apply(kernels_.common(), y, columns_.features, batch_, feature, count);
  }

  // The first block row from `row` on whose block is wanted.
  int64_t NextRow(int64_t begin, int64_t row) const {
    while (row < rows_.lines && groups_.size(begin + row) == 0) ++row;
    return row;
  }

  const char* Block(int64_t row, int64_t column) const {
    return static_cast<const char*>(operands_.blocks) + (row * columns_.lines + column) * block_bytes_;
  }

  const DynamicKernels& kernels_;
  const Axis& rows_;
  const Axis& columns_;
  int64_t batch_;
  const Groups& groups_;
  const DynamicOperands& operands_;
  int64_t block_bytes_;
  int64_t rows_ahead_;
  DynamicJob job_ = {};
};

// Bounds [parts + 1] of features of y with about equal work in between.
std::vector<int64_t> SplitFeatures(const KernelTable& table, const Grid& grid, const Groups& groups, int64_t threads) {
  const Axis& columns = grid.columns;
  const double elements = static_cast<double>(grid.block_elements());
  const int64_t num_groups = grid.rows.lines * columns.lines;
  const double most = static_cast<double>(groups.total(num_groups)) * EstimateNanoseconds(table, elements, 1);
  if (threads == 1 || UsefulWorkers(most, threads) == 1) return {0, columns.features};
  std::vector<double> done(columns.lines + 1, 0.0);  // time until each column
  const double read = EstimateNanoseconds(table, elements, 0);
  const double multiply = EstimateNanoseconds(table, elements, 1) - read;
  for (int64_t j = 0, g = 0; j < columns.lines; ++j) {
    const int64_t entries = groups.start[g + grid.rows.lines] - groups.start[g];
    int64_t blocks = 0;
    for (const int64_t end = g + grid.rows.lines; g < end; ++g) blocks += groups.size(g) > 0;
    done[j + 1] = done[j] + static_cast<double>(blocks) * read + static_cast<double>(entries) * multiply;
  }
  const int64_t workers = UsefulWorkers(done.back(), threads);
  const int64_t parts = workers == 1 ? 1 : workers * kPartsPerWorker;
  const bool whole = columns.lines >= 2 * parts;  // blocks are read faster in one piece
  std::vector<int64_t> bounds = {0};
  for (int64_t p = 1; p < parts; ++p) {
    const double target = done.back() * static_cast<double>(p) / static_cast<double>(parts);
    const int64_t j = std::upper_bound(done.begin() + 1, done.end() - 1, target) - done.begin() - 1;
    const double share = whole ? 0 : (target - done[j]) / std::max(done[j + 1] - done[j], 1.0);
    const int64_t within = static_cast<int64_t>(share * static_cast<double>(columns.Extent(j))) / kSplitColumns;
    bounds.push_back(std::max(bounds.back(), columns.Offset(j) + within * kSplitColumns));
  }
  bounds.push_back(columns.features);
  return bounds;
}

}  // namespace

DynamicKernels::DynamicKernels(const DynamicTable& table, const KernelTable& common, DynamicType type)
    : common_(&common), element_bytes_(ElementBytes(type)) {
  for (int64_t i = 0; i < table.num_kernels; ++i) {
    if (table.kernels[i].type == type) kernels_.push_back(&table.kernels[i]);
  }
}

const DynamicKernel* DynamicKernels::Choose(int64_t columns, int64_t examples) const {
  for (const DynamicKernel* kernel : kernels_) {
    if (kernel->columns <= columns && kernel->examples <= examples) return kernel;
  }
  return nullptr;
}

const DynamicKernel* DynamicKernels::ChooseOf(int64_t columns, int64_t examples) const {
  for (const DynamicKernel* kernel : kernels_) {
    if (kernel->columns == columns && kernel->examples <= examples) return kernel;
  }
  return nullptr;
}

void DynamicKernels::Multiply(DynamicJob job, int64_t columns, int64_t examples) const {
  const DynamicEntry* entries = job.entries;
  const void* next_block = job.ahead;
  for (int64_t column = 0; column < columns;) {
    const DynamicKernel* kernel = Choose(columns - column, examples);
    const int64_t wide = kernel->columns;
    const char* next = static_cast<const char*>(job.block) + wide * element_bytes_;
    column += wide;
    job.ahead = column < columns ? next : next_block;
    for (int64_t e = 0; e < examples; e += kernel->examples) {
      if (e > 0) kernel = ChooseOf(wide, examples - e);
      job.entries = entries + e;
      kernel->multiply(job);
    }
    job.block = next;
    job.y += wide;
  }
}

void RunDynamicProduct(const DynamicKernels& kernels, const Grid& grid, int64_t batch, const Groups& groups,
                       int64_t threads, const DynamicOperands& operands, const ParallelFor& parallel_for) {
  const std::vector<int64_t> bounds = SplitFeatures(kernels.common(), grid, groups, threads);
  const int64_t parts = static_cast<int64_t>(bounds.size()) - 1;
  const auto work = [&](int64_t part) {
    ProductWorker(kernels, grid, batch, groups, operands).Run(bounds[part], bounds[part + 1]);
  };
  if (parts == 1) {
    work(0);
  } else {
    parallel_for(parts, work);
  }
}

}  // namespace blocksparse
