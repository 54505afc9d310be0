// y = activation(x W + bias) with the blocks of W stored as bfloat16 or int8, for inference.
//
// Order of the blocks: sorted by block column, then by block row. `indices` [num_blocks] holds block rows, strictly
// increasing within a block column, and `indptr` [block columns + 1] where each column's blocks start. With gates the
// columns are counted through all of them (bsr.h).
//
// Layout: `blocks` [num_blocks, ceil(height / p), width, p], p = 2 for bfloat16 and p = 4 for int8: p consecutive rows
// of a column are one word of 32 bits, the first row in its low bits. That is what the dot product instructions
// multiply at once, so that a vector of words is a vector of columns. What a block stores outside of W means nothing.
//
// Numbers: int8 blocks hold W[i, j] / scales[j]. x is taken as
//   float32   as it is; the blocks are widened to float32.
//   bfloat16  rounded to the nearest bfloat16, halves to even. Products are exact and sums are float32; whether
//             denormal numbers count as zero depends on the processor.
//   int8      with m = max |x[b, :]|: q[b, i] = round(x[b, i] * (127 / m)), both operations in float32, halves to
//             even. The sums of q * blocks are exact integers s, and y[b, j] = s * scales[j] * (m / 127). A row with
//             m < 2^-100 counts as zero; a row with an infinity or a NaN gives NaN in all of y[b, :].
#ifndef TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_H_
#define TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/epilogue.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision_kernels.h"
#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

namespace blocksparse {

enum class BlockType { kBfloat16, kInt8 };
enum class XType { kFloat32, kBfloat16, kInt8 };

// Rows of a column in one word.
inline int64_t RowsPerWord(BlockType type) { return type == BlockType::kBfloat16 ? 2 : 4; }

// The walk by block column, in stored order: a few numbers a column, none a block.
struct ColumnIndex : BlockIndex {
  std::vector<int32_t> y_offset;  // [columns] first feature
  std::vector<int32_t> extent;    // [columns] features
};

// Checks all of both arrays. Returns an empty string, or the text of an error that names the first bad element.
std::string BuildColumnIndex(const Grid& grid, const int32_t* indptr, int64_t indptr_size, const int32_t* indices,
                             int64_t num_blocks, ColumnIndex* index);

// An error if the sums of int8 x may exceed 32 bits: 2^31 / (128 * 255) rows of a column do not.
std::string CheckInt8Sums(const ColumnIndex& index);

// The tables of one processor, best first; the last one has a kernel for everything.
using LowPrecisionTables = std::vector<const LowPrecisionTable*>;

// One list for every level that this processor has, without and with extensions; best last.
std::vector<LowPrecisionTables> SupportedLowPrecisionTables();

// The best list that `isa`, the name of a table of isa.h, allows. The extensions of AVX-512 count as avx512.
LowPrecisionTables ChooseLowPrecisionTables(const std::string& isa);

struct LowPrecisionPlan {
  const ColumnIndex* index;
  const LowPrecisionTable* table;  // of all kernels
  const KernelTable* finish;       // of the epilogue
  LowPrecisionKind kind;
  const LowPrecisionKernel* kernels[9];  // for 1 to 8, or more, rows still to do
  BlockType block_type;
  XType x_type;
  int64_t batch;
  int64_t workers;
  bool split_columns;           // each worker does all rows of its columns; else all columns of its rows
  std::vector<int64_t> bounds;  // [workers + 1] of columns or of rows; empty for one worker
  int64_t x_words;              // of a prepared row; 0: x is read as it is
  int64_t panel_words;          // of one panel and its rows' scales
  int64_t workspace_words;      // 32 bits each, of all workers
};

// `finish` is the table whose epilogue is used.
LowPrecisionPlan PlanLowPrecision(const LowPrecisionTables& tables, const KernelTable& finish,
                                  const ColumnIndex& index, BlockType block_type, XType x_type, int64_t batch,
                                  int64_t threads);

struct LowPrecisionOperands {
  const float* x;          // [batch, in_features]
  const void* blocks;
  const int32_t* indices;  // [num_blocks], those that the index was built from
  const float* scales;     // [out_features]; null for bfloat16
  Epilogue epilogue;
  float* y;                // [batch, out_features]
  void* workspace;         // plan.workspace_words of 4 bytes
};

void RunLowPrecision(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands,
                     const ParallelFor& parallel_for);

// The lines [first, end) of each gate of y alone, by the calling thread; the plan is one for one thread.
void RunLowPrecisionLines(const LowPrecisionPlan& plan, const LowPrecisionOperands& operands, int64_t first_line,
                          int64_t end_line);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_H_
