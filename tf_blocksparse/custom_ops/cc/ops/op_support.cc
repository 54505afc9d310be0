#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/lib/core/threadpool.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace blocksparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::DimensionOrConstant;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status InvalidIf(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

absl::Status CheckRank(const Tensor& tensor, int rank, const char* name, const char* meaning) {
  if (tensor.dims() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must have shape ", meaning, ", got shape ", tensor.shape().DebugString()));
}

absl::Status CheckDim(const Tensor& tensor, int axis, const char* name, int64_t expected, const char* what) {
  if (tensor.dim_size(axis) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("dimension ", axis, " of ", name, " must be ", expected, " (",
                                                 what, "), got shape ", tensor.shape().DebugString()));
}

absl::Status CheckBsrShapes(const Tensor& blocks, const Tensor& indices, const Tensor& indptr) {
  absl::Status status = CheckRank(blocks, 3, "blocks", "[num_blocks, height, width]");
  if (status.ok()) status = CheckRank(indices, 1, "indices", "[num_blocks]");
  if (status.ok()) status = CheckRank(indptr, 1, "indptr", "[block rows + 1]");
  if (status.ok()) status = CheckDim(indices, 0, "indices", blocks.dim_size(0), "the number of blocks");
  return status;
}

Activation ActivationOf(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "tanh") return Activation::kTanh;
  return name == "sigmoid" ? Activation::kSigmoid : Activation::kLinear;
}

absl::Status ReadActivation(OpKernelConstruction* construction, Activation* activation) {
  std::string name;
  int num_biases;
  TF_RETURN_IF_ERROR(construction->GetAttr("activation", &name));
  TF_RETURN_IF_ERROR(construction->GetAttr("num_biases", &num_biases));
  if (num_biases > 1) {
    return absl::InvalidArgumentError(absl::StrCat("there may be at most one bias, got num_biases = ", num_biases));
  }
  *activation = ActivationOf(name);
  return absl::OkStatus();
}

absl::Status ReadNumber(OpKernelConstruction* construction, Number* number) {
  tensorflow::DataType type;
  TF_RETURN_IF_ERROR(construction->GetAttr("T", &type));
  *number = type == tensorflow::DT_HALF       ? Number::kFloat16
            : type == tensorflow::DT_BFLOAT16 ? Number::kBfloat16
                                              : Number::kFloat32;
  return absl::OkStatus();
}

absl::Status ReadEpilogue(OpKernelContext* context, int bias, int64_t out_features, Activation activation,
                          Epilogue* epilogue) {
  epilogue->activation = activation;
  if (context->num_inputs() == bias) return absl::OkStatus();
  const Tensor& tensor = context->input(bias);
  TF_RETURN_IF_ERROR(CheckRank(tensor, 1, "bias", "[out_features]"));
  epilogue->bias = static_cast<const float*>(tensor.data());
  return CheckDim(tensor, 0, "bias", out_features, "out_features");
}

absl::Status GetTable(const KernelTable** table) {
  std::string error;
  *table = ActiveTable(&error);
  return InvalidIf(error);
}

int64_t NumThreads(OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->num_threads;
}

namespace {

std::function<void(std::function<void()>)> Schedule(OpKernelContext* context) {
  auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](std::function<void()> helper) { pool->Schedule(std::move(helper)); };
}

}  // namespace

// Not the pool's own ParallelFor, which waits for its threads to wake.
ParallelFor IntraOpParallelFor(OpKernelContext* context) { return WithHelpers(Schedule(context)); }

RunTeam IntraOpTeam(OpKernelContext* context) { return TeamOf(Schedule(context)); }

absl::Status AllocateWorkspace(OpKernelContext* context, int64_t floats, Tensor* holder, float** workspace) {
  *workspace = nullptr;
  if (floats == 0) return absl::OkStatus();
  absl::Status status = context->allocate_temp(tensorflow::DT_FLOAT, tensorflow::TensorShape({floats}), holder);
  if (status.ok()) *workspace = holder->unaligned_flat<float>().data();
  return status;
}

absl::Status ReadFloats(OpKernelContext* context, Number number, const Tensor& tensor, Tensor* holder,
                        const float** floats) {
  *floats = static_cast<const float*>(tensor.data());
  if (number == Number::kFloat32) return absl::OkStatus();
  float* copy = nullptr;
  TF_RETURN_IF_ERROR(AllocateWorkspace(context, tensor.NumElements(), holder, &copy));
  ToFloats(number, tensor.data(), tensor.NumElements(), copy);
  *floats = copy;
  return absl::OkStatus();
}

absl::Status AllocateFloats(OpKernelContext* context, Number number, const Tensor& output, Tensor* holder,
                            float** floats) {
  *floats = static_cast<float*>(output.data());
  if (number == Number::kFloat32) return absl::OkStatus();
  return AllocateWorkspace(context, output.NumElements(), holder, floats);
}

void WriteFloats(Number number, const float* floats, const Tensor& output) {
  if (number != Number::kFloat32) FromFloats(number, floats, output.NumElements(), output.data());
}

absl::Status MatrixShapes(InferenceContext* c, int first, DimensionOrConstant in_features,
                          DimensionOrConstant out_features) {
  int64_t gates = 1;
  std::string order = "row";
  c->GetAttr("gates", &gates).IgnoreError();  // the ops that have none stand for the defaults
  c->GetAttr("order", &order).IgnoreError();
  return MatrixShapes(c, first, in_features, out_features, gates, order == "row");
}

absl::Status MatrixShapes(InferenceContext* c, int first, DimensionOrConstant in_features,
                          DimensionOrConstant out_features, int64_t gates, bool by_row) {
  ShapeHandle blocks;
  ShapeHandle indices;
  ShapeHandle indptr;
  DimensionHandle num_blocks;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 3, &blocks));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 1, &indices));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 2), 1, &indptr));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(blocks, 0), c->Dim(indices, 0), &num_blocks));
  // A size that is unknown or refused when the op runs leaves the other one to be checked.
  const int64_t features = c->Value(by_row ? in_features : out_features);
  const int64_t block = c->Value(c->Dim(blocks, by_row ? 1 : 2));
  if (c->Value(out_features) > 0) {
    Grid unused;
    TF_RETURN_IF_ERROR(InvalidIf(MakeGrid(1, c->Value(out_features), gates, 1, 1, &unused)));
  }
  if (features <= 0 || block <= 0) return absl::OkStatus();
  Grid grid;
  TF_RETURN_IF_ERROR(InvalidIf(by_row ? MakeGrid(features, 1, 1, block, 1, &grid)
                                      : MakeGrid(1, features, gates, 1, block, &grid)));
  DimensionHandle unused;
  return c->WithValue(c->Dim(indptr, 0), (by_row ? grid.rows : grid.columns).lines + 1, &unused);
}

}  // namespace blocksparse
