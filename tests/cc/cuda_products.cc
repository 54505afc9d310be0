#include "tests/cc/cuda_products.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tests/cc/check.h"
#include "tests/cc/cuda_numbers.h"

namespace blocksparse_test {

using namespace blocksparse;
using cuda::Type;

namespace {

void Write(float value, Type type, unsigned char* to) {
  if (type == Type::kFloat32) {
    std::memcpy(to, &value, 4);
    return;
  }
  const uint16_t bits = type == Type::kFloat16 ? HalfBits(value) : BFloat16Bits(value);
  std::memcpy(to, &bits, 2);
}

float Read(const unsigned char* from, Type type) {
  float value;
  uint16_t bits;
  if (type == Type::kFloat32) {
    std::memcpy(&value, from, 4);
    return value;
  }
  std::memcpy(&bits, from, 2);
  return type == Type::kFloat16 ? HalfValue(bits) : BFloat16Value(bits);
}

// The image of a pattern, as memory of the device that ends where it ends.
class DeviceImage {
 public:
  explicit DeviceImage(const std::vector<unsigned char>& image) : data_(new unsigned char[image.size()]) {
    std::copy(image.begin(), image.end(), data_);
  }
  ~DeviceImage() { delete[] data_; }
  DeviceImage(const DeviceImage&) = delete;
  DeviceImage& operator=(const DeviceImage&) = delete;
  const void* data() const { return data_; }

 private:
  unsigned char* data_;
};

cuda::KernelChoice Choice(const Emulation& emulation, int64_t batch) {
  cuda::KernelChoice choice = {};
  choice.type = emulation.numeric.type;
  choice.tf32 = emulation.numeric.tf32;
  choice.batch = batch;
  return choice;
}

std::vector<double> RoundedAll(std::vector<double> values, Type type) {
  for (double& value : values) value = Rounded(value, type);
  return values;
}

}  // namespace

const std::vector<Numeric>& Numerics() {
  static const auto* numerics = new std::vector<Numeric>{{"f32", Type::kFloat32, false},
                                                         {"tf32", Type::kFloat32, true},
                                                         {"f16", Type::kFloat16, false},
                                                         {"bf16", Type::kBFloat16, false}};
  return *numerics;
}

DeviceBuffer::DeviceBuffer(int64_t size, Type type, bool aligned) : size_(size), type_(type) {
  const int64_t skipped = aligned ? 0 : Bytes(type);
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, size * Bytes(type) + skipped) != 0) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  data_ = memory_ + skipped;
  std::memset(data_, 0xff, size * Bytes(type));
}

DeviceBuffer::DeviceBuffer(const std::vector<float>& values, Type type, bool aligned)
    : DeviceBuffer(static_cast<int64_t>(values.size()), type, aligned) {
  for (int64_t i = 0; i < size_; ++i) Write(values[i], type_, data_ + i * Bytes(type_));
}

DeviceBuffer::~DeviceBuffer() { std::free(memory_); }

std::vector<float> DeviceBuffer::values() const {
  std::vector<float> values(size_);
  for (int64_t i = 0; i < size_; ++i) values[i] = Read(data_ + i * Bytes(type_), type_);
  return values;
}

float Rounded(double value, Type type) {
  unsigned char memory[4];
  Write(static_cast<float>(value), type, memory);
  return Read(memory, type);
}

std::set<std::pair<int, ThreadOrder>>& Ran() {
  static auto* ran = new std::set<std::pair<int, ThreadOrder>>;
  return *ran;
}

cuda::Start Starter(const Emulation& emulation) {
  return [emulation](int kernel, int64_t grid, const void* args) -> std::string {
    CHECK_TRUE(grid > 0 && grid <= emulation.device.max_grid, "grid of " + std::to_string(grid));
    Ran().insert({kernel, emulation.order});
    EmulateKernel(kernel, grid, args, emulation.order);
    return "";
  };
}

std::vector<float> EmulatedProduct(const Emulation& emulation, const BsrMatrix& w, bool transposed,
                                   const std::vector<float>& x, int64_t batch, const Ending& ending) {
  const Type type = emulation.numeric.type;
  const BlockIndex index = Index(w, !transposed);
  const cuda::ProductPattern pattern = cuda::MakeProductPattern(index, emulation.device.multiprocessors);
  const DeviceImage image(pattern.image);
  DeviceBuffer given(x, type, emulation.aligned);
  DeviceBuffer blocks(w.blocks, type, emulation.aligned);
  DeviceBuffer y(batch * pattern.y_features, type, emulation.aligned);
  DeviceBuffer bias(ending.bias == nullptr ? std::vector<float>() : *ending.bias, type, emulation.aligned);
  cuda::ProductPlan plan;
  std::string error = PlanProduct(pattern, emulation.device, transposed, Choice(emulation, batch), &plan);
  DeviceBuffer partial(plan.partial_floats, Type::kFloat32, true);
  if (error.empty()) {
    error = RunProduct(plan, Starter(emulation), image.data(), given.data(), blocks.data(),
                       ending.bias == nullptr ? nullptr : bias.data(), ending.activation, y.data(),
                       static_cast<float*>(partial.data()));
  }
  CHECK_TRUE(error.empty(), error);
  return y.values();
}

std::vector<float> EmulatedGrad(const Emulation& emulation, const BsrMatrix& w, bool by_column,
                                const std::vector<float>& x, const std::vector<float>& dy, int64_t batch) {
  const Type type = emulation.numeric.type;
  const cuda::GradPattern pattern = cuda::MakeGradPattern(Index(w, by_column));
  const DeviceImage image(pattern.image);
  DeviceBuffer given(x, type, emulation.aligned);
  DeviceBuffer above(dy, type, emulation.aligned);
  DeviceBuffer dblocks(static_cast<int64_t>(w.blocks.size()), type, emulation.aligned);
  cuda::GradPlan plan;
  std::string error = PlanGrad(pattern, emulation.device, Choice(emulation, batch), &plan);
  DeviceBuffer partial(plan.partial_floats, Type::kFloat32, true);
  if (error.empty()) {
    error = RunGrad(plan, Starter(emulation), image.data(), given.data(), above.data(), dblocks.data(),
                    static_cast<float*>(partial.data()));
  }
  CHECK_TRUE(error.empty(), error);
  return dblocks.values();
}

void CheckEmulated(const Emulation& emulation, const Case& c) {
  const Type type = emulation.numeric.type;
  const std::vector<float> x = RandomIntegers(c.batch * c.w.grid.rows.features, 7);
  const std::vector<float> dy = RandomIntegers(c.batch * c.w.grid.columns.features, 8);
  const std::string what = c.name + " " + emulation.numeric.name + " multiprocessors " +
                           std::to_string(emulation.device.multiprocessors) +
                           (emulation.aligned ? "" : " unaligned") + " order " +
                           std::to_string(static_cast<int>(emulation.order));
  Compare(what + " y", EmulatedProduct(emulation, c.w, false, x, c.batch),
          RoundedAll(ReferenceProduct(c.w, x, c.batch), type));
  Compare(what + " dx", EmulatedProduct(emulation, c.w, true, dy, c.batch),
          RoundedAll(ReferenceGradX(c.w, dy, c.batch), type));
  Compare(what + " dblocks", EmulatedGrad(emulation, c.w, c.batch % 2 == 1, x, dy, c.batch),
          RoundedAll(ReferenceGradBlocks(c.w, x, dy, c.batch), type));
}

}  // namespace blocksparse_test
