// Which instruction set's micro-kernels to use. The environment variable TF_BLOCKSPARSE_MAX_ISA (generic, avx2 or
// avx512) caps the choice, so that every level can be tested and compared on one machine.
#ifndef TF_BLOCKSPARSE_KERNELS_ISA_H_
#define TF_BLOCKSPARSE_KERNELS_ISA_H_

#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"

namespace blocksparse {

// The tables that this processor can run, best last.
std::vector<const KernelTable*> SupportedTables();

// The best of them that `max_isa` allows; null or "" allows all. With an unknown name returns null and fills
// `error`.
const KernelTable* ChooseTable(const char* max_isa, std::string* error);

// ChooseTable of the environment variable, read once in a process.
const KernelTable* ActiveTable(std::string* error);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_ISA_H_
