#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "tf_blocksparse/custom_ops/cc/kernels/round_up.h"

namespace blocksparse {
namespace {

constexpr int64_t kMostRows = 8;    // that a kernel does at once
constexpr int64_t kPanelRows = 32;  // rows of x prepared at once: they stay in the second-level cache
constexpr int64_t kChunkBytes = 16 * 1024;  // of blocks that all rows of a panel use before the next: half of L1

int64_t WordRowsOf(const Grid& grid, BlockType type) {
  return (grid.rows.block + RowsPerWord(type) - 1) / RowsPerWord(type);
}

// Of all blocks; where there are none, their shape may be anything.
int64_t AllBytes(const ColumnIndex& index, BlockType type) {
  if (index.num_blocks == 0) return 0;
  return 4 * index.num_blocks * WordRowsOf(index.grid, type) * index.grid.columns.block;
}

bool Serves(const LowPrecisionKernel& kernel, const Grid& grid, int64_t rows) {
  const int64_t height = grid.rows.block;
  const int64_t width = grid.columns.block;
  return (kernel.height_multiple ? height % kernel.height == 0 : height == kernel.height) &&
         (kernel.width_multiple ? width % kernel.width == 0 : width == kernel.width) && kernel.batch <= rows;
}

const LowPrecisionKernel* Choose(const LowPrecisionTable& table, LowPrecisionKind kind, const Grid& grid,
                                 int64_t rows) {
  for (int64_t i = 0; i < table.num_kernels; ++i) {
    const LowPrecisionKernel& kernel = table.kernels[i];
    if (kernel.kind == kind && Serves(kernel, grid, rows)) return &kernel;
  }
  return nullptr;
}

// The bfloat16 instruction does half of a vector in a cycle. For more rows than this, widening the blocks once for all
// of them and multiplying is faster.
constexpr int64_t kMostDotRows = 1;

// In the order of preference.
std::vector<LowPrecisionKind> KindsFor(BlockType block_type, XType x_type, int64_t batch) {
  if (block_type == BlockType::kInt8) {
    return {x_type == XType::kInt8 ? LowPrecisionKind::kInt8Dot : LowPrecisionKind::kInt8Float};
  }
  if (x_type == XType::kBfloat16 && batch <= kMostDotRows) {
    return {LowPrecisionKind::kBfloat16Dot, LowPrecisionKind::kBfloat16Float};
  }
  return {LowPrecisionKind::kBfloat16Float};
}

// All kernels of a plan are of one table, whose layout x then has.
void ChooseKernels(const LowPrecisionTables& tables, const Grid& grid, LowPrecisionPlan* plan) {
  const int64_t most = std::min(plan->batch, kMostRows);
  for (LowPrecisionKind kind : KindsFor(plan->block_type, plan->x_type, plan->batch)) {
    for (const LowPrecisionTable* table : tables) {
      if (Choose(*table, kind, grid, most) == nullptr) continue;
      plan->table = table;
      plan->kind = kind;
      for (int64_t rows = 1; rows <= most; ++rows) plan->kernels[rows] = Choose(*table, kind, grid, rows);
      return;
    }
  }
}

// Prepared x from one block row to the next, in words.
int64_t PreparedBlock(const LowPrecisionPlan& plan) {
  const Grid& grid = plan.index->grid;
  switch (plan.kind) {
    case LowPrecisionKind::kInt8Dot:
      return WordRowsOf(grid, BlockType::kInt8) * plan.table->int8_words;
    case LowPrecisionKind::kBfloat16Dot:
      return WordRowsOf(grid, BlockType::kBfloat16);
    default:
      return grid.rows.block;
  }
}

// Of one row. The last block row takes no more than it needs: a block may be much larger than the matrix.
int64_t PreparedWords(const LowPrecisionPlan& plan) {
  const Axis& rows = plan.index->grid.rows;
  if (plan.x_type == XType::kFloat32) return 0;
  if (plan.kind == LowPrecisionKind::kBfloat16Float) return rows.features;
  const int64_t p = RowsPerWord(plan.block_type);
  const int64_t words = plan.kind == LowPrecisionKind::kInt8Dot ? plan.table->int8_words : 1;
  return (rows.lines - 1) * PreparedBlock(plan) + (rows.EdgeExtent() + p - 1) / p * words;
}

// Of one thread. The blocks are read once at 60 bytes a nanosecond; a row of x costs 30 multiply-adds a nanosecond,
// three times as many with int8.
double EstimateNanoseconds(const LowPrecisionPlan& plan) {
  const Grid& grid = plan.index->grid;
  const double blocks = static_cast<double>(plan.index->num_blocks);
  const double bytes = static_cast<double>(AllBytes(*plan.index, plan.block_type));
  const double elements = blocks * static_cast<double>(grid.block_elements()) * static_cast<double>(plan.batch);
  return bytes / 60.0 + elements / (plan.x_type == XType::kInt8 ? 90.0 : 30.0);
}

void SplitWork(int64_t threads, LowPrecisionPlan* plan) {
  // Waking a thread costs 50 us at worst.
  constexpr double kMinNanosecondsPerWorker = 30000.0;
  const double useful = EstimateNanoseconds(*plan) / kMinNanosecondsPerWorker;
  plan->workers = useful < 2.0 ? 1 : static_cast<int64_t>(std::min(useful, static_cast<double>(threads)));
  plan->workers = std::max<int64_t>(plan->workers, 1);
  plan->split_columns = plan->batch < 16 * plan->workers;
  if (plan->split_columns) plan->workers = std::min(plan->workers, plan->index->grid.columns.lines);
  if (plan->workers == 1) return;
  if (plan->split_columns) {
    plan->bounds = SplitLines(*plan->index, plan->workers);
    return;
  }
  for (int64_t p = 0; p < plan->workers; ++p) {
    plan->bounds.push_back(plan->batch * p / plan->workers / kMostRows * kMostRows);
  }
  plan->bounds.push_back(plan->batch);
}

// x of some rows as the kernels take it, and what belongs to it.
struct Panel {
  const void* x;
  int64_t x_stride;
  int64_t x_block;
  const float* row_scales;
};

// Quantises one row; returns its scale.
float QuantizeRow(const LowPrecisionPlan& plan, const float* x, uint32_t* words) {
  constexpr float kSmallest = 7.8886090522101181e-31f;  // 2^-100
  const Axis& rows = plan.index->grid.rows;
  const uint32_t bits = plan.table->largest(x, rows.features);
  float largest;
  static_assert(sizeof(largest) == sizeof(bits), "float32");
  std::memcpy(&largest, &bits, sizeof(largest));
  const bool finite = bits < 0x7f800000u;
  // Of a row that is not finite any integers will do: its scale makes NaN of them all.
  const float factor = finite && largest >= kSmallest ? 127.0f / largest : 0.0f;
  if (rows.block % 4 == 0) {
    plan.table->quantize(x, rows.features, factor, words);
  } else {
    const int64_t block_words = PreparedBlock(plan);
    for (int64_t i = 0; i < rows.lines; ++i) {
      plan.table->quantize(x + rows.Offset(i), rows.Extent(i), factor, words + i * block_words);
    }
  }
  if (!finite) return std::numeric_limits<float>::quiet_NaN();
  return factor == 0.0f ? 0.0f : largest / 127.0f;
}

void PackRow(const LowPrecisionPlan& plan, const float* x, uint32_t* words) {
  const Axis& rows = plan.index->grid.rows;
  if (rows.block % 2 == 0) {
    plan.table->pack_bfloat16(x, rows.features, words);
    return;
  }
  const int64_t block_words = PreparedBlock(plan);
  for (int64_t i = 0; i < rows.lines; ++i) {
    plan.table->pack_bfloat16(x + rows.Offset(i), rows.Extent(i), words + i * block_words);
  }
}

// The workspace of a panel: the rows' scales, then the prepared rows.
Panel Prepare(const LowPrecisionPlan& plan, const float* x, int64_t rows, void* workspace) {
  const Grid& grid = plan.index->grid;
  const int64_t in = grid.rows.features;
  if (plan.x_words == 0) return {x, in, grid.rows.block, nullptr};
  float* row_scales = static_cast<float*>(workspace);
  uint32_t* words = static_cast<uint32_t*>(workspace) + kPanelRows;
  const LowPrecisionKind kind = plan.kind;
  for (int64_t r = 0; r < rows; ++r) {
    uint32_t* row = words + r * plan.x_words;
    if (kind == LowPrecisionKind::kInt8Dot) {
      row_scales[r] = QuantizeRow(plan, x + r * in, row);
    } else if (kind == LowPrecisionKind::kBfloat16Dot) {
      PackRow(plan, x + r * in, row);
    } else {
      plan.table->round_bfloat16(x + r * in, in, reinterpret_cast<float*>(row));
    }
  }
  return {words, plan.x_words, PreparedBlock(plan), row_scales};
}

LowPrecisionJob MakeJob(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands, const Panel& panel) {
  const ColumnIndex& index = *plan.index;
  const Axis& in = index.grid.rows;
  LowPrecisionJob job = {};
  job.blocks = static_cast<const uint8_t*>(operands.blocks);
  job.start = index.start.data();
  job.full_end = index.full_end.data();
  job.y_offset = index.y_offset.data();
  job.extent = index.extent.data();
  job.indices = operands.indices;
  job.last_full = static_cast<uint32_t>(std::max<int64_t>(in.lines - 1 - in.ragged(), 0));
  job.edge_row = in.lines - 1;
  job.edge_height = in.EdgeExtent();
  job.height = in.block;
  job.width = index.grid.columns.block;
  job.x_stride = panel.x_stride;
  job.x_block = panel.x_block;
  job.scales = operands.scales;
  job.y_stride = index.grid.columns.features;
  return job;
}

// Block columns that all rows of a panel do before the next ones.
int64_t ColumnsAtOnce(const LowPrecisionPlan& plan, int64_t rows) {
  const ColumnIndex& index = *plan.index;
  const LowPrecisionKernel& kernel = *plan.kernels[std::min(rows, kMostRows)];
  const int64_t columns = index.grid.columns.lines;
  if (kernel.batch == 0 || rows <= kernel.batch) return columns;
  return std::max<int64_t>(kChunkBytes / (AllBytes(index, plan.block_type) / columns + 1), 1);
}

// The sums of some block columns for one panel, whose y is `y`.
void MultiplyColumns(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands, const Panel& panel,
                     int64_t rows, int64_t first_line, int64_t end_line, float* y) {
  const int64_t out = plan.index->grid.columns.features;
  LowPrecisionJob job = MakeJob(plan, operands, panel);
  const int64_t chunk = ColumnsAtOnce(plan, rows);
  for (int64_t line = first_line; line < end_line; line += chunk) {
    job.first_line = line;
    job.end_line = std::min(line + chunk, end_line);
    for (int64_t row = 0; row < rows; row += job.rows) {
      const LowPrecisionKernel& kernel = *plan.kernels[std::min(rows - row, kMostRows)];
      job.rows = kernel.batch == 0 ? rows - row : kernel.batch;
      job.x = static_cast<const uint8_t*>(panel.x) + 4 * row * panel.x_stride;
      job.row_scales = panel.row_scales == nullptr ? nullptr : panel.row_scales + row;
      job.y = y + row * out;
      kernel.multiply(job);
    }
  }
}

// All of y for one panel and some block columns.
void RunPanel(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands, const Panel& panel,
              int64_t first_row, int64_t rows, int64_t first_line, int64_t end_line) {
  if (first_line == end_line) return;
  const ColumnIndex& index = *plan.index;
  const int64_t out = index.grid.columns.features;
  float* y = operands.y + first_row * out;
  const int64_t first = index.y_offset[first_line];
  const int64_t end = index.y_offset[end_line - 1] + index.extent[end_line - 1];
  if (index.num_blocks > 0) {
    MultiplyColumns(plan, operands, panel, rows, first_line, end_line, y);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      const float zero = plan.kind == LowPrecisionKind::kInt8Dot ? 0.0f * panel.row_scales[r] : 0.0f;  // or NaN
      std::fill(y + r * out + first, y + r * out + end, zero);
    }
  }
  operands.epilogue.Apply(*plan.finish, y + first, out, rows, first, end - first);
}

}  // namespace

