// Compiled without instruction set flags, as isa.cc is.
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace blocksparse {

const DynamicTable* ChooseDynamicTable([[maybe_unused]] const std::string& isa) {
#if defined(__x86_64__)
  if (isa == "avx2") return &kDynamicAvx2;
  if (isa == "avx512") return &kDynamicAvx512;
#endif
  return &kDynamicGeneric;
}

std::vector<const DynamicTable*> SupportedDynamicTables() {
  std::vector<const DynamicTable*> tables;
  for (const KernelTable* level : SupportedTables()) tables.push_back(ChooseDynamicTable(level->isa));
  return tables;
}

}  // namespace blocksparse
