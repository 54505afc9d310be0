#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

#include <cstdlib>
#include <cstring>

namespace blocksparse {
namespace {

constexpr const char* kVariable = "TF_BLOCKSPARSE_MAX_ISA";

struct Level {
  const char* name;
  const KernelTable* table;  // null where this build has none
};

// In rising order.
std::vector<Level> Levels() {
#if defined(__x86_64__)
  return {{"generic", &kGenericTable}, {"avx2", &kAvx2Table}, {"avx512", &kAvx512Table}};
#else
  return {{"generic", &kGenericTable}, {"avx2", nullptr}, {"avx512", nullptr}};
#endif
}

bool Runs(const char* isa) {
  if (std::strcmp(isa, "generic") == 0) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  if (std::strcmp(isa, "avx2") == 0) return avx2;
  // x86-64-v4 is v3 and these five.
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

}  // namespace

std::vector<const KernelTable*> SupportedTables() {
  std::vector<const KernelTable*> tables;
  for (const Level& level : Levels()) {
    if (level.table != nullptr && Runs(level.name)) tables.push_back(level.table);
  }
  return tables;
}

const KernelTable* ChooseTable(const char* max_isa, std::string* error) {
  const bool capped = max_isa != nullptr && *max_isa != '\0';
  const KernelTable* best = nullptr;
  for (const Level& level : Levels()) {
    if (level.table != nullptr && Runs(level.name)) best = level.table;
    if (capped && std::strcmp(level.name, max_isa) == 0) return best;
  }
  if (!capped) return best;
  *error = std::string(kVariable) + " must be generic, avx2 or avx512, got \"" + max_isa + "\"";
  return nullptr;
}

const KernelTable* ActiveTable(std::string* error) {
  static std::string* const static_error = new std::string;  // never destroyed: kernels may outlive static objects
  static const KernelTable* const table = ChooseTable(std::getenv(kVariable), static_error);
  *error = *static_error;
  return table;
}

}  // namespace blocksparse
