// The three products of a matrix through the launch code of the GPU, on the emulator.
#ifndef TF_BLOCKSPARSE_TESTS_CUDA_PRODUCTS_H_
#define TF_BLOCKSPARSE_TESTS_CUDA_PRODUCTS_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/cc/cuda_kernels.h"
#include "tests/cc/products.h"
#include "tf_blocksparse/custom_ops/cc/cuda/launch.h"

namespace blocksparse_test {

// What kernels are made for.
struct Numeric {
  const char* name;
  blocksparse::cuda::Type type;
  bool tf32;
};
const std::vector<Numeric>& Numerics();

// What is in the memory of a device: exactly as large as it has to be, for AddressSanitizer, and NaN at first. It
// begins on a multiple of 64 bytes or one number behind.
class DeviceBuffer {
 public:
  DeviceBuffer(int64_t size, blocksparse::cuda::Type type, bool aligned);
  DeviceBuffer(const std::vector<float>& values, blocksparse::cuda::Type type, bool aligned);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() { return data_; }
  std::vector<float> values() const;

 private:
  int64_t size_;
  blocksparse::cuda::Type type_;
  unsigned char* memory_;
  unsigned char* data_;
};

// `value` as a number of the type.
float Rounded(double value, blocksparse::cuda::Type type);

struct Emulation {
  Numeric numeric;
  ThreadOrder order = ThreadOrder::kForward;
  blocksparse::cuda::Device device;
  bool aligned = true;
};

// Kernels that have run, by their places in the table, and in which orders.
std::set<std::pair<int, ThreadOrder>>& Ran();

// What starts kernels on the emulator, and checks how many thread blocks it is asked for.
blocksparse::cuda::Start Starter(const Emulation& emulation);

struct Ending {
  const std::vector<float>* bias = nullptr;
  int activation = 0;
};

std::vector<float> EmulatedProduct(const Emulation& emulation, const blocksparse::BsrMatrix& w, bool transposed,
                                   const std::vector<float>& x, int64_t batch, const Ending& ending = {});
std::vector<float> EmulatedGrad(const Emulation& emulation, const blocksparse::BsrMatrix& w, bool by_column,
                                const std::vector<float>& x, const std::vector<float>& dy, int64_t batch);

// All three products, of small integers: their sums are exact, and what is written must be equal to these, rounded.
void CheckEmulated(const Emulation& emulation, const Case& c);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_CUDA_PRODUCTS_H_
