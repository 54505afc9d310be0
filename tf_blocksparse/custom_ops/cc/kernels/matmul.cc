#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"
#include "tf_blocksparse/custom_ops/cc/kernels/round_up.h"

namespace blocksparse {
namespace {

// Output features gathered in the first-level cache before they are transposed back to row-major order.
constexpr int64_t kGroupFeatures = 64;

// Blocks of W that are walked before the next batch rows: as many as stay in the second-level cache.
constexpr int64_t kPanelFloats = 512 * 1024 / 4;
constexpr int64_t kPanelEntries = 8192;
// Stored floats of a W that no second-level cache holds. It is read once for several tiles of x, as many as do stay
// there: measured 1.3 times as fast with 12.6 MB and batch 256, and no faster with W of 1.2 to 4 MB.
constexpr double kLargeMatrix = 1024 * 1024;
constexpr int64_t kTilesFloats = 1024 * 1024 / 4;

// The line after the last of a panel that begins with `line`.
int64_t PanelEnd(const BlockIndex& index, int64_t line, int64_t end_line, int64_t entries) {
  const int32_t limit = static_cast<int32_t>(std::min<int64_t>(index.start[line] + entries, index.num_blocks));
  const auto end = std::upper_bound(index.start.begin() + line + 1, index.start.begin() + end_line + 1, limit);
  return std::max<int64_t>(end - index.start.begin() - 1, line + 1);
}

struct LineRange {
  int64_t first;
  int64_t end;
};

// One worker's part of a run.
class ProductWorker {
 public:
  ProductWorker(const ProductPlan& plan, const float* x, const float* blocks, const Epilogue& epilogue, float* y,
                float* workspace)
      : plan_(plan), index_(*plan.index), lines_(plan.index->line_axis()), x_(x), epilogue_(epilogue), y_(y),
        product_(*plan.table, *plan.index, blocks), tile_(workspace), output_(workspace + plan.tile_floats),
        list_(reinterpret_cast<int32_t*>(workspace + plan.tile_floats + plan.output_floats)) {}

  // The lines of all ranges for the segments [first_segment, end_segment): as many tiles of x as the second-level cache
  // holds serve all lines before the next are packed; row-major x is small, so there a panel of W serves all rows
  // before the next.
  void Run(int64_t first_segment, int64_t end_segment, const std::vector<LineRange>& ranges) {
    int64_t rows_left = 0;
    for (int64_t s = first_segment; s < end_segment;) {
      const int64_t tiles = CountTiles(s, end_segment);
      if (tiles > 0) RunTiles(s, tiles, ranges);
      rows_left += tiles == 0;
      s += std::max<int64_t>(tiles, 1);
    }
    if (rows_left == 0) return;
    for (const LineRange& range : ranges) RunRowsOf(first_segment, end_segment, range);
  }

 private:
  void RunRowsOf(int64_t first_segment, int64_t end_segment, const LineRange& range) {
    const int64_t entries =
        std::min(kPanelEntries, std::max<int64_t>(kPanelFloats / index_.grid.block_elements(), 1));
    for (int64_t line = range.first, end = 0; line < range.end; line = end) {
      end = PanelEnd(index_, line, range.end, entries);
      product_.Load(line, end, list_);
      for (int64_t s = first_segment; s < end_segment; ++s) {
        if (!IsTile(*plan_.segments[s].kernel)) RunRows(plan_.segments[s], line, end);
      }
    }
  }

  void RunRows(const Segment& segment, int64_t first_line, int64_t end_line) {
    const int64_t in = index_.other_axis().features;
    const int64_t out = lines_.features;
    const int64_t first_feature = lines_.Offset(first_line);
    float* y = y_ + segment.first_row * out + first_feature;
    const int64_t features = product_.Rows(*segment.kernel, x_ + segment.first_row * in, in, segment.rows, first_line,
                                           end_line, y, out, output_);
    epilogue_.Apply(*plan_.table, y, out, segment.rows, first_feature, features);
  }

  // Segments from `first` on that are tiles of one size and fit the workspace together.
  int64_t CountTiles(int64_t first, int64_t end) const {
    const int64_t lanes = plan_.segments[first].kernel->batch;
    const int64_t most = lanes == 0 ? 0 : plan_.tile_floats / (lanes * index_.other_axis().features);
    int64_t count = 0;
    while (first + count < end && count < most && IsTile(*plan_.segments[first + count].kernel) &&
           plan_.segments[first + count].kernel->batch == lanes) {
      ++count;
    }
    return count;
  }

