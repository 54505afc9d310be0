#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {
namespace {

// Output features gathered in the first-level cache before they are transposed back to row-major order.
constexpr int64_t kGroupFeatures = 64;

bool IsTile(const MicroKernel& kernel) { return kernel.kind != Kind::kProductRows; }

bool AnyShape(const MicroKernel& kernel) { return kernel.shape.height == 0; }

int64_t MaxOutputs(const MicroKernel& kernel, const Axis& lines) {
  return AnyShape(kernel) ? std::min(lines.block, lines.gate_features) : lines.block;
}

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

// One worker's part of a run.
class ProductWorker {
 public:
  ProductWorker(const ProductPlan& plan, const float* x, const float* blocks, const Epilogue& epilogue, float* y,
                float* workspace)
      : plan_(plan), index_(*plan.index), lines_(plan.index->line_axis()), x_(x), blocks_(blocks),
        epilogue_(epilogue), y_(y), tile_(workspace), output_(workspace + plan.tile_floats),
        list_(reinterpret_cast<int32_t*>(workspace + plan.tile_floats + plan.output_floats)) {
    job_.height = index_.grid.rows.block;
    job_.width = index_.grid.columns.block;
  }

  // The lines [first, end) for the segments [first_segment, end_segment): as many tiles of x as the second-level cache
  // holds serve all lines before the next are packed; row-major x is small, so there a panel of W serves all rows
  // before the next.
  void Run(int64_t first_segment, int64_t end_segment, int64_t first_line, int64_t end_line) {
    int64_t rows_left = 0;
    for (int64_t s = first_segment; s < end_segment;) {
      const int64_t tiles = CountTiles(s, end_segment);
      if (tiles > 0) RunTiles(s, tiles, first_line, end_line);
      rows_left += tiles == 0;
      s += std::max<int64_t>(tiles, 1);
    }
    if (rows_left == 0) return;
    const int64_t entries = std::min(kPanelEntries, std::max<int64_t>(kPanelFloats / job_.height / job_.width, 1));
    for (int64_t line = first_line, end = 0; line < end_line; line = end) {
      end = PanelEnd(index_, line, end_line, entries);
      LoadPanel(line, end);
      for (int64_t s = first_segment; s < end_segment; ++s) {
        if (!IsTile(*plan_.segments[s].kernel)) RunRows(plan_.segments[s], line, end);
      }
    }
  }

 private:
  void LoadPanel(int64_t first_line, int64_t end_line) {
    const int64_t base = index_.start[first_line];
    job_.base = base;
    job_.offset = index_.Offsets(first_line, end_line, list_);
    job_.position = index_.in_stored_order() ? nullptr : index_.position.data() + base;
    job_.blocks = blocks_ + (index_.in_stored_order() ? base * index_.grid.block_elements() : 0);
  }

