// Compiled without instruction set flags, as isa.cc is.
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"

namespace blocksparse {
namespace {

const LowPrecisionTable* TableOf([[maybe_unused]] const std::string& isa) {
#if defined(__x86_64__)
  if (isa == "avx2") return &kLowPrecisionAvx2;
  if (isa == "avx512") return &kLowPrecisionAvx512;
#endif
  return &kLowPrecisionGeneric;
}

// The extensions of AVX-512 that this processor has.
LowPrecisionTables Extensions() {
  LowPrecisionTables extensions;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni")) extensions.push_back(&kLowPrecisionAvx512Vnni);
  if (__builtin_cpu_supports("avx512bf16")) extensions.push_back(&kLowPrecisionAvx512Bf16);
#endif
  return extensions;
}

}  // namespace

LowPrecisionTables ChooseLowPrecisionTables(const std::string& isa) {
  LowPrecisionTables tables;
  if (isa == "avx512") tables = Extensions();
  tables.push_back(TableOf(isa));
  return tables;
}

std::vector<LowPrecisionTables> SupportedLowPrecisionTables() {
  std::vector<LowPrecisionTables> all;
  for (const KernelTable* level : SupportedTables()) {
    const std::string isa = level->isa;
    all.push_back({TableOf(isa)});
    const LowPrecisionTables best = ChooseLowPrecisionTables(isa);
    if (best.size() > 1) all.push_back(best);
  }
  return all;
}

}  // namespace blocksparse
