#include "tests/cc/op_fuzz/op_tensors.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace blocksparse_test {

using namespace tensorflow;

namespace {

constexpr int64_t kHostileInts[] = {-1, 0, 1, 2, 3, 7, 40, 1000, 1 << 30, INT32_MAX, INT32_MIN};
constexpr float kHostileFloats[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity(), 3e38f, -3e38f, 1e-42f, -0.0f};
// None may be sound and take gigabytes, which is left to the allocator to refuse.
constexpr int64_t kHostileSizes[] = {0, 1, 2, 5, 1 << 20, int64_t{1} << 31, int64_t{1} << 40, int64_t{1} << 62};

// Half of all tensors begin in the middle of a buffer, as slices of variables do, and not where vectors are aligned.
Tensor Allocate(DataType type, const TensorShape& shape, bool aligned) {
  if (aligned || shape.dims() == 0 || shape.num_elements() == 0) return Tensor(HeapAllocator(), type, shape);
  TensorShape larger = shape;
  larger.set_dim(0, shape.dim_size(0) + 1);
  return Tensor(HeapAllocator(), type, larger).Slice(1, shape.dim_size(0) + 1);
}

Tensor Copied(const Tensor& from, const TensorShape& shape, Random* random) {
  Tensor to = Allocate(from.dtype(), shape, random->Yes());
  const size_t bytes = std::min(to.TotalBytes(), from.TotalBytes());
  if (bytes > 0) std::memcpy(to.data(), from.data(), bytes);
  if (to.TotalBytes() > bytes) std::memset(static_cast<char*>(to.data()) + bytes, 0, to.TotalBytes() - bytes);
  return to;
}

void SpoilNumber(Tensor* tensor, Random* random) {
  if (tensor->NumElements() == 0) return;
  const int64_t at = random->Below(tensor->NumElements());
  switch (tensor->dtype()) {
    case DT_FLOAT: tensor->unaligned_flat<float>()(at) = random->Of(kHostileFloats); break;
    case DT_BFLOAT16: tensor->unaligned_flat<bfloat16>()(at) = bfloat16(random->Of(kHostileFloats)); break;
    case DT_INT8: tensor->unaligned_flat<int8_t>()(at) = static_cast<int8_t>(random->Below(256) - 128); break;
    case DT_INT32: tensor->unaligned_flat<int32_t>()(at) = static_cast<int32_t>(random->Of(kHostileInts)); break;
    case DT_INT64: tensor->unaligned_flat<int64_t>()(at) = random->Of(kHostileInts) * (random->Yes() ? 1 : 1 << 20); break;
    default: tensor->unaligned_flat<bool>()(at) ^= true;
  }
}

// Sizes that no memory could hold, with a zero beside them.
void MakeEmpty(std::vector<int64_t>* sizes, Random* random) {
  for (int64_t& size : *sizes) size = random->Yes() ? size : random->Of(kHostileSizes);
  if (!sizes->empty()) (*sizes)[random->Below(static_cast<int64_t>(sizes->size()))] = 0;
}

bool FitsMemory(const std::vector<int64_t>& sizes) {
  bool empty = false;
  double elements = 1;
  for (const int64_t size : sizes) {
    empty = empty || size == 0;
    elements *= static_cast<double>(size);
  }
  return empty || elements < 1e5;
}

}  // namespace

Tensor Integers(const TensorShape& shape, float scale, Random* random) {
  Tensor tensor = Allocate(DT_FLOAT, shape, random->Yes());
  auto flat = tensor.unaligned_flat<float>();
  for (int64_t i = 0; i < tensor.NumElements(); ++i) flat(i) = scale * static_cast<float>(random->Below(9) - 4);
  return tensor;
}

Tensor Narrow(const TensorShape& shape, DataType type, Random* random) {
  Tensor tensor = Allocate(type, shape, random->Yes());
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    const int64_t value = random->Below(9) - 4;
    if (type == DT_INT8) {
      tensor.unaligned_flat<int8_t>()(i) = static_cast<int8_t>(value);
    } else {
      tensor.unaligned_flat<bfloat16>()(i) = bfloat16(static_cast<float>(value) / 16);
    }
  }
  return tensor;
}

Tensor Bools(const TensorShape& shape, Random* random) {
  Tensor tensor(HeapAllocator(), DT_BOOL, shape);
  for (int64_t i = 0; i < tensor.NumElements(); ++i) tensor.unaligned_flat<bool>()(i) = random->Yes();
  return tensor;
}

Tensor Ids(int64_t count, int64_t below, DataType type, Random* random) {
  Tensor tensor = Allocate(type, {count}, random->Yes());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = random->Below(below);
    if (type == DT_INT32) tensor.unaligned_flat<int32_t>()(i) = static_cast<int32_t>(id);
    if (type == DT_INT64) tensor.unaligned_flat<int64_t>()(i) = id;
  }
  return tensor;
}

Tensor Ints(const std::vector<int32_t>& values) {
  Tensor tensor(HeapAllocator(), DT_INT32, TensorShape({static_cast<int64_t>(values.size())}));
  std::copy(values.begin(), values.end(), tensor.unaligned_flat<int32_t>().data());
  return tensor;
}

Tensor Reshaped(const Tensor& tensor, const TensorShape& shape) {
  Tensor other;
  return other.CopyFrom(tensor, shape) ? other : tensor;
}

std::vector<double> Doubles(const Tensor& tensor) {
  std::vector<double> values(tensor.NumElements());
  for (size_t i = 0; i < values.size(); ++i) {
    switch (tensor.dtype()) {
      case DT_FLOAT: values[i] = tensor.unaligned_flat<float>()(i); break;
      case DT_BFLOAT16: values[i] = static_cast<float>(tensor.unaligned_flat<bfloat16>()(i)); break;
      case DT_INT8: values[i] = tensor.unaligned_flat<int8_t>()(i); break;
      case DT_BOOL: values[i] = tensor.unaligned_flat<bool>()(i); break;
      default: break;
    }
  }
  return values;
}

std::vector<int64_t> Longs(const Tensor& tensor) {
  std::vector<int64_t> values(tensor.NumElements());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = tensor.dtype() == DT_INT64 ? tensor.unaligned_flat<int64_t>()(i) : tensor.unaligned_flat<int32_t>()(i);
  }
  return values;
}

Tensor Spoilt(const Tensor& tensor, Random* random) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < tensor.dims(); ++i) sizes.push_back(tensor.dim_size(i));
  const bool vector = !sizes.empty();
  switch (random->Below(10)) {
    case 0: sizes.insert(sizes.begin(), 1); break;
    case 1: sizes = {tensor.NumElements()}; break;
    case 2: if (vector) sizes[0] += 1; break;
    case 3: if (vector && sizes[0] > 0) sizes[0] -= 1; break;
    case 4: MakeEmpty(&sizes, random); break;
    case 5: if (vector && sizes.back() > 0) sizes.back() -= 1; break;
    case 6: if (vector) std::swap(sizes.front(), sizes.back()); break;
    default: {
      Tensor spoilt = Copied(tensor, tensor.shape(), random);
      SpoilNumber(&spoilt, random);
      return spoilt;
    }
  }
  TensorShape shape;
  const bool valid = FitsMemory(sizes) && TensorShape::BuildTensorShape(sizes, &shape).ok();
  return valid ? Copied(tensor, shape, random) : tensor;
}

}  // namespace blocksparse_test