LowPrecisionPlan PlanLowPrecision(const LowPrecisionTables& tables, const KernelTable& finish,
                                  const ColumnIndex& index, BlockType block_type, XType x_type, int64_t batch,
                                  int64_t threads) {
  LowPrecisionPlan plan = {};
  plan.finish = &finish;
  plan.index = &index;
  plan.block_type = block_type;
  plan.x_type = x_type;
  plan.batch = batch;
  plan.workers = 1;
  if (batch == 0) return plan;
  ChooseKernels(tables, index.grid, &plan);
  SplitWork(threads, &plan);
  plan.x_words = PreparedWords(plan);
  const int64_t panels = plan.workers > 1 && !plan.split_columns ? plan.workers : 1;
  plan.panel_words = plan.x_words == 0 ? 0 : RoundUp(kPanelRows + std::min(batch, kPanelRows) * plan.x_words, 16);
  plan.workspace_words = panels * plan.panel_words;
  return plan;
}

void RunLowPrecision(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands,
                     const ParallelFor& parallel_for) {
  const int64_t in = plan.index->grid.rows.features;
  const int64_t lines = plan.index->grid.columns.lines;
  const bool by_columns = plan.workers > 1 && plan.split_columns;
  const auto rows_of_worker = [&](int64_t worker, int64_t first, int64_t end) {
    void* workspace = static_cast<uint32_t*>(operands.workspace) + worker * plan.panel_words;
    for (int64_t row = first; row < end; row += kPanelRows) {
      const int64_t rows = std::min(end - row, kPanelRows);
      const Panel panel = Prepare(plan, operands.x + row * in, rows, workspace);
      if (!by_columns) {
        RunPanel(plan, operands, panel, row, rows, 0, lines);
        continue;
      }
      parallel_for(plan.workers, [&](int64_t w) {
        RunPanel(plan, operands, panel, row, rows, plan.bounds[w], plan.bounds[w + 1]);
      });
    }
  };
  if (plan.workers == 1 || by_columns) {
    rows_of_worker(0, 0, plan.batch);
  } else {
    parallel_for(plan.workers, [&](int64_t w) { rows_of_worker(w, plan.bounds[w], plan.bounds[w + 1]); });
  }
}

void RunLowPrecisionLines(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands, int64_t first_line,
                          int64_t end_line) {
  const Axis& columns = plan.index->grid.columns;
  for (int64_t row = 0; row < plan.batch; row += kPanelRows) {
    const int64_t rows = std::min(plan.batch - row, kPanelRows);
    const Panel panel = Prepare(plan, operands.x + row * plan.index->grid.rows.features, rows, operands.workspace);
    for (int64_t line = 0; line < columns.lines; line += columns.gate_lines) {
      RunPanel(plan, operands, panel, row, rows, line + first_line, line + end_line);
    }
  }
}

}  // namespace blocksparse
