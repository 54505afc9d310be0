#include "tests/cc/op_fuzz/op_call.h"

#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/lib/core/threadpool.h"
#include "tensorflow/core/public/version.h"

namespace blocksparse_test {
namespace {

using namespace tensorflow;

constexpr size_t kMaxBytes = size_t{64} << 20;

class SmallAllocator : public Allocator {
 public:
  std::string Name() override { return "small"; }
  void* AllocateRaw(size_t alignment, size_t bytes) override {
    void* memory = nullptr;
    if (bytes > kMaxBytes || posix_memalign(&memory, alignment, bytes == 0 ? 1 : bytes) != 0) return nullptr;
    return memory;
  }
  void DeallocateRaw(void* memory) override { std::free(memory); }
};

class SmallDevice : public DeviceBase {
 public:
  SmallDevice() : DeviceBase(Env::Default()), pool_(Env::Default(), "fuzz", 2) {
    threads_.num_threads = 2;
    threads_.workers = &pool_;
    set_tensorflow_cpu_worker_threads(&threads_);
  }
  Allocator* GetAllocator(AllocatorAttributes) override { return HeapAllocator(); }
  const std::string& name() const override {  // of errors that say where memory ran out
    static const auto* name = new std::string("fuzz");
    return *name;
  }

 private:
  thread::ThreadPool pool_;
  CpuWorkerThreads threads_;
};

SmallDevice* Device() {
  static auto* device = new SmallDevice;
  return device;
}

std::vector<Tensor> Flat(const OpCall& call) {
  std::vector<Tensor> tensors;
  for (const auto& argument : call.arguments) {
    tensors.insert(tensors.end(), argument.second.begin(), argument.second.end());
  }
  return tensors;
}

NodeDef NodeOf(const OpCall& call, const OpDef& op) {
  NodeDef node;
  node.set_name("node");
  node.set_op(call.op);
  for (const auto& [name, value] : call.attrs) (*node.mutable_attr())[name] = value;
  for (int i = 0; i < op.input_arg_size(); ++i) {
    const std::string& count = op.input_arg(i).number_attr();
    const size_t size = call.List(op.input_arg(i).name()).size();
    for (size_t k = 0; k < size; ++k) node.add_input("input");
    if (!count.empty()) (*node.mutable_attr())[count].set_i(static_cast<int64_t>(size));
  }
  AddDefaultsToNodeDef(op, &node);
  return node;
}

PartialTensorShape Known(const TensorShape& shape, int64_t unknown_in, Random* random) {
  if (unknown_in == 0) return shape;
  if (random->Below(4) == 0) return PartialTensorShape();
  PartialTensorShape known({});
  for (int i = 0; i < shape.dims(); ++i) known.AddDim(random->Below(unknown_in) == 0 ? -1 : shape.dim_size(i));
  return known;
}

absl::Status InferShapes(const OpRegistrationData& op, const NodeDef& node, const std::vector<Tensor>& tensors,
                         Random* random, std::vector<PartialTensorShape>* outputs) {
  using shape_inference::InferenceContext;
  const int64_t unknown_in = random->Below(3);  // all known, or one in this many not
  std::vector<const Tensor*> values;
  for (const Tensor& tensor : tensors) values.push_back(random->Yes() ? &tensor : nullptr);
  InferenceContext c(TF_GRAPH_DEF_VERSION, AttrSlice(node), op.op_def,
                     std::vector<shape_inference::ShapeHandle>(tensors.size()), values, {}, {});
  TF_RETURN_IF_ERROR(c.construction_status());
  for (size_t i = 0; i < tensors.size(); ++i) {
    shape_inference::ShapeHandle shape;
    TF_RETURN_IF_ERROR(c.MakeShapeFromPartialTensorShape(Known(tensors[i].shape(), unknown_in, random), &shape));
    c.SetInput(static_cast<int>(i), shape);
  }
  TF_RETURN_IF_ERROR(c.Run(op.shape_inference_fn));
  for (int i = 0; i < c.num_outputs(); ++i) {
    TensorShapeProto proto;
    c.ShapeHandleToProto(c.output(i), &proto);
    PartialTensorShape shape;  // stays unknown if there is no such tensor
    PartialTensorShape::BuildPartialTensorShape(proto, &shape).IgnoreError();
    outputs->push_back(shape);
  }
  return absl::OkStatus();
}

absl::Status RunKernel(const NodeDef& node, const OpDef& op, std::vector<Tensor>* tensors, std::vector<Tensor>* outputs) {
  TF_RETURN_IF_ERROR(ValidateNodeDef(node, op));
  absl::Status status;
  std::unique_ptr<OpKernel> kernel =
      CreateOpKernel(DEVICE_CPU, Device(), HeapAllocator(), node, TF_GRAPH_DEF_VERSION, &status);
  TF_RETURN_IF_ERROR(status);
  std::vector<TensorValue> inputs;
  for (Tensor& tensor : *tensors) inputs.emplace_back(&tensor);
  const std::vector<AllocatorAttributes> attributes(kernel->num_outputs());
  OpKernelContext::Params params;
  params.device = Device();
  params.op_kernel = kernel.get();
  params.inputs = inputs;
  params.output_attr_array = attributes.data();
  // Twice: the second call finds the index that the first has kept.
  for (int i = 0; i < 2; ++i) {
    OpKernelContext context(&params, kernel->num_outputs());
    kernel->Compute(&context);
    TF_RETURN_IF_ERROR(context.status());
    outputs->clear();
    for (int k = 0; k < kernel->num_outputs(); ++k) outputs->push_back(*context.mutable_output(k));
  }
  return absl::OkStatus();
}

}  // namespace

Allocator* HeapAllocator() {
  static auto* allocator = new SmallAllocator;
  return allocator;
}

const std::vector<Tensor>& OpCall::List(const std::string& name) const {
  for (const auto& argument : arguments) {
    if (argument.first == name) return argument.second;
  }
  std::fprintf(stderr, "%s has no argument %s\n", op.c_str(), name.c_str());
  std::abort();
}

std::vector<Tensor>& OpCall::List(const std::string& name) {
  return const_cast<std::vector<Tensor>&>(static_cast<const OpCall*>(this)->List(name));
}

std::string OpCall::DebugString() const {
  std::string text = op;
  for (const auto& [name, value] : attrs) absl::StrAppend(&text, "\n  ", name, " = ", SummarizeAttrValue(value));
  for (const auto& [name, list] : arguments) {
    for (const Tensor& tensor : list) absl::StrAppend(&text, "\n  ", name, ": ", tensor.DebugString(40));
  }
  return text;
}

Outcome Run(const OpCall& call, Random* random) {
  Outcome outcome;
  const OpRegistrationData* op = nullptr;
  outcome.status = OpRegistry::Global()->LookUp(call.op, &op);
  if (!outcome.status.ok()) return outcome;
  const NodeDef node = NodeOf(call, op->op_def);
  std::vector<Tensor> tensors = Flat(call);
  std::vector<PartialTensorShape> shapes;
  // The kernel runs whatever the shape function says: it may have known less.
  outcome.status = ValidateNodeDef(node, op->op_def);
  if (!outcome.status.ok()) return outcome;
  outcome.shapes = InferShapes(*op, node, tensors, random, &shapes);
  outcome.status = RunKernel(node, op->op_def, &tensors, &outcome.outputs);
  if (!outcome.status.ok() || !outcome.shapes.ok()) return outcome;
  for (size_t i = 0; i < shapes.size(); ++i) {
    outcome.fits = outcome.fits && shapes[i].IsCompatibleWith(outcome.outputs[i].shape());
  }
  return outcome;
}

}  // namespace blocksparse_test
