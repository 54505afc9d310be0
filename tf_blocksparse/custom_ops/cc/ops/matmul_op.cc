// BlockSparse>MatMul, BlockSparse>MatMulGradX, BlockSparse>MatMulGradBlocks.
//
// Every input may come from a stranger's SavedModel: all of it is checked before the kernels see it, and what the
// kernels index with is the checked copy.
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"
#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"
#include "tf_blocksparse/custom_ops/cc/ops/stored_matrix.h"

namespace blocksparse {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr const char* kOrders = "order: {'row', 'column'} = 'row'";
// Sums are float32 whatever it is. The default is what graphs mean that were saved before there was a choice.
constexpr const char* kNumbers = "T: {float, half, bfloat16} = DT_FLOAT";
constexpr const char* kActivations = "activation: {'linear', 'relu', 'tanh', 'sigmoid'} = 'linear'";

// W is [in_features, out_features], `gates` matrices side by side. Its blocks are [num_blocks, height, width], sorted by
// block row, with the block columns as indices; or, in column order, sorted by block column, with the block rows.
// y = activation(x W + bias); bias [out_features] is an input of its own so that there can be none.
REGISTER_OP("BlockSparse>MatMul")
    .Input("x: T")                    // [batch, in_features]
    .Input("blocks: T")               // [num_blocks, height, width]
    .Input("indices: int32")          // [num_blocks]
    .Input("indptr: int32")           // [block rows or columns + 1]
    .Input("bias: num_biases * T")    // [out_features]
    .Output("y: T")                   // [batch, out_features]
    .Attr(kNumbers)
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr("num_biases: int >= 0 = 0")
    .Attr(kOrders)
    .Attr(kActivations)
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x;
      ShapeHandle bias;
      int64_t out_features;
      TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(MatrixShapes(c, 1, c->Dim(x, 1), out_features));
      if (c->num_inputs() > 5) return absl::InvalidArgumentError("there may be at most one bias");
      if (c->num_inputs() == 5) TF_RETURN_IF_ERROR(c->Merge(c->input(4), c->Vector(out_features), &bias));
      c->set_output(0, c->Matrix(c->Dim(x, 0), out_features));
      return absl::OkStatus();
    });

// x [batch, in_features] and dy [batch, out_features], the inputs of these numbers, and the matrix from input 2 on.
absl::Status GradShapes(InferenceContext* c, int x_input, int dy_input, ShapeHandle* x, DimensionHandle* batch) {
  ShapeHandle dy;
  DimensionHandle unused;
  int64_t out_features;
  TF_RETURN_IF_ERROR(c->GetAttr("out_features", &out_features));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(x_input), 2, x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(dy_input), 2, &dy));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(*x, 0), c->Dim(dy, 0), batch));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(dy, 1), out_features, &unused));
  return MatrixShapes(c, 2, c->Dim(*x, 1), out_features);
}

// x and blocks give the shapes of the results, which then need not be known when the graph is built.
REGISTER_OP("BlockSparse>MatMulGradX")
    .Input("dy: T")           // [batch, out_features]
    .Input("x: T")            // [batch, in_features]; only its shape counts
    .Input("blocks: T")       // [num_blocks, height, width]
    .Input("indices: int32")  // [num_blocks]
    .Input("indptr: int32")   // [block rows or columns + 1]
    .Output("dx: T")          // [batch, in_features]
    .Attr(kNumbers)
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr(kOrders)
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x;
      DimensionHandle batch;
      TF_RETURN_IF_ERROR(GradShapes(c, 1, 0, &x, &batch));
      c->set_output(0, c->Matrix(batch, c->Dim(x, 1)));
      return absl::OkStatus();
    });

REGISTER_OP("BlockSparse>MatMulGradBlocks")
    .Input("x: T")             // [batch, in_features]
    .Input("dy: T")            // [batch, out_features]
    .Input("blocks: T")        // [num_blocks, height, width]; only its shape counts
    .Input("indices: int32")   // [num_blocks]
    .Input("indptr: int32")    // [block rows or columns + 1]
    .Output("dblocks: T")      // [num_blocks, height, width]
    .Attr(kNumbers)
    .Attr("out_features: int >= 1")
    .Attr("gates: int >= 1 = 1")
    .Attr(kOrders)
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x;
      DimensionHandle batch;
      TF_RETURN_IF_ERROR(GradShapes(c, 0, 1, &x, &batch));
      c->set_output(0, c->input(2));
      return absl::OkStatus();
    });

// A matrix and the pattern of a call.
class IndexedMatrix : public StoredMatrix {
 public:
  IndexedMatrix(OpKernelConstruction* construction, bool by_column)
      : StoredMatrix(construction), cache_(order(), by_column) {}

  BlockIndexCache& cache() { return cache_; }

 private:
  BlockIndexCache cache_;
};

// y = activation(x W + bias), and dx = dy W^T: the latter with another way to the index and no epilogue.
class ProductOp : public OpKernel {
 public:
  ProductOp(OpKernelConstruction* construction, bool by_column)
      : OpKernel(construction), matrix_(construction, by_column) {
    OP_REQUIRES_OK(construction, ReadNumber(construction, &number_));
    OP_REQUIRES_OK(construction, GetTable(&table_));
  }

