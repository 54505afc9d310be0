#include "tf_blocksparse/custom_ops/cc/kernels/gather.h"

#include <limits>

#include "tests/cc/check.h"
#include "tests/cc/random_matrix.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void Run(int64_t in, int64_t out, int64_t height, int64_t width, double density, int64_t num_ids,
         int64_t threads) {
  const BsrMatrix w = RandomMatrix(in, out, 1, height, width, density, 9);
  BlockIndex index;
  CHECK_EQUAL(BuildBlockIndex(w.grid, w.order, w.indptr.data(), w.indptr.size(), w.indices.data(), w.indices.size(), false,
                              &index).size(), 0u);
  std::vector<int32_t> ids(num_ids);
  for (int64_t k = 0; k < num_ids; ++k) ids[k] = static_cast<int32_t>((k * 7919 + in - 1) % in);
  if (num_ids > 2) ids[2] = ids[0];  // equal ids add up

  const std::vector<double> dense = ReferenceDense(w);
  std::vector<float> got(num_ids * out, kNaN);
  GatherRows(index, w.blocks.data(), ids.data(), num_ids, got.data(), threads, ThreadedFor);
  std::vector<double> expected(num_ids * out);
  std::vector<float> one_hot(num_ids * in, 0.0f);
  for (int64_t k = 0; k < num_ids; ++k) {
    one_hot[k * in + ids[k]] = 1.0f;
    for (int64_t c = 0; c < out; ++c) expected[k * out + c] = dense[ids[k] * out + c];
  }
  CHECK_EQUAL(FirstDifference(got, expected, 0.0), -1);

  const std::vector<float> dy = RandomIntegers(num_ids * out, 10);
  std::vector<float> dblocks(w.blocks.size(), kNaN);
  GatherRowsGrad(index, dy.data(), ids.data(), num_ids, dblocks.data(), threads, ThreadedFor);
  CHECK_EQUAL(FirstDifference(dblocks, ReferenceGradBlocks(w, one_hot, dy, num_ids), 0.0), -1);
}

}  // namespace

int main() {
  for (double density : {-1.0, 0.0, 0.3, 1.0}) {
    for (int64_t num_ids : {0, 1, 5, 100}) {
      Run(32, 32, 4, 4, density, num_ids, 2);
      Run(37, 30, 4, 8, density, num_ids, 2);
      Run(11, 13, 3, 5, density, num_ids, 1);
      Run(5, 5, 16, 16, density, num_ids, 2);
      Run(300, 40, 1, 16, density, num_ids, 2);
    }
  }
  Run(200, 3000, 8, 8, 0.5, 500, 3);  // large enough for threads
  return Finish();
}
