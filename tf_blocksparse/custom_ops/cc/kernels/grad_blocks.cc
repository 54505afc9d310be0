#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

namespace blocksparse {
namespace {

// Batch rows of one pass over the blocks: enough to pay for adding to the gradient again in every pass, few
// enough that the pass's part of x and dy stays in the second-level cache.
constexpr int64_t kMaxChunk = 128;
// Rows from which the features of a line are gathered: row after row of x lies in another page of memory, and each
// block would find its 16 or so floats of every row anew.
constexpr int64_t kMinPanelRows = 16;

// panels[f * rows + b * extent + c] = x[b * stride + f + c] for lines of `extent` features from f on: each line's rows
// side by side. EXTENT 0: any.
template <int64_t EXTENT>
void GatherLines(const float* x, int64_t stride, int64_t rows, int64_t features, int64_t any_extent, float* panels) {
  const int64_t extent = EXTENT != 0 ? EXTENT : any_extent;
  for (int64_t f = 0; f + extent <= features; f += extent) {
    float* panel = panels + f * rows;
    for (int64_t b = 0; b < rows; ++b) {
      for (int64_t c = 0; c < extent; ++c) panel[b * extent + c] = x[b * stride + f + c];
    }
  }
}

void GatherEqualLines(const float* x, int64_t stride, int64_t rows, int64_t features, int64_t extent, float* panels) {
  switch (extent) {
    case 1: return GatherLines<1>(x, stride, rows, features, extent, panels);
    case 2: return GatherLines<2>(x, stride, rows, features, extent, panels);
    case 4: return GatherLines<4>(x, stride, rows, features, extent, panels);
    case 8: return GatherLines<8>(x, stride, rows, features, extent, panels);
    case 12: return GatherLines<12>(x, stride, rows, features, extent, panels);
    case 16: return GatherLines<16>(x, stride, rows, features, extent, panels);
    case 32: return GatherLines<32>(x, stride, rows, features, extent, panels);
    default: return GatherLines<0>(x, stride, rows, features, extent, panels);
  }
}

// The lines [first, end) of an axis; x points at the first feature of line `first`.
void GatherAxis(const Axis& axis, int64_t first, int64_t end, const float* x, int64_t rows, float* panels) {
  for (int64_t line = first; line < end;) {
    const int64_t extent = axis.Extent(line);
    const int64_t gate_end = (line / axis.gate_lines + 1) * axis.gate_lines;
    const int64_t run_end = extent == axis.block ? std::min(gate_end - axis.ragged(), end) : line + 1;
    const int64_t skipped = axis.Offset(line) - axis.Offset(first);
    GatherEqualLines(x + skipped, axis.features, rows, (run_end - line) * extent, extent, panels + skipped * rows);
    line = run_end;
  }
}

// The block row that entry k of the index belongs to.
int64_t RowOf(const BlockIndex& index, int64_t k) {
  return std::upper_bound(index.start.begin(), index.start.end(), k) - index.start.begin() - 1;
}

class GradWorker {
 public:
  GradWorker(const GradPlan& plan, const float* x, const float* dy, float* dblocks, float* workspace,
             int64_t first, int64_t end)
      : plan_(plan), index_(*plan.index), x_(x), dy_(dy), dblocks_(dblocks), workspace_(workspace),
        list_(reinterpret_cast<int32_t*>(workspace + plan.panel_floats)), first_(first), end_(end),
        first_row_(RowOf(index_, first)), end_row_(RowOf(index_, end - 1) + 1) {
    job_.height = index_.grid.rows.block;
    job_.width = index_.grid.columns.block;
  }

  void Run() {
    ZeroEdges();
    for (int64_t b = 0; b < plan_.batch; b += plan_.chunk) {
      job_.accumulate = b > 0;
      Chunk(b, std::min(plan_.chunk, plan_.batch - b));
    }
  }

 private:
  void Chunk(int64_t first_batch_row, int64_t batch_rows) {
    const Axis& rows = index_.grid.rows;
    const Axis& columns = index_.grid.columns;
    const int64_t first_feature = rows.Offset(first_row_);
    const float* x = x_ + first_batch_row * rows.features + first_feature;
    const float* dy = dy_ + first_batch_row * columns.features;
    const bool panels = plan_.panel_floats > 0;
    job_.rows = batch_rows;
    job_.dy = dy;
    if (panels) {
      const int64_t features = rows.Offset(end_row_ - 1) + rows.Extent(end_row_ - 1) - first_feature;
      float* dy_panels = workspace_ + features * batch_rows;
      GatherAxis(rows, first_row_, end_row_, x, batch_rows, workspace_);
      GatherAxis(columns, 0, columns.lines, dy, batch_rows, dy_panels);
      x = workspace_;
      job_.dy = dy_panels;
    }
    feature_step_ = panels ? batch_rows : 1;
    for (int64_t row = first_row_; row < end_row_; ++row) {
      job_.x = x + (rows.Offset(row) - first_feature) * feature_step_;
      job_.x_stride = panels ? rows.Extent(row) : rows.features;
      Row(row);
    }
  }

