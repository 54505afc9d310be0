// The three products of one matrix, run as the ops run them and compared with plain loops in double.
#ifndef TF_BLOCKSPARSE_TESTS_PRODUCTS_H_
#define TF_BLOCKSPARSE_TESTS_PRODUCTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/cc/random_matrix.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

namespace blocksparse_test {

// Block shapes: those that have kernels of their own, multiples of them, and some that have none.
const std::vector<std::pair<int64_t, int64_t>>& BlockShapes();

struct Case {
  std::string name;
  blocksparse::BsrMatrix w;
  int64_t batch;
};

// Floats are compared with what c * eps * sqrt(K) allows, K terms to a sum; integers must be equal.
enum class Numbers { kIntegers, kFloats };

Case MakeCase(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width, int64_t batch, double density,
              blocksparse::Order order = blocksparse::Order::kRow, Pattern pattern = Pattern::kRandom,
              Numbers numbers = Numbers::kIntegers);

blocksparse::BlockIndex Index(const blocksparse::BsrMatrix& w, bool by_column);

// Floats that begin 4 bytes behind a multiple of 64, or on one, and end where the memory does, so that
// AddressSanitizer sees the first float too many.
class Buffer {
 public:
  Buffer(int64_t size, bool aligned);
  Buffer(const std::vector<float>& values, bool aligned);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  float* data() { return data_; }
  std::vector<float> values() const { return {data_, data_ + size_}; }

 private:
  void* memory_ = nullptr;
  float* data_ = nullptr;
  int64_t size_;
};

struct RunOptions {
  int64_t threads = 1;
  bool aligned = true;
  blocksparse::Epilogue epilogue = {};
};

// Every output is exactly as large as it has to be and starts as NaN, as the workspace does: what is not written shows.
// y = x W where the index is by column, dx = dy W^T where it is by row.
std::vector<float> Product(const blocksparse::KernelTable& table, const blocksparse::BsrMatrix& w,
                           const blocksparse::BlockIndex& index, const std::vector<float>& x, int64_t batch,
                           const RunOptions& options);
std::vector<float> Grad(const blocksparse::KernelTable& table, const blocksparse::BsrMatrix& w,
                        const blocksparse::BlockIndex& index, const std::vector<float>& x,
                        const std::vector<float>& dy, int64_t batch, const RunOptions& options);

// Checks that they are equal, within `tolerance`; `what` says what was run.
void Compare(const std::string& what, const std::vector<float>& got, const std::vector<double>& expected,
             double tolerance = 0.0);

// All three products with every instruction set and 1, 2 and 3 threads. Counts of threads that the plan does not use
// are left out: they run what fewer ran. Returns how many runs were split over threads.
int CheckProducts(const Case& c, Numbers numbers = Numbers::kIntegers);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_PRODUCTS_H_
