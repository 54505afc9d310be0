// Every CUDA kernel that shares memory between threads, on tiny products, under ThreadSanitizer: the threads of a block
// are threads of the system, and two accesses that no barrier orders are an error.
#include "tests/cc/check.h"
#include "tests/cc/cuda_products.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

// Two slices of a sum and more, so that each piece of shared memory is written again after it was read.
void Check(const Numeric& numeric, int64_t height, int64_t width, int64_t in, int64_t out, int64_t batch) {
  Emulation emulation = {};
  emulation.numeric = numeric;
  emulation.device.architecture = 80;
  CheckEmulated(emulation, MakeCase(in, out, 1, height, width, batch, 1.0));
}

}  // namespace

int main() {
  for (const Numeric& numeric : Numerics()) {
    // Slices of the batch are 64 rows for blocks of 16 and 32 of 16-bit numbers.
    const int64_t batch = numeric.type == cuda::Type::kFloat32 ? 40 : 70;
    Check(numeric, 16, 16, 48, 16, batch);
    Check(numeric, 32, 32, 64, 32, batch);
    Check(numeric, 64, 64, 64, 64, 40);
    if (numeric.tf32) continue;
    Check(numeric, 5, 3, 20, 18, 20);
    Check(numeric, 8, 8, 24, 16, 1);
    Check(numeric, 8, 8, 24, 16, 3);
  }
  const Numeric& f32 = Numerics()[0];
  Check(f32, 4, 4, 24, 20, 40);
  Check(f32, 8, 8, 24, 24, 40);
  Check(f32, 12, 2, 24, 20, 40);
  Check(f32, 1, 16, 18, 32, 40);
  const std::vector<cuda::KernelInfo>& table = cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    const bool shares = table[i].role != cuda::Role::kCombine && table[i].role != cuda::Role::kGradCombine;
    if (shares) {
      CHECK_TRUE(Ran().count({static_cast<int>(i), ThreadOrder::kForward}) == 1,
                 std::string(table[i].name) + " did not run");
    }
  }
  return Finish();
}
