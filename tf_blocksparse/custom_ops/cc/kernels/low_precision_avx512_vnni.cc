// x86-64 only; compiled with the flags of AVX-512 and -mavx512vnni.
#define BLOCKSPARSE_ISA "avx512_vnni"
#define BLOCKSPARSE_LANES 16
#define BLOCKSPARSE_TABLE kLowPrecisionAvx512Vnni
#define BLOCKSPARSE_VNNI
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision_kernels.inc"
