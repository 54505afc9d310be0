#include "tf_blocksparse/custom_ops/cc/kernels/gather.h"

#include <algorithm>
#include <cstring>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace blocksparse {
namespace {

// Both only move memory: what counts is the bytes.
int64_t Workers(double floats, int64_t threads) { return UsefulWorkers(floats * 4.0 / 10.0, threads); }

void Run(int64_t workers, const ParallelFor& parallel_for, const std::function<void(int64_t)>& work) {
  if (workers == 1) {
    work(0);
  } else {
    parallel_for(workers, work);
  }
}

}  // namespace

void GatherRows(const BlockIndex& index, const float* blocks, const int32_t* ids, int64_t num_ids, float* out,
                int64_t threads, const ParallelFor& parallel_for) {
  const Axis& columns = index.grid.columns;
  const int64_t height = index.grid.rows.block;
  const int64_t width = columns.block;
  const int64_t workers =
      Workers(static_cast<double>(num_ids) * static_cast<double>(columns.features), threads);
  Run(workers, parallel_for, [&](int64_t worker) {
    const int64_t end = num_ids * (worker + 1) / workers;
    for (int64_t k = num_ids * worker / workers; k < end; ++k) {
      float* row = out + k * columns.features;
      const int64_t line = ids[k] / height;
      const int64_t r = ids[k] % height;
      std::memset(row, 0, columns.features * sizeof(float));
      for (int32_t b = index.start[line]; b < index.start[line + 1]; ++b) {
        const bool full = b < index.full_end[line];
        std::memcpy(row + index.Offset(b, full), blocks + (index.Position(b) * height + r) * width,
                    (full ? width : columns.EdgeExtent()) * sizeof(float));
      }
    }
  });
}

void GatherRowsGrad(const BlockIndex& index, const float* dy, const int32_t* ids, int64_t num_ids,
                    float* dblocks, int64_t threads, const ParallelFor& parallel_for) {
  const Axis& columns = index.grid.columns;
  const int64_t height = index.grid.rows.block;
  const int64_t width = columns.block;
  const double density = static_cast<double>(index.num_blocks) /
                         (static_cast<double>(index.grid.rows.lines) * static_cast<double>(columns.lines));
  const double touched = static_cast<double>(num_ids) * static_cast<double>(columns.features) * density +
                         static_cast<double>(index.num_blocks) * static_cast<double>(height * width);
  const int64_t workers = std::min(Workers(touched, threads), index.grid.rows.lines);
  const std::vector<int64_t> bounds = SplitLines(index, workers);
  // A worker owns block rows and looks at all ids, so that equal ids meet in one worker, in order: no locks, and
  // the same sum every time.
  Run(workers, parallel_for, [&](int64_t worker) {
    const int64_t first = bounds[worker];
    const int64_t end = bounds[worker + 1];
    for (int32_t b = index.start[first]; b < index.start[end]; ++b) {
      std::fill_n(dblocks + index.Position(b) * height * width, height * width, 0.0f);
    }
    for (int64_t k = 0; k < num_ids; ++k) {
      const int64_t line = ids[k] / height;
      const int64_t r = ids[k] % height;
      if (line < first || line >= end) continue;
      for (int32_t b = index.start[line]; b < index.start[line + 1]; ++b) {
        const bool full = b < index.full_end[line];
        const int64_t extent = full ? width : columns.EdgeExtent();
        float* to = dblocks + (index.Position(b) * height + r) * width;
        const float* from = dy + k * columns.features + index.Offset(b, full);
        for (int64_t c = 0; c < extent; ++c) to[c] += from[c];
      }
    }
  });
}

}  // namespace blocksparse
