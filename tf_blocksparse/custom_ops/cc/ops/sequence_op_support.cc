#include "absl/strings/str_cat.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_op.h"

namespace blocksparse {

using tensorflow::OpInputList;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

const Tensor* SequenceCall::Find(const std::string& name, bool optional) {
  if (!ok()) return nullptr;
  if (!optional) {
    const Tensor* tensor = nullptr;
    Require(context_->input(name, &tensor));
    return tensor;
  }
  OpInputList list;
  Require(context_->input_list(name, &list));
  if (!ok() || list.size() == 0) return nullptr;
  if (list.size() > 1) {
    Require(absl::InvalidArgumentError(absl::StrCat("there may be at most one ", name, ", got ", list.size())));
    return nullptr;
  }
  return &list[0];
}

const Tensor* SequenceCall::Checked(const Tensor* tensor, const char* name, std::initializer_list<int64_t> shape,
                                    const char* meaning) {
  if (tensor == nullptr) return nullptr;
  bool same = tensor->dims() == static_cast<int>(shape.size());
  int axis = 0;
  for (int64_t size : shape) {
    same = same && (size < 0 || tensor->dim_size(axis) == size);
    ++axis;
  }
  if (same) return tensor;
  std::string expected;
  for (int64_t size : shape) absl::StrAppend(&expected, expected.empty() ? "" : ", ", size < 0 ? "?" : absl::StrCat(size));
  Require(absl::InvalidArgumentError(absl::StrCat(name, " must have shape ", meaning, ", here [", expected,
                                                  "], got shape ", tensor->shape().DebugString())));
  return nullptr;
}

const Tensor* SequenceCall::Input(const char* name, std::initializer_list<int64_t> shape, const char* meaning) {
  return Checked(Find(name, false), name, shape, meaning);
}

const Tensor* SequenceCall::Optional(const char* name, std::initializer_list<int64_t> shape, const char* meaning) {
  return Checked(Find(name, true), name, shape, meaning);
}

bool SequenceCall::FindMatrix(const std::string& prefix, bool optional, int64_t in_features, int64_t out_features,
                              int64_t gates, MatrixInputs* matrix) {
  matrix->blocks = Find(prefix + "_blocks", optional);
  matrix->indices = Find(prefix + "_indices", optional);
  matrix->indptr = Find(prefix + "_indptr", optional);
  if (!ok() || matrix->blocks == nullptr) return false;
  const Tensor& blocks = *matrix->blocks;
  absl::Status status = CheckBsrShapes(blocks, *matrix->indices, *matrix->indptr);
  if (status.ok()) {
    status =
        InvalidIf(MakeGrid(in_features, out_features, gates, blocks.dim_size(1), blocks.dim_size(2), &matrix->grid));
  }
  return RequireMatrix(prefix, status);
}

bool SequenceCall::RequireMatrix(const std::string& prefix, const absl::Status& status) {
  if (status.ok()) return true;
  Require(absl::Status(status.code(), absl::StrCat("the matrix ", prefix, ": ", status.message())));
  return false;
}

absl::Status ReadSequence(OpKernelConstruction* construction, Cell cell, Sequence* sequence) {
  *sequence = {};
  sequence->cell = cell;
  std::string activation;
  std::string recurrent_activation = "sigmoid";
  absl::Status status = GetTable(&sequence->table);
  status.Update(construction->GetAttr("activation", &activation));
  if (cell != Cell::kRnn) status.Update(construction->GetAttr("recurrent_activation", &recurrent_activation));
  status.Update(construction->GetAttr("time_major", &sequence->time_major));
  status.Update(construction->GetAttr("go_backwards", &sequence->go_backwards));
  status.Update(construction->GetAttr("return_sequences", &sequence->return_sequences));
  status.Update(construction->GetAttr("zero_output_for_mask", &sequence->zero_output_for_mask));
  sequence->activation = ActivationOf(activation);
  sequence->recurrent_activation = ActivationOf(recurrent_activation);
  return status;
}

void ReadBias(SequenceCall* call, const Sequence& sequence, int64_t units, bool candidate, SequenceInputs* inputs) {
  const int64_t out = GatesOf(sequence.cell) * units;
  if (sequence.cell == Cell::kGru && !candidate) {
    inputs->bias = Floats(call->Optional("bias", {2, out}, "[2, 3 * units]"));
    if (inputs->bias != nullptr) inputs->recurrent_bias = inputs->bias + out;
  } else {
    inputs->bias = Floats(call->Optional("bias", {out}, "[gates * units]"));
  }
}

const bool* ReadMask(SequenceCall* call, const Sequence& sequence) {
  const Tensor* mask = sequence.time_major ? call->Optional("mask", {sequence.time, sequence.batch}, "[time, batch]")
                                           : call->Optional("mask", {sequence.batch, sequence.time}, "[batch, time]");
  return mask == nullptr ? nullptr : mask->unaligned_flat<bool>().data();
}

absl::Status AllocateNext(OpKernelContext* context, const TensorShape& shape, int* index, float** data) {
  Tensor* tensor = nullptr;
  TF_RETURN_IF_ERROR(context->allocate_output((*index)++, shape, &tensor));
  *data = tensor->unaligned_flat<float>().data();
  return absl::OkStatus();
}

TensorShape TimeShape(const Sequence& sequence, int64_t features) {
  if (sequence.time_major) return TensorShape({sequence.time, sequence.batch, features});
  return TensorShape({sequence.batch, sequence.time, features});
}

}  // namespace blocksparse
