// x86-64 only; compiled with the flags of AVX-512 and -mavx512bf16.
#define BLOCKSPARSE_ISA "avx512_bf16"
#define BLOCKSPARSE_LANES 16
#define BLOCKSPARSE_TABLE kLowPrecisionAvx512Bf16
#define BLOCKSPARSE_BF16
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision_kernels.inc"
