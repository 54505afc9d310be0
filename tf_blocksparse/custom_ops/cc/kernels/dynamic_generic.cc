// The instruction set that the compiler targets by default: SSE2 on x86-64, NEON on aarch64.
#define BLOCKSPARSE_ISA "generic"
#define BLOCKSPARSE_LANES 4
#define BLOCKSPARSE_TABLE kDynamicGeneric
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.inc"
