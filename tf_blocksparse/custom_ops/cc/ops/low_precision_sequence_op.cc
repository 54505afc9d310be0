// BlockSparse>LowPrecisionSequence: a recurrent layer over a whole sequence with bfloat16 or int8 blocks, for inference.
//
// Every input may come from a stranger's SavedModel: all of it is checked before the kernels see it.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/ops/low_precision_support.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_op.h"

namespace blocksparse {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status InferShape(InferenceContext* c) {
  ShapeHandle x;
  ShapeHandle h;
  bool time_major;
  bool return_sequences;
  std::string cell;
  std::vector<ShapeHandle> states;
  TF_RETURN_IF_ERROR(c->GetAttr("cell", &cell));
  TF_RETURN_IF_ERROR(c->GetAttr("time_major", &time_major));
  TF_RETURN_IF_ERROR(c->GetAttr("return_sequences", &return_sequences));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 3, &x));
  TF_RETURN_IF_ERROR(c->input("states", &states));
  if (states.size() != (cell == "lstm" ? 2u : 1u)) {
    return absl::InvalidArgumentError(absl::StrCat("a ", cell, " has ", cell == "lstm" ? 2 : 1, " states, got ",
                                                   states.size()));
  }
  for (const ShapeHandle& state : states) TF_RETURN_IF_ERROR(c->WithRank(state, 2, &h));
  DimensionHandle batch;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, time_major ? 1 : 0), c->Dim(h, 0), &batch));
  const DimensionHandle time = c->Dim(x, time_major ? 0 : 1);
  const DimensionHandle units = c->Dim(h, 1);
  ShapeHandle output = c->Matrix(batch, units);
  if (return_sequences) output = time_major ? c->MakeShape({time, batch, units}) : c->MakeShape({batch, time, units});
  c->set_output(0, output);
  for (size_t i = 0; i < states.size(); ++i) c->set_output(1 + static_cast<int>(i), c->Matrix(batch, units));
  return absl::OkStatus();
}

// The matrices are kernel, recurrent, and for a GRU that resets before the product the candidate's; as those of
// LowPrecisionMatMul. Everything else is as of the ops with float blocks.
REGISTER_OP("BlockSparse>LowPrecisionSequence")
    .Input("x: float")                         // [batch, time, in]
    .Input("states: num_states * float")       // [batch, units] each: h, and for an LSTM c
    .Input("blocks: num_matrices * T")         // [num_blocks, ceil(block_height / p), width, p]
    .Input("indices: num_matrices * int32")    // [num_blocks] block rows
    .Input("indptr: num_matrices * int32")     // [block columns + 1]
    .Input("scales: num_matrices * float")     // [columns] (int8) or [0] (bfloat16)
    .Input("bias: num_biases * float")
    .Input("mask: num_masks * bool")
    .Output("output: float")
    .Output("final_states: num_states * float")
    .Attr("cell: {'rnn', 'gru', 'lstm'}")
    .Attr("T: {bfloat16, int8}")
    .Attr("num_states: int >= 1")
    .Attr("num_matrices: int >= 2")
    .Attr("num_biases: int >= 0 = 0")
    .Attr("num_masks: int >= 0 = 0")
    .Attr("block_height: int >= 1")
    .Attr("x_dtype: {'float32', 'bfloat16', 'int8'} = 'float32'")
    .Attr(kActivationAttr)
    .Attr(kRecurrentActivationAttr)
    .Attr("time_major: bool = false")
    .Attr("go_backwards: bool = false")
    .Attr("return_sequences: bool = true")
    .Attr("zero_output_for_mask: bool = false")
    .SetShapeFn(InferShape);

Cell CellOf(const std::string& name) { return name == "rnn" ? Cell::kRnn : name == "gru" ? Cell::kGru : Cell::kLstm; }

class LowPrecisionSequenceOp : public OpKernel {
 public:
  explicit LowPrecisionSequenceOp(OpKernelConstruction* construction) : OpKernel(construction) {
    std::string cell;
    std::string x_dtype;
    tensorflow::DataType type;
    OP_REQUIRES_OK(construction, construction->GetAttr("cell", &cell));
    OP_REQUIRES_OK(construction, ReadSequence(construction, CellOf(cell), &sequence_));
    OP_REQUIRES_OK(construction, construction->GetAttr("T", &type));
    OP_REQUIRES_OK(construction, construction->GetAttr("x_dtype", &x_dtype));
    OP_REQUIRES_OK(construction, construction->GetAttr("block_height", &height_));
    OP_REQUIRES_OK(construction, ReadTypes(type, x_dtype, &sequence_.block_type, &sequence_.x_type));
    tables_ = ChooseLowPrecisionTables(sequence_.table->isa);
    sequence_.low_precision = &tables_;
  }