 protected:
  // x [batch, other side of the matrix] and `features` of y; `first` is the input `blocks`.
  void Multiply(OpKernelContext* context, const Tensor& x, int first, int64_t in_features, int64_t features,
                const Epilogue& epilogue) {
    const Tensor& blocks = context->input(first);
    const Tensor& indices = context->input(first + 1);
    const Tensor& indptr = context->input(first + 2);
    const int64_t batch = x.dim_size(0);
    Grid grid;
    OP_REQUIRES_OK(context, matrix_.MakeGrid(blocks, in_features, &grid));
    TensorShape shape;
    OP_REQUIRES_OK(context, TensorShape::BuildTensorShape({batch, features}, &shape));
    // Before the index: its size grows with out_features, which costs an attacker nothing, and so does y's.
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (batch == 0) {
      OP_REQUIRES_OK(context, matrix_.CheckPattern(grid, indices, indptr));
      return;
    }
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, matrix_.cache().Get(grid, indices, indptr, &index));
    const ProductPlan plan = PlanProduct(*table_, *index, batch, NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    Tensor holders[3];
    const float* x_floats;
    const float* block_floats;
    float* y_floats;
    OP_REQUIRES_OK(context, ReadFloats(context, number_, x, &holders[0], &x_floats));
    OP_REQUIRES_OK(context, ReadFloats(context, number_, blocks, &holders[1], &block_floats));
    OP_REQUIRES_OK(context, AllocateFloats(context, number_, *y, &holders[2], &y_floats));
    RunProduct(plan, x_floats, block_floats, epilogue, y_floats, workspace, IntraOpParallelFor(context));
    WriteFloats(number_, y_floats, *y);
  }

  IndexedMatrix matrix_;
  Number number_ = Number::kFloat32;

 private:
  const KernelTable* table_;
};

class MatMulOp : public ProductOp {
 public:
  explicit MatMulOp(OpKernelConstruction* construction) : ProductOp(construction, true) {
    OP_REQUIRES_OK(construction, ReadActivation(construction, &activation_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES_OK(context, CheckRank(x, 2, "x", "[batch, in_features]"));
    OP_REQUIRES_OK(context, CheckBsrShapes(context->input(1), context->input(2), context->input(3)));
    Epilogue epilogue;
    OP_REQUIRES_OK(context, ReadEpilogue(context, 4, matrix_.out_features(), activation_, &epilogue));
    Tensor bias;
    if (epilogue.bias != nullptr) {
      OP_REQUIRES_OK(context, ReadFloats(context, number_, context->input(4), &bias, &epilogue.bias));
    }
    Multiply(context, x, 1, x.dim_size(1), matrix_.out_features(), epilogue);
  }

 private:
  Activation activation_;
};

class GradXOp : public ProductOp {
 public:
  explicit GradXOp(OpKernelConstruction* construction) : ProductOp(construction, false) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& dy = context->input(0);
    const Tensor& x = context->input(1);
    OP_REQUIRES_OK(context, matrix_.CheckPair(x, dy));
    OP_REQUIRES_OK(context, CheckBsrShapes(context->input(2), context->input(3), context->input(4)));
    Multiply(context, dy, 2, x.dim_size(1), x.dim_size(1), Epilogue());
  }
};

class GradBlocksOp : public OpKernel {
 public:
  explicit GradBlocksOp(OpKernelConstruction* construction)
      : OpKernel(construction), matrix_(construction, false) {
    OP_REQUIRES_OK(construction, ReadNumber(construction, &number_));
    OP_REQUIRES_OK(construction, GetTable(&table_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    const Tensor& blocks = context->input(2);
    const Tensor& indices = context->input(3);
    const Tensor& indptr = context->input(4);
    OP_REQUIRES_OK(context, matrix_.CheckPair(x, dy));
    OP_REQUIRES_OK(context, CheckBsrShapes(blocks, indices, indptr));
    Grid grid;
    OP_REQUIRES_OK(context, matrix_.MakeGrid(blocks, x.dim_size(1), &grid));
    Tensor* dblocks = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, blocks.shape(), &dblocks));
    if (x.dim_size(0) == 0) {  // then x costs nothing, however many features it says that it has, but an index does
      OP_REQUIRES_OK(context, matrix_.CheckPattern(grid, indices, indptr));
      const size_t bytes = dblocks->NumElements() * (number_ == Number::kFloat32 ? 4 : 2);
      if (bytes > 0) std::memset(dblocks->data(), 0, bytes);
      return;
    }
    std::shared_ptr<const BlockIndex> index;
    OP_REQUIRES_OK(context, matrix_.cache().Get(grid, indices, indptr, &index));
    const GradPlan plan = PlanGrad(*table_, *index, x.dim_size(0), NumThreads(context));
    Tensor holder;
    float* workspace;
    OP_REQUIRES_OK(context, AllocateWorkspace(context, plan.workspace_floats, &holder, &workspace));
    Tensor holders[3];
    const float* x_floats;
    const float* dy_floats;
    float* dblock_floats;
    OP_REQUIRES_OK(context, ReadFloats(context, number_, x, &holders[0], &x_floats));
    OP_REQUIRES_OK(context, ReadFloats(context, number_, dy, &holders[1], &dy_floats));
    OP_REQUIRES_OK(context, AllocateFloats(context, number_, *dblocks, &holders[2], &dblock_floats));
    RunGrad(plan, x_floats, dy_floats, dblock_floats, workspace, IntraOpParallelFor(context));
    WriteFloats(number_, dblock_floats, *dblocks);
  }

 private:
  IndexedMatrix matrix_;
  Number number_ = Number::kFloat32;
  const KernelTable* table_;
};

REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMul").Device(tensorflow::DEVICE_CPU), MatMulOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradX").Device(tensorflow::DEVICE_CPU), GradXOp);
REGISTER_KERNEL_BUILDER(Name("BlockSparse>MatMulGradBlocks").Device(tensorflow::DEVICE_CPU), GradBlocksOp);

}  // namespace
}  // namespace blocksparse
