// x86-64 only; compiled with -march=x86-64-v4 -mprefer-vector-width=512.
#define BLOCKSPARSE_ISA "avx512"
#define BLOCKSPARSE_LANES 16
#define BLOCKSPARSE_TABLE kDynamicAvx512
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.inc"
