// The micro-kernels of products that choose their blocks for each example: one list for each instruction set, read by
// the chooser and by the tests. Data only, for the reason that microkernels.h gives.
#ifndef TF_BLOCKSPARSE_KERNELS_DYNAMIC_KERNELS_H_
#define TF_BLOCKSPARSE_KERNELS_DYNAMIC_KERNELS_H_

#include <cstdint>

namespace blocksparse {

// An example that wants a block, and what its product is multiplied by.
struct DynamicEntry {
  int32_t example;
  float gate;
};

// Some columns of one block for some examples: y[example] += gate * scale * (x[example] block). An example may come twice.
struct DynamicJob {
  const void* block;  // the first of the columns, in the first row
  const void* ahead;  // where reading goes on after the last row: prefetched; may be any address
  int64_t rows_ahead;  // rows between what is read and what is prefetched, at most depth
  int64_t stride;      // elements from one row of the block to the next
  int64_t depth;       // rows
  float scale;         // of the block's elements; 1 for float32
  const DynamicEntry* entries;
  const float* x;  // x[example * x_stride + row]
  int64_t x_stride;
  float* y;  // y[example * y_stride + column]
  int64_t y_stride;
};

enum class DynamicType { kFloat32, kBfloat16, kInt8 };

// Every output is summed over the rows of a block in their order, one multiply-add after another, whichever kernel does
// it: results depend neither on the examples beside nor on where the work is split.
struct DynamicKernel {
  const char* name;
  DynamicType type;  // of the blocks
  int64_t columns;   // that one call does
  int64_t examples;  // likewise
  void (*multiply)(const DynamicJob&);
};

struct DynamicTable {
  const char* isa;
  const DynamicKernel* kernels;  // the chooser takes the first that fits
  int64_t num_kernels;
  // keys[i] orders like max(scores[i], 0): its bits; NaN comes last. In integers, since TensorFlow's threads take
  // denormal numbers for zeros.
  void (*order_keys)(const float* scores, int64_t n, int32_t* keys);
  // How many keys are `least` or more.
  int64_t (*count_keys)(const int32_t* keys, int64_t n, int32_t least);
};

extern const DynamicTable kDynamicGeneric;
#if defined(__x86_64__)
extern const DynamicTable kDynamicAvx2;
extern const DynamicTable kDynamicAvx512;
#endif

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_DYNAMIC_KERNELS_H_