  void Row(int64_t row) {
    const int64_t begin = std::max<int64_t>(index_.start[row], first_);
    const int64_t end = std::min<int64_t>(index_.start[row + 1], end_);
    const int64_t full_end = std::min<int64_t>(std::max<int64_t>(index_.full_end[row], begin), end);
    job_.real_height = index_.grid.rows.Extent(row);
    const bool full_row = job_.real_height == job_.height;
    job_.real_width = job_.width;
    Blocks(begin, full_end, true, full_row ? *plan_.kernel : *plan_.edge_kernel);
    job_.real_width = index_.grid.columns.EdgeExtent();
    Blocks(full_end, end, false, *plan_.edge_kernel);
  }

  void Blocks(int64_t begin, int64_t end, bool full, const MicroKernel& kernel) {
    if (begin >= end) return;
    for (int64_t k = begin; k < end; ++k) {
      list_[k - begin] = static_cast<int32_t>(index_.Offset(k, full) * feature_step_);
    }
    const bool stored = index_.in_stored_order();
    job_.list = {list_, stored ? nullptr : index_.position.data() + begin, end - begin};
    job_.dblocks = dblocks_ + (stored ? begin * index_.grid.block_elements() : 0);
    job_.dy_stride = plan_.panel_floats > 0 ? job_.real_width : index_.grid.columns.features;
    kernel.grad(job_);
  }

  // Elements outside of the matrix get no gradient, and the edge kernel does not write them.
  void ZeroEdges() {
    const int64_t size = index_.grid.block_elements();
    for (int64_t row = first_row_; row < end_row_; ++row) {
      const bool full_row = index_.grid.rows.Extent(row) == index_.grid.rows.block;
      const int64_t from = full_row ? index_.full_end[row] : index_.start[row];
      for (int64_t k = std::max(from, first_); k < std::min<int64_t>(index_.start[row + 1], end_); ++k) {
        std::fill_n(dblocks_ + index_.Position(k) * size, size, 0.0f);
      }
    }
  }

  const GradPlan& plan_;
  const BlockIndex& index_;
  const float* x_;
  const float* dy_;
  float* dblocks_;
  float* workspace_;
  int32_t* list_;
  const int64_t first_;
  const int64_t end_;
  const int64_t first_row_;
  const int64_t end_row_;
  int64_t feature_step_ = 1;  // floats between two features of a line in what the kernels read
  GradJob job_ = {};
};

}  // namespace

GradPlan PlanGrad(const KernelTable& table, const BlockIndex& index, int64_t batch, int64_t threads) {
  GradPlan plan = {};
  plan.table = &table;
  plan.index = &index;
  plan.batch = batch;
  if (batch == 0 || index.num_blocks == 0) return plan;
  const Grid& grid = index.grid;
  plan.kernel = ChooseKernel(table, Kind::kGradBlocks, grid.rows.block, grid.columns.block, batch);
  plan.edge_kernel = AnyShapeKernel(table, Kind::kGradBlocks, 0);
  plan.chunk = std::min(batch, plan.kernel->batch == 0 ? kMaxChunk : plan.kernel->batch);
  const int64_t features = grid.rows.features + grid.columns.features;
  // Panels are indexed with 32 bits.
  const bool panels = plan.chunk >= kMinPanelRows && features < INT32_MAX / kMaxChunk;
  const double elements = static_cast<double>(index.num_blocks) * static_cast<double>(grid.block_elements());
  plan.workers = std::min(
      UsefulWorkers(EstimateNanoseconds(table, elements, static_cast<double>(batch)), threads), index.num_blocks);
  for (int64_t w = 0; w <= plan.workers; ++w) plan.bounds.push_back(index.num_blocks * w / plan.workers);
  if (panels) plan.panel_floats = (features * plan.chunk + 15) / 16 * 16;
  plan.list_floats = (index.max_entries + 15) / 16 * 16;
  plan.workspace_floats = plan.workers * (plan.panel_floats + plan.list_floats);
  return plan;
}

void RunGrad(const GradPlan& plan, const float* x, const float* dy, float* dblocks, float* workspace,
             const ParallelFor& parallel_for) {
  const BlockIndex& index = *plan.index;
  if (plan.kernel == nullptr) {
    std::fill_n(dblocks, index.num_blocks * index.grid.block_elements(), 0.0f);
    return;
  }
  const auto work = [&](int64_t worker) {
    GradWorker(plan, x, dy, dblocks, workspace + worker * (plan.panel_floats + plan.list_floats), plan.bounds[worker],
               plan.bounds[worker + 1])
        .Run();
  };
  if (plan.workers == 1) {
    work(0);
  } else {
    parallel_for(plan.workers, work);
  }
}

}  // namespace blocksparse
