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

// Features that the kernel writes for one line.
int64_t Outputs(const MicroKernel& kernel, const Axis& lines, int64_t line) {
  return AnyShape(kernel) ? lines.Extent(line) : lines.block;
}

int64_t MaxOutputs(const MicroKernel& kernel, const Axis& lines) {
  return AnyShape(kernel) ? std::min(lines.block, lines.gate_features) : lines.block;
}

// One worker's part of a run.
class ProductWorker {
 public:
  ProductWorker(const ProductPlan& plan, const float* x, const float* blocks, float* y, float* workspace)
      : plan_(plan), index_(*plan.index), lines_(plan.index->line_axis()), x_(x), y_(y), tile_(workspace),
        output_(workspace + plan.tile_floats) {
    job_.blocks = blocks;
    job_.height = index_.grid.rows.block;
    job_.width = index_.grid.columns.block;
  }

  void Run(const Segment& segment, int64_t first_line, int64_t end_line) {
    if (IsTile(*segment.kernel)) {
      RunTile(segment, first_line, end_line);
    } else {
      RunRows(segment, first_line, end_line);
    }
  }

 private:
  void RunRows(const Segment& segment, int64_t first_line, int64_t end_line) {
    const int64_t in = index_.other_axis().features;
    const int64_t out = lines_.features;
    job_.x = x_ + segment.first_row * in;
    job_.x_stride = in;
    job_.rows = segment.rows;
    for (int64_t line = first_line; line < end_line; ++line) {
      float* y = y_ + segment.first_row * out + lines_.Offset(line);
      const int64_t outputs = Outputs(*segment.kernel, lines_, line);
      const int64_t extent = lines_.Extent(line);
      // A kernel for one shape writes whole blocks: at the ragged edge beside y, and the real part is copied.
      const bool beside = outputs != extent;
      job_.y = beside ? output_ : y;
      job_.y_stride = beside ? outputs : out;
      RunLine(*segment.kernel, line, outputs);
      if (beside) {
        for (int64_t b = 0; b < segment.rows; ++b) {
          std::memcpy(y + b * out, output_ + b * outputs, extent * sizeof(float));
        }
      }
    }
  }

  void RunTile(const Segment& segment, int64_t first_line, int64_t end_line) {
    const int64_t in = index_.other_axis().features;
    const int64_t out = lines_.features;
    const int64_t lanes = segment.kernel->batch;
    plan_.table->pack(x_ + segment.first_row * in, in, segment.rows, in, lanes, tile_);
    job_.x = tile_;
    job_.x_stride = lanes;
    job_.y_stride = lanes;
    job_.rows = lanes;
    for (int64_t line = first_line; line < end_line;) {
      const int64_t first_feature = lines_.Offset(line);
      int64_t features = 0;
      // In order: where a line is ragged, the next one overwrites what its kernel wrote beyond the real part.
      for (; line < end_line && features < kGroupFeatures; ++line) {
        job_.y = output_ + features * lanes;
        RunLine(*segment.kernel, line, Outputs(*segment.kernel, lines_, line));
        features += lines_.Extent(line);
      }
      plan_.table->unpack(output_, lanes, segment.rows, features,
                          y_ + segment.first_row * out + first_feature, out);
    }
  }

  void RunLine(const MicroKernel& kernel, int64_t line, int64_t outputs) {
    const int32_t first = index_.start[line];
    const int32_t full_end = index_.full_end[line];
    const int32_t end = index_.start[line + 1];
    Point(first, full_end);
    job_.depth = index_.other_axis().block;
    job_.outputs = outputs;
    job_.accumulate = false;
    kernel.product(job_);
    if (full_end == end) return;
    // Blocks at the edge that is summed over: only their real part, since the rest may hold anything.
    const MicroKernel* edge =
        AnyShapeKernel(*plan_.table, kernel.kind, kernel.batch);
    Point(full_end, end);
    job_.depth = index_.other_axis().EdgeExtent();
    job_.outputs = lines_.Extent(line);
    job_.accumulate = true;
    edge->product(job_);
  }

