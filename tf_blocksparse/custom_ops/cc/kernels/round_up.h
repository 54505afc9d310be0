// Sizes of parts of a workspace.
#ifndef TF_BLOCKSPARSE_KERNELS_ROUND_UP_H_
#define TF_BLOCKSPARSE_KERNELS_ROUND_UP_H_

#include <cstdint>

namespace blocksparse {

inline int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_ROUND_UP_H_
