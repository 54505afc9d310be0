// x86-64 only; compiled with -mavx2 -mfma -mf16c.
#define BLOCKSPARSE_ISA "avx2"
#define BLOCKSPARSE_LANES 8
#define BLOCKSPARSE_TABLE kDynamicAvx2
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.inc"