  void Point(int32_t first, int32_t end) {
    job_.offset = index_.offset.data() + first;
    job_.position = index_.position.data() + first;
    job_.count = end - first;
  }

  const ProductPlan& plan_;
  const BlockIndex& index_;
  const Axis& lines_;
  const float* x_;
  float* y_;
  float* tile_;
  float* output_;
  ProductJob job_ = {};
};

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

}  // namespace

ProductPlan PlanProduct(const KernelTable& table, const BlockIndex& index, int64_t batch, int64_t threads) {
  const Axis& lines = index.line_axis();
  const int64_t height = index.grid.rows.block;
  const int64_t width = index.grid.columns.block;
  const Kind kind = index.by_column ? Kind::kProductRows : Kind::kTransposedTile;
  ProductPlan plan = {};
  plan.table = &table;
  plan.index = &index;
  plan.batch = batch;
  if (batch == 0 || index.num_blocks == 0) return plan;

  int64_t padded = 0;
  for (int64_t row = 0; row < batch;) {
    const int64_t left = batch - row;
    const MicroKernel* kernel = ChooseKernel(table, kind, height, width, left);
    const int64_t rows = kernel->batch == 0 ? left : std::min(left, kernel->batch);
    plan.segments.push_back({kernel, row, rows});
    padded += std::max(rows, kernel->batch);
    row += rows;
    const int64_t outputs = MaxOutputs(*kernel, lines);
    if (IsTile(*kernel)) {
      plan.tile_floats = std::max(plan.tile_floats, index.other_axis().features * kernel->batch);
      plan.output_floats = std::max(plan.output_floats, (kGroupFeatures + outputs) * kernel->batch);
    } else if (!AnyShape(*kernel)) {
      plan.output_floats = std::max(plan.output_floats, outputs * rows);
    }
  }

  const double elements = static_cast<double>(index.num_blocks) * static_cast<double>(height * width);
  plan.workers = UsefulWorkers(EstimateNanoseconds(table, elements, static_cast<double>(padded)), threads);
  // Every worker packs the x it needs for itself: sharing a packed copy between cores costs more than making two.
  // Splitting the batch packs each row once, but needs enough segments to share out evenly.
  const int64_t segments = static_cast<int64_t>(plan.segments.size());
  plan.split_lines = segments % plan.workers != 0 && segments < 4 * plan.workers;
  if (plan.split_lines) {
    plan.workers = std::min(plan.workers, lines.lines);
    plan.bounds = SplitLines(index, plan.workers);
  } else {
    plan.bounds = SplitSegments(plan.segments, batch, plan.workers);
  }
  plan.tile_floats = RoundUp(plan.tile_floats, 16);
  plan.output_floats = RoundUp(plan.output_floats, 16);
  plan.workspace_floats = plan.workers * (plan.tile_floats + plan.output_floats);
  return plan;
}

void RunProduct(const ProductPlan& plan, const float* x, const float* blocks, float* y, float* workspace,
                const ParallelFor& parallel_for) {
  const int64_t lines = plan.index->line_axis().lines;
  if (plan.segments.empty()) {
    std::fill_n(y, plan.batch * plan.index->line_axis().features, 0.0f);
    return;
  }
  const auto work = [&](int64_t worker) {
    ProductWorker part(plan, x, blocks, y, workspace + worker * (plan.tile_floats + plan.output_floats));
    const int64_t first = plan.bounds[worker];
    const int64_t end = plan.bounds[worker + 1];
    if (plan.split_lines) {
      for (const Segment& segment : plan.segments) part.Run(segment, first, end);
    } else {
      for (int64_t s = first; s < end; ++s) part.Run(plan.segments[s], 0, lines);
    }
  };
  if (plan.workers == 1) {
    work(0);
  } else {
    parallel_for(plan.workers, work);
  }
}

}  // namespace blocksparse
