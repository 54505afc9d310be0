#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

namespace blocksparse {
namespace {

// Batch rows of one pass over the blocks: enough to pay for adding to the gradient again in every pass, few
// enough that the pass's part of x and dy stays in the second-level cache.
constexpr int64_t kRowsChunk = 256;
constexpr int64_t kPanelChunk = 128;

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
    const float* x = x_ + first_batch_row * rows.features;
    const float* dy = dy_ + first_batch_row * columns.features;
    const int64_t first_feature = rows.Offset(first_row_);
    int64_t feature_stride = 1;
    job_.rows = batch_rows;
    job_.x_stride = rows.features;
    job_.dy_stride = columns.features;
    job_.dy = dy;
    x += first_feature;
    if (plan_.kernel->kind == Kind::kGradPanels) {
      const int64_t lanes = PanelLanes(batch_rows);
      const int64_t features = rows.Offset(end_row_ - 1) + rows.Extent(end_row_ - 1) - first_feature;
      float* dy_panel = workspace_ + features * lanes;
      plan_.table->pack(x, rows.features, batch_rows, features, lanes, workspace_);
      plan_.table->pack(dy, columns.features, batch_rows, columns.features, lanes, dy_panel);
      x = workspace_;
      feature_stride = lanes;
      job_.rows = job_.x_stride = job_.dy_stride = lanes;
      job_.dy = dy_panel;
    }
    for (int64_t row = first_row_; row < end_row_; ++row) {
      job_.x = x + (rows.Offset(row) - first_feature) * feature_stride;
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
    for (int64_t k = begin; k < end; ++k) list_[k - begin] = static_cast<int32_t>(index_.Offset(k, full));
    const bool stored = index_.in_stored_order();
    job_.list = {list_, stored ? nullptr : index_.position.data() + begin, end - begin};
    job_.dblocks = dblocks_ + (stored ? begin * index_.grid.block_elements() : 0);
    kernel.grad(job_);
  }

  int64_t PanelLanes(int64_t rows) const {
    return (rows + plan_.table->lanes - 1) / plan_.table->lanes * plan_.table->lanes;
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
  plan.kernel = ChooseKernel(table, Kind::kGradRows, grid.rows.block, grid.columns.block, batch);
  plan.edge_kernel = AnyShapeKernel(table, plan.kernel->kind, 0);
  const bool panels = plan.kernel->kind == Kind::kGradPanels;
  const int64_t chunk = panels ? kPanelChunk : kRowsChunk;
  plan.chunk = std::min(chunk, (batch + table.lanes - 1) / table.lanes * table.lanes);
  const double elements = static_cast<double>(index.num_blocks) * static_cast<double>(grid.block_elements());
  plan.workers = std::min(
      UsefulWorkers(EstimateNanoseconds(table, elements, static_cast<double>(batch)), threads), index.num_blocks);
  for (int64_t w = 0; w <= plan.workers; ++w) plan.bounds.push_back(index.num_blocks * w / plan.workers);
  if (panels) plan.panel_floats = (grid.rows.features + grid.columns.features) * plan.chunk;
  plan.panel_floats = (plan.panel_floats + 15) / 16 * 16;
  plan.list_floats = (index.MaxEntries() + 15) / 16 * 16;
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
