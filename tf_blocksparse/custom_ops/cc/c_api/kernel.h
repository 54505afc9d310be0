// What the ops use of TensorFlow's C++ kernels, through its C API.
#ifndef TF_BLOCKSPARSE_C_API_KERNEL_H_
#define TF_BLOCKSPARSE_C_API_KERNEL_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/tf_datatype.h"
#include "tensorflow/c/tf_tensor.h"
#include "tf_blocksparse/custom_ops/cc/c_api/base.h"

namespace tensorflow {

using DataType = TF_DataType;
constexpr DataType DT_FLOAT = TF_FLOAT;
constexpr DataType DT_INT8 = TF_INT8;
constexpr DataType DT_HALF = TF_HALF;
constexpr DataType DT_BFLOAT16 = TF_BFLOAT16;
constexpr const char* DEVICE_CPU = "CPU";
struct bfloat16 {};  // only named, to register kernels for it

template <typename T>
struct DataTypeOf;
template <> struct DataTypeOf<bfloat16> { static constexpr DataType value = TF_BFLOAT16; };
template <> struct DataTypeOf<int8_t> { static constexpr DataType value = TF_INT8; };
template <> struct DataTypeOf<int32_t> { static constexpr DataType value = TF_INT32; };
template <> struct DataTypeOf<int64_t> { static constexpr DataType value = TF_INT64; };

class TensorShape {
 public:
  TensorShape() = default;
  TensorShape(std::initializer_list<int64_t> sizes) : sizes_(sizes) {}
  explicit TensorShape(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {}

  static absl::Status BuildTensorShape(std::initializer_list<int64_t> sizes, TensorShape* shape);
  // An error if there are more elements than 63 bits count.
  absl::Status CountElements(int64_t* elements) const;
  const std::vector<int64_t>& sizes() const { return sizes_; }
  std::string DebugString() const;

 private:
  std::vector<int64_t> sizes_;
};

template <typename T>
class Flat {
 public:
  explicit Flat(void* data) : data_(static_cast<T*>(data)) {}
  T* data() const { return data_; }

 private:
  T* data_;
};

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TF_Tensor* owned);
  int dims() const { return static_cast<int>(shape_.sizes().size()); }
  int64_t dim_size(int axis) const { return shape_.sizes()[axis]; }
  int64_t NumElements() const { return tensor_ == nullptr ? 0 : TF_TensorElementCount(tensor_.get()); }
  const TensorShape& shape() const { return shape_; }
  void* data() const { return tensor_ == nullptr ? nullptr : TF_TensorData(tensor_.get()); }
  template <typename T>
  Flat<T> unaligned_flat() const {
    return Flat<T>(data());
  }
  TF_Tensor* get() const { return tensor_.get(); }

 private:
  std::shared_ptr<TF_Tensor> tensor_;
  TensorShape shape_;
};

class OpInputList {
 public:
  int size() const { return static_cast<int>(tensors_.size()); }
  const Tensor& operator[](int i) const { return *tensors_[i]; }
  void Add(const Tensor* tensor) { tensors_.push_back(tensor); }

 private:
  std::vector<const Tensor*> tensors_;
};

class OpKernelConstruction {
 public:
  explicit OpKernelConstruction(TF_OpKernelConstruction* construction) : construction_(construction) {}
  absl::Status GetAttr(const char* name, std::string* value);
  absl::Status GetAttr(const char* name, int64_t* value);
  absl::Status GetAttr(const char* name, int* value);
  absl::Status GetAttr(const char* name, float* value);
  absl::Status GetAttr(const char* name, bool* value);
  absl::Status GetAttr(const char* name, DataType* value);
  void CtxFailure(const absl::Status& status);
  bool failed() const { return failed_; }

 private:
  TF_OpKernelConstruction* construction_;
  bool failed_ = false;
};

// The C API has no way to TensorFlow's threads: these are the library's own.
class ThreadPool {
 public:
  void Schedule(std::function<void()> task);
};
struct CpuWorkerThreads {
  int num_threads;
  ThreadPool* workers;
};
class Device {
 public:
  const CpuWorkerThreads* tensorflow_cpu_worker_threads() const;
};

class OpKernelContext {
 public:
  explicit OpKernelContext(TF_OpKernelContext* context);
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  const Tensor& input(int i) const { return inputs_[i]; }
  absl::Status input(const std::string& name, const Tensor** tensor);
  absl::Status input_list(const std::string& name, OpInputList* list);
  absl::Status allocate_output(int i, const TensorShape& shape, Tensor** tensor);
  absl::Status allocate_temp(DataType type, const TensorShape& shape, Tensor* tensor);
  Tensor* mutable_output(int i) { return &outputs_[i]; }
  void set_output(int i, const Tensor& tensor);
  const Device* device() const { return &device_; }
  void CtxFailure(const absl::Status& status);

 private:
  TF_OpKernelContext* context_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  Device device_;
};

class OpKernel {
 public:
  explicit OpKernel(OpKernelConstruction*) {}
  virtual ~OpKernel() = default;
  virtual void Compute(OpKernelContext* context) = 0;
};

// Name("Op").Device(DEVICE_CPU).TypeConstraint<T>("T")
class Name {
 public:
  explicit Name(const char* op) : op_(op) {}
  Name& Device(const char* device) {
    device_ = device;
    return *this;
  }
  template <typename T>
  Name& TypeConstraint(const char* attr) {
    attr_ = attr;
    type_ = DataTypeOf<T>::value;
    return *this;
  }
  void Register(void* (*create)(TF_OpKernelConstruction*)) const;

 private:
  const char* op_;
  const char* device_ = DEVICE_CPU;
  const char* attr_ = nullptr;
  DataType type_ = TF_FLOAT;
};

template <typename Kernel>
void* CreateKernel(TF_OpKernelConstruction* given) {
  OpKernelConstruction construction(given);
  auto kernel = std::make_unique<Kernel>(&construction);
  return construction.failed() ? nullptr : static_cast<OpKernel*>(kernel.release());
}

template <typename Kernel>
struct KernelRegistration {
  KernelRegistration(const Name& name) { name.Register(CreateKernel<Kernel>); }  // NOLINT: from Name(...).Device(...)
};

}  // namespace tensorflow

#define BLOCKSPARSE_JOIN_(a, b) a##b
#define BLOCKSPARSE_JOIN(a, b) BLOCKSPARSE_JOIN_(a, b)
#define REGISTER_KERNEL_BUILDER(name, ...)                                                       \
  static const ::tensorflow::KernelRegistration<__VA_ARGS__> BLOCKSPARSE_JOIN(kernel_, __COUNTER__) = \
      [] { using ::tensorflow::Name; return name; }()

#endif  // TF_BLOCKSPARSE_C_API_KERNEL_H_
