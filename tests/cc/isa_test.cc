#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

#include "tests/cc/check.h"
#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

namespace {

using namespace blocksparse;

void CapsAreKept() {
  std::string error;
  const std::vector<const KernelTable*> tables = SupportedTables();
  CHECK_EQUAL(std::string(tables.front()->isa) == "generic", true);
  CHECK_TRUE(ChooseTable(nullptr, &error) == tables.back(), "no cap gives the best");
  CHECK_TRUE(ChooseTable("", &error) == tables.back(), "an empty cap gives the best");
  for (const KernelTable* table : tables) CHECK_TRUE(ChooseTable(table->isa, &error) == table, table->isa);
  CHECK_TRUE(error.empty(), error);
  CHECK_TRUE(ChooseTable("avx3", &error) == nullptr, "an unknown name gives no table");
  CHECK_CONTAINS(error, "must be generic, avx2 or avx512, got \"avx3\"");
}

// The drivers rely on a kernel for every shape and batch, and on an edge kernel beside every one they choose.
void EveryShapeHasKernels() {
  for (const KernelTable* table : SupportedTables()) {
    for (Kind kind : {Kind::kProductRows, Kind::kTransposedTile, Kind::kGradBlocks}) {
      for (int64_t height : {1, 2, 3, 4, 5, 8, 12, 16, 20, 32, 64, 100}) {
        for (int64_t width : {1, 2, 3, 4, 5, 8, 12, 16, 20, 32, 48, 64, 128, 200}) {
          for (int64_t batch : {1, 2, 3, 5, 8, 9, 15, 16, 31, 32, 63, 64, 1000}) {
            const MicroKernel* kernel = ChooseKernel(*table, kind, height, width, batch);
            CHECK_TRUE(kernel != nullptr, "a kernel");
            if (kernel == nullptr) continue;
            const bool grad = kind == Kind::kGradBlocks;
            CHECK_TRUE((grad ? kernel->grad != nullptr : kernel->product != nullptr), kernel->name);
            const MicroKernel* edge = AnyShapeKernel(*table, kernel->kind, kernel->batch);
            CHECK_TRUE(edge != nullptr, std::string("an edge kernel beside ") + kernel->name);
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  CapsAreKept();
  EveryShapeHasKernels();
  return blocksparse_test::Finish();
}