  void RunTiles(int64_t first_segment, int64_t tiles, const std::vector<LineRange>& ranges) {
    const int64_t in = index_.other_axis().features;
    const int64_t lanes = plan_.segments[first_segment].kernel->batch;
    for (int64_t t = 0; t < tiles; ++t) {
      const Segment& segment = plan_.segments[first_segment + t];
      plan_.table->pack(x_ + segment.first_row * in, in, segment.rows, in, lanes, tile_ + t * in * lanes);
    }
    for (const LineRange& range : ranges) RunTilesOf(first_segment, tiles, range);
  }

  void RunTilesOf(int64_t first_segment, int64_t tiles, const LineRange& range) {
    const int64_t tile_floats = index_.other_axis().features * plan_.segments[first_segment].kernel->batch;
    const int64_t group = (kGroupFeatures + lines_.block - 1) / lines_.block;
    for (int64_t line = range.first, end = 0; line < range.end; line = end) {
      end = PanelEnd(index_, line, range.end, kPanelEntries);
      product_.Load(line, end, list_);
      for (int64_t first = line; first < end; first += group) {
        for (int64_t t = 0; t < tiles; ++t) {
          RunTileGroup(plan_.segments[first_segment + t], tile_ + t * tile_floats, first, std::min(first + group, end));
        }
      }
    }
  }

  // Some lines, about kGroupFeatures features of y.
  void RunTileGroup(const Segment& segment, const float* tile, int64_t line, int64_t end_line) {
    const int64_t lanes = segment.kernel->batch;
    const int64_t out = lines_.features;
    const int64_t first_feature = lines_.Offset(line);
    const int64_t features = product_.Tile(*segment.kernel, tile, line, end_line, output_);
    float* y = y_ + segment.first_row * out + first_feature;
    plan_.table->unpack(output_, lanes, segment.rows, features, y, out);
    epilogue_.Apply(*plan_.table, y, out, segment.rows, first_feature, features);
  }

