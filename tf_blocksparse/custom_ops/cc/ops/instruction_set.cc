// What Python asks the library itself.
#include <string>

#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

// The instruction sets that this process multiplies with, separated by spaces, the one of float32 blocks last; null
// if TF_BLOCKSPARSE_MAX_ISA names none.
extern "C" __attribute__((visibility("default"))) const char* TfBlockSparseInstructionSet() {
  static const std::string* const names = [] {
    auto* joined = new std::string;
    std::string error;
    const blocksparse::KernelTable* table = blocksparse::ActiveTable(&error);
    if (table == nullptr) return joined;
    for (const blocksparse::LowPrecisionTable* extension : blocksparse::ChooseLowPrecisionTables(table->isa)) {
      joined->append(joined->empty() ? "" : " ").append(extension->isa);
    }
    return joined;
  }();
  return names->empty() ? nullptr : names->c_str();
}
