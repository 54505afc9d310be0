#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"

#include <algorithm>
#include <cstring>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {

int64_t LineProduct::SlackFloats(const MicroKernel& kernel, const Axis& lines) {
  const int64_t outputs = AnyShape(kernel) ? std::min(lines.block, lines.gate_features) : lines.block;
  if (IsTile(kernel)) return outputs * kernel.batch;
  return AnyShape(kernel) ? 0 : outputs * kernel.batch;
}

LineProduct::LineProduct(const KernelTable& table, const BlockIndex& index, const float* blocks)
    : table_(table), index_(index), lines_(index.line_axis()), blocks_(blocks) {
  job_.height = index.grid.rows.block;
  job_.width = index.grid.columns.block;
}

void LineProduct::Load(int64_t first_line, int64_t end_line, int32_t* list) {
  const int64_t base = index_.start[first_line];
  job_.base = base;
  job_.offset = index_.Offsets(first_line, end_line, list);
  job_.position = index_.in_stored_order() ? nullptr : index_.position.data() + base;
  job_.blocks = blocks_ + (index_.in_stored_order() ? base * index_.grid.block_elements() : 0);
}

int64_t LineProduct::Tile(const MicroKernel& kernel, const float* tile, int64_t line, int64_t end_line, float* y) {
  const int64_t lanes = kernel.batch;
  job_.x = tile;
  job_.x_stride = lanes;
  job_.y_stride = lanes;
  job_.rows = lanes;
  int64_t features = 0;
  // In order: where a line is ragged, the next one overwrites what its kernel wrote beyond the real part.
  while (line < end_line) {
    const int64_t count = EqualLines(line, end_line);
    const int64_t extent = lines_.Extent(line);
    job_.y = y + features * lanes;
    RunLines(kernel, line, count, AnyShape(kernel) ? extent : lines_.block, lanes);
    line += count;
    features += count * extent;
  }
  return features;
}

int64_t LineProduct::Rows(const MicroKernel& kernel, const float* x, int64_t x_stride, int64_t rows, int64_t line,
                          int64_t end_line, float* y, int64_t y_stride, float* beside) {
  job_.x = x;
  job_.x_stride = x_stride;
  job_.rows = rows;
  int64_t features = 0;
  for (int64_t count = 0; line < end_line; line += count) {
    count = EqualLines(line, end_line);
    const int64_t extent = lines_.Extent(line);
    const int64_t outputs = AnyShape(kernel) ? extent : lines_.block;
    // A kernel for one shape writes whole blocks: at the ragged edge beside y, and the real part is copied.
    const bool ragged = outputs != extent;
    job_.y = ragged ? beside : y + features;
    job_.y_stride = ragged ? outputs : y_stride;
    RunLines(kernel, line, count, outputs, 1);
    if (ragged) {
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(y + r * y_stride + features, beside + r * outputs, extent * sizeof(float));
      }
    }
    features += count * extent;
  }
  return features;
}

// How many lines from `line` on lie side by side in y: full ones of one gate, or one ragged.
int64_t LineProduct::EqualLines(int64_t line, int64_t end_line) const {
  if (lines_.Extent(line) != lines_.block) return 1;
  const int64_t gate_end = (line / lines_.gate_lines + 1) * lines_.gate_lines;
  return std::min(gate_end - lines_.ragged(), end_line) - line;
}

// Lines of `outputs` features each; a feature of job_.y is `step` floats after the one before.
void LineProduct::RunLines(const MicroKernel& kernel, int64_t line, int64_t count, int64_t outputs, int64_t step) {
  job_.start = index_.start.data() + line;
  job_.end = index_.full_end.data() + line;
  job_.lines = count;
  job_.depth = index_.other_axis().block;
  job_.outputs = outputs;
  job_.accumulate = false;
  kernel.product(job_);
  if (!index_.other_axis().ragged()) return;
  // Blocks at the edge that is summed over: only their real part, since the rest may hold anything.
  const MicroKernel* edge = AnyShapeKernel(table_, kernel.kind, kernel.batch);
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

}  // namespace blocksparse