  const ProductPlan& plan_;
  const BlockIndex& index_;
  const Axis& lines_;
  const float* x_;
  const Epilogue& epilogue_;
  float* y_;
  LineProduct product_;
  float* tile_;
  float* output_;
  int32_t* list_;
};

int64_t WorkerFloats(const ProductPlan& plan) { return plan.tile_floats + plan.output_floats + plan.list_floats; }

std::vector<int64_t> SplitSegments(const std::vector<Segment>& segments, int64_t batch, int64_t parts) {
  std::vector<int64_t> bounds(parts + 1, static_cast<int64_t>(segments.size()));
  bounds[0] = 0;
  int64_t s = 0;
  for (int64_t p = 1; p < parts; ++p) {
    const int64_t target = batch / parts * p;
    while (s < bounds[parts] && segments[s].first_row < target) ++s;
    bounds[p] = s;
  }
  return bounds;
}

double Elements(const BlockIndex& index) {
  return static_cast<double>(index.num_blocks) * static_cast<double>(index.grid.block_elements());
}

// Chooses a kernel for the rows that are left until there are none. Returns the rows that will be computed, those that
// fill up a tile included.
int64_t PlanSegments(ProductPlan* plan) {
  const BlockIndex& index = *plan->index;
  const Axis& lines = index.line_axis();
  const Kind kind = index.by_column ? Kind::kProductRows : Kind::kTransposedTile;
  int64_t computed = 0;
  for (int64_t row = 0; row < plan->batch;) {
    const int64_t left = plan->batch - row;
    const MicroKernel* kernel =
        ChooseKernel(*plan->table, kind, index.grid.rows.block, index.grid.columns.block, left);
    const int64_t rows = kernel->batch == 0 ? left : std::min(left, kernel->batch);
    plan->segments.push_back({kernel, row, rows});
    computed += std::max(rows, kernel->batch);
    row += rows;
    const int64_t slack = LineProduct::SlackFloats(*kernel, lines);
    int64_t output = slack;
    if (IsTile(*kernel)) {
      const int64_t tile = index.other_axis().features * kernel->batch;
      const int64_t fit = Elements(index) > kLargeMatrix ? std::max<int64_t>(kTilesFloats / tile, 1) : 1;
      const int64_t tiles = std::min(fit, (plan->batch - 1) / kernel->batch + 1);
      plan->tile_floats = std::max(plan->tile_floats, tile * tiles);
      // A group of lines is less than a line longer than wanted.
      output += (kGroupFeatures + std::min(lines.block, lines.gate_features)) * kernel->batch;
    }
    plan->output_floats = std::max(plan->output_floats, output);
  }
  return computed;
}

}  // namespace

ProductPlan PlanProduct(const KernelTable& table, const BlockIndex& index, int64_t batch, int64_t threads) {
  const Axis& lines = index.line_axis();
  ProductPlan plan = {};
  plan.table = &table;
  plan.index = &index;
  plan.batch = batch;
  if (batch == 0 || index.num_blocks == 0) return plan;

  const double elements = Elements(index);
  const int64_t computed = PlanSegments(&plan);
  plan.workers = UsefulWorkers(EstimateNanoseconds(table, elements, static_cast<double>(computed)), threads);
  // Every worker packs the x it needs for itself: sharing a packed copy between cores costs more than making two.
  // Splitting the batch packs each row once, but needs enough segments to share out evenly.
  const int64_t segments = static_cast<int64_t>(plan.segments.size());
  // A large W is better read in parts: each worker then finds its lines in its own cache, or streams less.
  const bool uneven = segments % plan.workers != 0 && segments < 4 * plan.workers;
  plan.split_lines = uneven || elements > kLargeMatrix;
  if (plan.split_lines) {
    // No more parts than threads: lines that go from one core's cache to another's cost more than what is gained.
    plan.workers = std::min(plan.workers, lines.lines);
    plan.bounds = SplitLines(index, plan.workers);
  } else {
    if (plan.workers > 1) plan.workers = std::min(segments, plan.workers * kPartsPerWorker);
    plan.bounds = SplitSegments(plan.segments, batch, plan.workers);
  }
  plan.tile_floats = RoundUp(plan.tile_floats, 16);
  plan.output_floats = RoundUp(plan.output_floats, 16);
  if (index.in_stored_order()) {
    plan.list_floats = RoundUp(std::min(index.num_blocks, kPanelEntries + index.max_entries), 16);
  }
  plan.workspace_floats = plan.workers * WorkerFloats(plan);
  return plan;
}

void RunProduct(const ProductPlan& plan, const float* x, const float* blocks, const Epilogue& epilogue, float* y,
                float* workspace, const ParallelFor& parallel_for) {
  const int64_t lines = plan.index->line_axis().lines;
  if (plan.segments.empty()) {
    const int64_t features = plan.index->line_axis().features;
    std::fill_n(y, plan.batch * features, 0.0f);
    epilogue.Apply(*plan.table, y, features, plan.batch, 0, features);
    return;
  }
  const auto work = [&](int64_t worker) {
    ProductWorker part(plan, x, blocks, epilogue, y, workspace + worker * WorkerFloats(plan));
    const int64_t first = plan.bounds[worker];
    const int64_t end = plan.bounds[worker + 1];
    const int64_t segments = static_cast<int64_t>(plan.segments.size());
    if (plan.split_lines) {
      part.Run(0, segments, {{first, end}});
    } else {
      part.Run(first, end, {{0, lines}});
    }
  };
  if (plan.workers == 1) {
    work(0);
  } else {
    parallel_for(plan.workers, work);
  }
}

void RunProductLines(const ProductPlan& plan, int64_t first_line, int64_t end_line, const float* x,
                     const float* blocks, float* y, float* workspace) {
  const Axis& lines = plan.index->line_axis();
  std::vector<LineRange> ranges;
  for (int64_t gate = 0; gate < lines.gates; ++gate) {
    ranges.push_back({gate * lines.gate_lines + first_line, gate * lines.gate_lines + end_line});
  }
  if (!plan.segments.empty()) {
    const Epilogue none;
    ProductWorker(plan, x, blocks, none, y, workspace).Run(0, static_cast<int64_t>(plan.segments.size()), ranges);
    return;
  }
  for (int64_t row = 0; row < plan.batch; ++row) {
    for (const LineRange& range : ranges) {
      for (int64_t line = range.first; line < range.end; ++line) {
        std::fill_n(y + row * lines.features + lines.Offset(line), lines.Extent(line), 0.0f);
      }
    }
  }
}

}  // namespace blocksparse