  void RunRows(const Segment& segment, int64_t first_line, int64_t end_line) {
    const int64_t in = index_.other_axis().features;
    const int64_t out = lines_.features;
    job_.x = x_ + segment.first_row * in;
    job_.x_stride = in;
    job_.rows = segment.rows;
    for (int64_t line = first_line, count = 0; line < end_line; line += count) {
      count = EqualLines(line, end_line);
      const int64_t extent = lines_.Extent(line);
      const int64_t outputs = AnyShape(*segment.kernel) ? extent : lines_.block;
      float* y = y_ + segment.first_row * out + lines_.Offset(line);
      // A kernel for one shape writes whole blocks: at the ragged edge beside y, and the real part is copied.
      const bool beside = outputs != extent;
      job_.y = beside ? output_ : y;
      job_.y_stride = beside ? outputs : out;
      RunLines(*segment.kernel, line, count, outputs, 1);
      if (beside) {
        for (int64_t b = 0; b < segment.rows; ++b) {
          std::memcpy(y + b * out, output_ + b * outputs, extent * sizeof(float));
        }
      }
      epilogue_.Apply(*plan_.table, y, out, segment.rows, lines_.Offset(line), count * extent);
    }
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

  void RunTiles(int64_t first_segment, int64_t tiles, int64_t first_line, int64_t end_line) {
    const int64_t in = index_.other_axis().features;
    const int64_t lanes = plan_.segments[first_segment].kernel->batch;
    for (int64_t t = 0; t < tiles; ++t) {
      const Segment& segment = plan_.segments[first_segment + t];
      plan_.table->pack(x_ + segment.first_row * in, in, segment.rows, in, lanes, tile_ + t * in * lanes);
    }
    job_.x_stride = lanes;
    job_.y_stride = lanes;
    job_.rows = lanes;
    for (int64_t line = first_line, end = 0; line < end_line; line = end) {
      end = PanelEnd(index_, line, end_line, kPanelEntries);
      LoadPanel(line, end);
      for (int64_t next = line; line < end; line = next) {
        for (int64_t t = 0; t < tiles; ++t) {
          job_.x = tile_ + t * in * lanes;
          next = RunTileGroup(plan_.segments[first_segment + t], line, end);
        }
      }
    }
  }

  // Some lines, about kGroupFeatures features of y. Returns the line after them.
  int64_t RunTileGroup(const Segment& segment, int64_t line, int64_t end_line) {
    const int64_t lanes = segment.kernel->batch;
    const int64_t out = lines_.features;
    const int64_t first_feature = lines_.Offset(line);
    int64_t features = 0;
    // In order: where a line is ragged, the next one overwrites what its kernel wrote beyond the real part.
    while (line < end_line && features < kGroupFeatures) {
      const int64_t wanted = (kGroupFeatures - features + lines_.block - 1) / lines_.block;
      const int64_t count = EqualLines(line, std::min(end_line, line + wanted));
      const int64_t extent = lines_.Extent(line);
      job_.y = output_ + features * lanes;
      RunLines(*segment.kernel, line, count, AnyShape(*segment.kernel) ? extent : lines_.block, lanes);
      line += count;
      features += count * extent;
    }
    float* y = y_ + segment.first_row * out + first_feature;
    plan_.table->unpack(output_, lanes, segment.rows, features, y, out);
    epilogue_.Apply(*plan_.table, y, out, segment.rows, first_feature, features);
    return line;
  }

  // How many lines from `line` on lie side by side in y: full ones of one gate, or one ragged.
  int64_t EqualLines(int64_t line, int64_t end_line) const {
    if (lines_.Extent(line) != lines_.block) return 1;
    const int64_t gate_end = (line / lines_.gate_lines + 1) * lines_.gate_lines;
    const int64_t full_end = gate_end - lines_.ragged();
    return std::min(full_end, end_line) - line;
  }

  // Lines of `outputs` features each; a feature of job_.y is `step` floats after the one before.
  void RunLines(const MicroKernel& kernel, int64_t line, int64_t count, int64_t outputs, int64_t step) {
    job_.start = index_.start.data() + line;
    job_.end = index_.full_end.data() + line;
    job_.lines = count;
    job_.depth = index_.other_axis().block;
    job_.outputs = outputs;
    job_.accumulate = false;
    kernel.product(job_);
    if (!index_.other_axis().ragged()) return;
    // Blocks at the edge that is summed over: only their real part, since the rest may hold anything.
    const MicroKernel* edge = AnyShapeKernel(*plan_.table, kernel.kind, kernel.batch);
    for (int64_t l = line; l < line + count; ++l, job_.y += outputs * step) {
      if (index_.full_end[l] == index_.start[l + 1]) continue;
      job_.start = index_.full_end.data() + l;
      job_.end = index_.start.data() + l + 1;
      job_.lines = 1;
      job_.depth = index_.other_axis().EdgeExtent();
      job_.outputs = lines_.Extent(l);
      job_.accumulate = true;
      edge->product(job_);
    }
  }

  const ProductPlan& plan_;
  const BlockIndex& index_;
  const Axis& lines_;
  const float* x_;
  const float* blocks_;
  const Epilogue& epilogue_;
  float* y_;
  float* tile_;
  float* output_;
  int32_t* list_;
  ProductJob job_ = {};
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

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

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
    const int64_t outputs = MaxOutputs(*kernel, lines);
    if (IsTile(*kernel)) {
      const int64_t tile = index.other_axis().features * kernel->batch;
      const int64_t fit = Elements(index) > kLargeMatrix ? std::max<int64_t>(kTilesFloats / tile, 1) : 1;
      const int64_t tiles = std::min(fit, (plan->batch - 1) / kernel->batch + 1);
      plan->tile_floats = std::max(plan->tile_floats, tile * tiles);
      plan->output_floats = std::max(plan->output_floats, (kGroupFeatures + outputs) * kernel->batch);
    } else if (!AnyShape(*kernel)) {
      plan->output_floats = std::max(plan->output_floats, outputs * rows);
    }
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
    plan.workers = std::min(plan.workers, lines.lines);
    plan.bounds = SplitLines(index, plan.workers);
  } else {
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
      part.Run(0, segments, first, end);
    } else {
      part.Run(first, end, 0, lines);
    }
  };
  if (plan.workers == 1) {
    work(0);
  } else {
    parallel_for(plan.workers, work);
  }
}

}  // namespace blocksparse
