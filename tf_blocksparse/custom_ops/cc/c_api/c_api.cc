#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>

#include "tf_blocksparse/custom_ops/cc/c_api/kernel.h"
#include "tf_blocksparse/custom_ops/cc/c_api/op.h"

namespace tensorflow {
namespace {

constexpr size_t kMaxWord = 32;  // longer than the values that attributes may have

void ComputeKernel(void* kernel, TF_OpKernelContext* given) {
  OpKernelContext context(given);
  static_cast<OpKernel*>(kernel)->Compute(&context);
}

void DeleteKernel(void* kernel) { delete static_cast<OpKernel*>(kernel); }

// Threads that wait for work, as many as TF_NUM_INTRAOP_THREADS or the machine has; they end with the process.
class Workers {
 public:
  Workers() {
    const char* given = std::getenv("TF_NUM_INTRAOP_THREADS");
    const int asked = given == nullptr ? 0 : std::atoi(given);
    size_ = std::max(1, asked > 0 ? asked : static_cast<int>(std::thread::hardware_concurrency()));
    for (int i = 1; i < size_; ++i) std::thread([this] { Work(); }).detach();
  }

  int size() const { return size_; }

  void Add(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    ready_.notify_one();
  }

 private:
  void Work() {
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      ready_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
};

Workers* AllWorkers() {
  static auto* workers = new Workers;  // never destroyed: its threads use it
  return workers;
}

}  // namespace

absl::Status TensorShape::CountElements(int64_t* elements) const {
  *elements = 1;
  for (const int64_t size : sizes_) {
    if (size < 0 || __builtin_mul_overflow(*elements, size, elements)) {
      return absl::InvalidArgumentError("there can be no tensor of shape " + DebugString());
    }
  }
  return absl::OkStatus();
}

absl::Status TensorShape::BuildTensorShape(std::initializer_list<int64_t> sizes, TensorShape* shape) {
  *shape = TensorShape(sizes);
  int64_t unused;
  return shape->CountElements(&unused);
}

std::string TensorShape::DebugString() const {
  std::string text;
  for (const int64_t size : sizes_) absl::StrAppend(&text, text.empty() ? "" : ",", size);
  return "[" + text + "]";
}

Tensor::Tensor(TF_Tensor* owned) : tensor_(owned, TF_DeleteTensor) {
  std::vector<int64_t> sizes(TF_NumDims(owned));
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = TF_Dim(owned, static_cast<int>(i));
  shape_ = TensorShape(std::move(sizes));
}

#define GET_ATTR(TYPE, FUNCTION, C_TYPE)                                          \
  absl::Status OpKernelConstruction::GetAttr(const char* name, TYPE* value) {     \
    CStatus status;                                                               \
    C_TYPE read = {};                                                             \
    TF_OpKernelConstruction_##FUNCTION(construction_, name, &read, status.get()); \
    *value = static_cast<TYPE>(read);                                             \
    return status.status();                                                       \
  }
GET_ATTR(int64_t, GetAttrInt64, int64_t)
GET_ATTR(int, GetAttrInt32, int32_t)
GET_ATTR(float, GetAttrFloat, float)
GET_ATTR(bool, GetAttrBool, TF_Bool)
GET_ATTR(DataType, GetAttrType, TF_DataType)
#undef GET_ATTR

absl::Status OpKernelConstruction::GetAttr(const char* name, std::string* value) {
  CStatus status;
  int32_t list_size = 0;
  int32_t size = 0;
  TF_OpKernelConstruction_GetAttrSize(construction_, name, &list_size, &size, status.get());
  TF_RETURN_IF_ERROR(status.status());
  char text[kMaxWord];
  TF_OpKernelConstruction_GetAttrString(construction_, name, text, kMaxWord, status.get());
  value->assign(text, std::min<size_t>(size < 0 ? 0 : size, kMaxWord));
  return status.status();
}

void OpKernelConstruction::CtxFailure(const absl::Status& status) {
  failed_ = true;
  CStatus given(status);
  TF_OpKernelConstruction_Failure(construction_, given.get());
}

void ThreadPool::Schedule(std::function<void()> task) { AllWorkers()->Add(std::move(task)); }

const CpuWorkerThreads* Device::tensorflow_cpu_worker_threads() const {
  static ThreadPool pool;
  static const CpuWorkerThreads threads = {AllWorkers()->size(), &pool};
  return &threads;
}

OpKernelContext::OpKernelContext(TF_OpKernelContext* context)
    : context_(context), outputs_(TF_NumOutputs(context)) {
  for (int i = 0; i < TF_NumInputs(context); ++i) {
    CStatus status;
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context, i, &tensor, status.get());
    if (tensor == nullptr) {
      inputs_.emplace_back();
      CtxFailure(status.status());
    } else {
      inputs_.emplace_back(tensor);
    }
  }
}

absl::Status OpKernelContext::input(const std::string& name, const Tensor** tensor) {
  OpInputList list;
  TF_RETURN_IF_ERROR(input_list(name, &list));
  if (list.size() != 1) return absl::InvalidArgumentError(absl::StrCat(name, " is ", list.size(), " tensors"));
  *tensor = &list[0];
  return absl::OkStatus();
}

absl::Status OpKernelContext::input_list(const std::string& name, OpInputList* list) {
  CStatus status;
  TF_InputRange_Args range = {TF_InputRange_Args_STRUCT_SIZE, nullptr, 0, 0, status.get()};
  TF_InputRange(context_, name.c_str(), &range);
  TF_RETURN_IF_ERROR(status.status());
  for (int i = range.start; i < range.stop; ++i) list->Add(&inputs_[i]);
  return absl::OkStatus();
}

absl::Status OpKernelContext::allocate_output(int i, const TensorShape& shape, Tensor** tensor) {
  int64_t elements;
  TF_RETURN_IF_ERROR(shape.CountElements(&elements));
  const DataType type = TF_ExpectedOutputDataType(context_, i);
  CStatus status;
  TF_Tensor* allocated =
      TF_AllocateOutput(context_, i, type, shape.sizes().data(), static_cast<int>(shape.sizes().size()),
                        elements * TF_DataTypeSize(type), status.get());
  TF_RETURN_IF_ERROR(status.status());
  outputs_[i] = Tensor(allocated);
  *tensor = &outputs_[i];
  return absl::OkStatus();
}

absl::Status OpKernelContext::allocate_temp(DataType type, const TensorShape& shape, Tensor* tensor) {
  int64_t elements;
  TF_RETURN_IF_ERROR(shape.CountElements(&elements));
  CStatus status;
  TF_AllocatorAttributes attributes = {TF_ALLOCATOR_ATTRIBUTES_STRUCT_SIZE, 1};
  TF_Tensor* allocated = TF_AllocateTemp(context_, type, shape.sizes().data(),
                                         static_cast<int>(shape.sizes().size()), &attributes, status.get());
  TF_RETURN_IF_ERROR(status.status());
  *tensor = Tensor(allocated);
  return absl::OkStatus();
}

void OpKernelContext::set_output(int i, const Tensor& tensor) {
  CStatus status;
  TF_SetOutput(context_, i, tensor.get(), status.get());
  outputs_[i] = tensor;
  if (!status.status().ok()) CtxFailure(status.status());
}

void OpKernelContext::CtxFailure(const absl::Status& status) {
  CStatus given(status);
  TF_OpKernelContext_Failure(context_, given.get());
}

void Name::Register(void* (*create)(TF_OpKernelConstruction*)) const {
  CStatus status;
  TF_KernelBuilder* builder = TF_NewKernelBuilder(op_, device_, create, ComputeKernel, DeleteKernel);
  if (attr_ != nullptr) TF_KernelBuilder_TypeConstraint(builder, attr_, type_, status.get());
  if (status.status().ok()) TF_RegisterKernelBuilder(op_, builder, status.get());
  if (!status.status().ok()) std::fprintf(stderr, "%s: %s\n", op_, status.status().message().c_str());
}

void OpDefinition::Register() const {
  CStatus status;
  TF_RegisterOpDefinition(builder_, status.get());
  if (!status.status().ok()) std::fprintf(stderr, "an op was not registered: %s\n", status.status().message().c_str());
}

}  // namespace tensorflow
