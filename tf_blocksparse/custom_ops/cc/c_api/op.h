// What the ops use of TensorFlow's C++ op registration, through its C API, which gives shape functions no attributes: the
// graph does not know shapes before ops run. All checks are in the kernels as well.
#ifndef TF_BLOCKSPARSE_C_API_OP_H_
#define TF_BLOCKSPARSE_C_API_OP_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "tensorflow/c/ops.h"
#include "tf_blocksparse/custom_ops/cc/c_api/kernel.h"

namespace tensorflow {
namespace shape_inference {

// Shape functions are compiled against these, and never run.
struct DimensionHandle {};
struct ShapeHandle {};
struct DimensionOrConstant {
  DimensionOrConstant(DimensionHandle) {}  // NOLINT: implicit, as TensorFlow's
  DimensionOrConstant(int64_t) {}          // NOLINT
};

class InferenceContext {
 public:
  template <typename T>
  absl::Status GetAttr(const char*, T*) { return {}; }
  int num_inputs() const { return 0; }
  ShapeHandle input(int) const { return {}; }
  absl::Status input(const char*, std::vector<ShapeHandle>*) const { return {}; }
  absl::Status WithRank(ShapeHandle, int64_t, ShapeHandle*) { return {}; }
  absl::Status WithValue(DimensionHandle, int64_t, DimensionHandle*) { return {}; }
  template <typename Handle>
  absl::Status Merge(Handle, Handle, Handle*) { return {}; }
  absl::Status Multiply(DimensionHandle, DimensionOrConstant, DimensionHandle*) { return {}; }
  absl::Status ReplaceDim(ShapeHandle, int64_t, DimensionHandle, ShapeHandle*) { return {}; }
  absl::Status MakeDimForScalarInput(int, DimensionHandle*) { return {}; }
  DimensionHandle Dim(ShapeHandle, int64_t) { return {}; }
  DimensionHandle UnknownDim() { return {}; }
  ShapeHandle Vector(DimensionOrConstant) { return {}; }
  ShapeHandle Matrix(DimensionOrConstant, DimensionOrConstant) { return {}; }
  ShapeHandle MakeShape(std::initializer_list<DimensionOrConstant>) { return {}; }
  static int64_t Value(DimensionOrConstant) { return -1; }
  static bool ValueKnown(DimensionOrConstant) { return false; }
  void set_output(int, ShapeHandle) {}
};

}  // namespace shape_inference

class OpDefinition {
 public:
  explicit OpDefinition(const char* name) : builder_(TF_NewOpDefinitionBuilder(name)) {}
  OpDefinition& Input(const char* spec) {
    TF_OpDefinitionBuilderAddInput(builder_, spec);
    return *this;
  }
  OpDefinition& Output(const char* spec) {
    TF_OpDefinitionBuilderAddOutput(builder_, spec);
    return *this;
  }
  OpDefinition& Attr(const char* spec) {
    TF_OpDefinitionBuilderAddAttr(builder_, spec);
    return *this;
  }
  template <typename Function>
  OpDefinition& SetShapeFn(Function) {
    TF_OpDefinitionBuilderSetShapeInferenceFunction(builder_, TF_ShapeInferenceContextSetUnknownShape);
    return *this;
  }
  void Register() const;

 private:
  TF_OpDefinitionBuilder* builder_;
};

struct OpRegistration {
  OpRegistration(const OpDefinition& op) { op.Register(); }  // NOLINT: from REGISTER_OP(...).Input(...)
};

}  // namespace tensorflow

#define REGISTER_OP(name) \
  static const ::tensorflow::OpRegistration BLOCKSPARSE_JOIN(op_, __COUNTER__) = ::tensorflow::OpDefinition(name)

#endif  // TF_BLOCKSPARSE_C_API_OP_H_
