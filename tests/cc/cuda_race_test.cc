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
    for (const int64_t side : {16, 32, 64}) Check(numeric, side, side, side == 16 ? 80 : 2 * side, side, 70);
    Check(numeric, 5, 3, 35, 33, 40);
    Check(numeric, 8, 8, 40, 40, 1);
    Check(numeric, 8, 8, 40, 40, 3);
  }
  const Numeric& f32 = Numerics()[0];
  for (const int64_t side : {4, 8}) Check(f32, side, side, 40, 40, 150);
  Check(f32, 12, 2, 40, 24, 70);
  Check(f32, 1, 16, 40, 48, 70);
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