  void Compute(OpKernelContext* context) override {
    Sequence sequence = sequence_;
    SequenceInputs inputs = {};
    std::shared_ptr<const ColumnIndex> indices[3];
    OP_REQUIRES_OK(context, ReadInputs(context, &sequence, &inputs, indices));
    SequenceOutputs outputs = {};
    OP_REQUIRES_OK(context, AllocateOutputs(context, sequence, &outputs));
    if (sequence.batch == 0) return;
    const SequencePlan plan = PlanSequence(sequence, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    RunSequence(plan, inputs, outputs, workspace, IntraOpTeam(context));
  }

 private:
  absl::Status ReadInputs(OpKernelContext* context, Sequence* sequence, SequenceInputs* inputs,
                          std::shared_ptr<const ColumnIndex>* indices) {
    const bool lstm = sequence->cell == Cell::kLstm;
    OpInputList states;
    TF_RETURN_IF_ERROR(context->input_list("states", &states));
    if (states.size() != (lstm ? 2 : 1)) {
      return absl::InvalidArgumentError(absl::StrCat("got ", states.size(), " states"));
    }
    SequenceCall call(context);
    const Tensor* x = call.Input("x", {-1, -1, -1}, sequence->time_major ? "[time, batch, in]" : "[batch, time, in]");
    TF_RETURN_IF_ERROR(call.status());
    sequence->batch = x->dim_size(sequence->time_major ? 1 : 0);
    sequence->time = x->dim_size(sequence->time_major ? 0 : 1);
    for (int i = 0; i < states.size(); ++i) {
      TF_RETURN_IF_ERROR(CheckRank(states[i], 2, "a state", "[batch, units]"));
      TF_RETURN_IF_ERROR(CheckDim(states[i], 0, "a state", sequence->batch, "the batch, as in x"));
      TF_RETURN_IF_ERROR(CheckDim(states[i], 1, "a state", states[0].dim_size(1), "units, as in the first state"));
    }
    const int64_t units = states[0].dim_size(1);
    if (units > INT32_MAX / GatesOf(sequence->cell)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the states have ", units, " units, more than a matrix can have columns"));
    }
    inputs->x = Floats(x);
    inputs->h = Floats(&states[0]);
    if (lstm) inputs->c = Floats(&states[1]);
    TF_RETURN_IF_ERROR(ReadMatrices(context, x->dim_size(2), units, sequence, inputs, indices));
    ReadBias(&call, *sequence, units, sequence->candidate != nullptr, inputs);
    inputs->mask = ReadMask(&call, *sequence);
    TF_RETURN_IF_ERROR(call.status());
    return InvalidIf(CheckSequence(*sequence));
  }

  absl::Status ReadMatrices(OpKernelContext* context, int64_t in_features, int64_t units, Sequence* sequence,
                            SequenceInputs* inputs, std::shared_ptr<const ColumnIndex>* indices) {
    OpInputList blocks;
    OpInputList block_rows;
    OpInputList indptr;
    OpInputList scales;
    TF_RETURN_IF_ERROR(context->input_list("blocks", &blocks));
    TF_RETURN_IF_ERROR(context->input_list("indices", &block_rows));
    TF_RETURN_IF_ERROR(context->input_list("indptr", &indptr));
    TF_RETURN_IF_ERROR(context->input_list("scales", &scales));
    const bool candidate = blocks.size() == 3;
    if (blocks.size() > 3 || (candidate && sequence->cell != Cell::kGru)) {
      return absl::InvalidArgumentError(absl::StrCat("got ", blocks.size(), " matrices"));
    }
    const int64_t gates = GatesOf(sequence->cell);
    const int64_t rows[3] = {in_features, units, units};
    const int64_t matrix_gates[3] = {gates, candidate ? 2 : gates, 1};
    SequenceBlocks* given[3] = {&inputs->kernel, &inputs->recurrent, &inputs->candidate};
    for (int m = 0; m < blocks.size(); ++m) {
      const LowPrecisionMatrix matrix = {blocks[m], block_rows[m], indptr[m], scales[m]};
      Grid grid;
      TF_RETURN_IF_ERROR(CheckLowPrecision(matrix, sequence->block_type, height_, rows[m], matrix_gates[m] * units,
                                           matrix_gates[m], &grid));
      TF_RETURN_IF_ERROR(caches_[m].Get(grid, matrix.indices, matrix.indptr, &indices[m]));
      if (sequence->x_type == XType::kInt8) TF_RETURN_IF_ERROR(InvalidIf(CheckInt8Sums(*indices[m])));
      *given[m] = {matrix.blocks.data(), matrix.scales.unaligned_flat<float>().data()};
    }
    sequence->kernel = indices[0].get();
    sequence->recurrent = indices[1].get();
    sequence->candidate = indices[2].get();
    return absl::OkStatus();
  }

  static absl::Status AllocateOutputs(OpKernelContext* context, const Sequence& sequence, SequenceOutputs* outputs) {
    const TensorShape state({sequence.batch, sequence.units()});
    int index = 0;
    const TensorShape output = sequence.return_sequences ? TimeShape(sequence, sequence.units()) : state;
    TF_RETURN_IF_ERROR(AllocateNext(context, output, &index, &outputs->output));
    TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->h));
    if (sequence.cell == Cell::kLstm) TF_RETURN_IF_ERROR(AllocateNext(context, state, &index, &outputs->c));
    return absl::OkStatus();
  }

  Sequence sequence_;
  int64_t height_;
  LowPrecisionTables tables_;
  IndexCache<ColumnIndex> caches_[3] = {IndexCache<ColumnIndex>(BuildColumnIndex),
                                        IndexCache<ColumnIndex>(BuildColumnIndex),
                                        IndexCache<ColumnIndex>(BuildColumnIndex)};
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>LowPrecisionSequence").Device(tensorflow::DEVICE_CPU),
                        LowPrecisionSequenceOp);

}  // namespace
}  // namespace blocksparse
