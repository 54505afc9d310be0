// The micro-kernels of products with low-precision blocks: one list for each instruction set, read by the chooser and
// by the tests. Data only, for the reason that microkernels.h gives.
#ifndef TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_KERNELS_H_
#define TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_KERNELS_H_

#include <cstdint>

namespace blocksparse {

// Some block columns of y for some batch rows.
struct LowPrecisionJob {
  const uint8_t* blocks;    // words of all blocks (low_precision.h has their layout); at any address
  const int32_t* start;     // [lines + 1] first block of each block column
  const int32_t* full_end;  // [lines] the block there, if it is the column's, lies at the lower edge of W
  const int32_t* y_offset;  // [lines] first feature of y
  const int32_t* extent;    // [lines] features of y
  const int32_t* indices;   // [num_blocks] block rows: the caller's, read through BlockRow()
  uint32_t last_full;       // the largest block row that is `height` rows of W
  int64_t edge_row;         // the block row of a block at the edge
  int64_t edge_height;      // its rows of W
  int64_t first_line;
  int64_t end_line;
  int64_t height;
  int64_t width;
  int64_t rows;      // batch rows; read by the kernels for any number
  const void* x;     // as the kind says
  int64_t x_stride;  // from one batch row to the next, in elements of x
  int64_t x_block;   // from one block row to the next
  const float* scales;      // [out_features]; int8 only
  const float* row_scales;  // [rows]; kInt8Dot only
  float* y;
  int64_t y_stride;
};

enum class LowPrecisionKind {
  kBfloat16Float,  // x: float [rows, in_features]
  kInt8Float,      // likewise
  kBfloat16Dot,    // x: words of 2 bfloat16, [rows, block rows, ceil(height / 2)]
  kInt8Dot,        // x: [rows, block rows, ceil(height / 4), int8_words of the table]
};

struct LowPrecisionKernel {
  const char* name;
  LowPrecisionKind kind;
  int64_t height;        // serves this height
  bool height_multiple;  // or any multiple of it,
  int64_t width;         // and this width
  bool width_multiple;   // or any multiple of it
  int64_t batch;         // rows that one call does; 0: any number
  void (*multiply)(const LowPrecisionJob&);
};

struct LowPrecisionTable {
  const char* isa;
  const LowPrecisionKernel* kernels;  // the chooser takes the first that fits
  int64_t num_kernels;
  int64_t int8_words;  // words of prepared x for four rows of kInt8Dot
  // The largest bit pattern of |x| over n elements: as integers, patterns order like the numbers, and those from
  // 0x7f800000 on are infinite or not a number.
  uint32_t (*largest)(const float* x, int64_t n);
  // words[ceil(n / 4) * int8_words] from round(x[i] * factor), halves to even; a last word is filled up with zeros.
  void (*quantize)(const float* x, int64_t n, float factor, uint32_t* words);
  // words[ceil(n / 2)] of x rounded to bfloat16; an odd last element has a zero beside it.
  void (*pack_bfloat16)(const float* x, int64_t n, uint32_t* words);
  // rounded[i] = x[i] rounded to bfloat16.
  void (*round_bfloat16)(const float* x, int64_t n, float* rounded);
};

extern const LowPrecisionTable kLowPrecisionGeneric;
#if defined(__x86_64__)
extern const LowPrecisionTable kLowPrecisionAvx2;
extern const LowPrecisionTable kLowPrecisionAvx512;
extern const LowPrecisionTable kLowPrecisionAvx512Vnni;  // kInt8Dot only
extern const LowPrecisionTable kLowPrecisionAvx512Bf16;  // kBfloat16Dot only
#endif

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_LOW_PRECISION_KERNELS_H_
