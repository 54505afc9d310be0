// What going forward and backward through a sequence on a GPU share.
#ifndef TF_BLOCKSPARSE_CUDA_SEQUENCE_SUPPORT_H_
#define TF_BLOCKSPARSE_CUDA_SEQUENCE_SUPPORT_H_

#include <algorithm>
#include <string>

#include "tf_blocksparse/custom_ops/cc/cuda/sequence.h"
#include "tf_blocksparse/custom_ops/cc/cuda/sequence_arguments.h"
#include "tf_blocksparse/custom_ops/cc/kernels/round_up.h"

namespace blocksparse {
namespace cuda {

// Arrays of the scratch memory begin on multiples of so many floats, for chunks of 16 bytes to be aligned.
constexpr int64_t kScratchFloats = 64;

// Plans of products that share scratch memory; the first error stays.
class SequencePlanner {
 public:
  SequencePlanner(const Device& device, const KernelChoice& choice) : device_(device), choice_(choice) {}

  void Plan(const DeviceMatrix& matrix, bool transposed, int64_t rows, ProductPlan* plan) {
    KernelChoice choice = choice_;
    choice.batch = rows;
    const std::string error = PlanProduct(*matrix.pattern, device_, transposed, choice, plan);
    if (error_.empty()) error_ = error;
    partial_floats_ = std::max(partial_floats_, plan->partial_floats);
  }

  const std::string& error() const { return error_; }
  int64_t partial_floats() const { return partial_floats_; }

 private:
  const Device& device_;
  const KernelChoice& choice_;
  std::string error_;
  int64_t partial_floats_ = 0;
};

// Starts kernels until one fails; the first error stays.
class SequenceLauncher {
 public:
  SequenceLauncher(const Sequence& sequence, const Start& start) : sequence_(sequence), start_(start) {}

  void Multiply(const ProductPlan& plan, const DeviceMatrix& matrix, const float* x, float* y, float* partial) {
    if (error_.empty()) error_ = RunProduct(plan, start_, matrix.image, x, matrix.blocks, nullptr, 0, y, partial);
  }

  void Cell(CellArgs args) { Launch(Role::kCellStep, Of(&args), &args); }
  void Grad(CellGradArgs args) { Launch(Role::kCellGrad, Of(&args), &args); }

  // Of states [batch, units]: to = from + added; null is zeros.
  void Sum(const float* from, const float* added, float* to) {
    const AddArgs args = {from, added, to, sequence_.batch * sequence_.units()};
    Launch(Role::kAdd, args.count, &args);
  }
  void Copy(const float* from, float* to) { Sum(from, nullptr, to); }

  void Flags(const bool* mask, unsigned char* flags) {
    MaskArgs args = {};
    args.mask = reinterpret_cast<const unsigned char*>(mask);
    args.flags = flags;
    args.example_stride = sequence_.ExampleStride();
    args.step_stride = sequence_.time_major ? sequence_.batch : 1;
    args.batch = static_cast<int>(sequence_.batch);
    args.time = static_cast<int>(sequence_.time);
    args.go_backwards = sequence_.go_backwards;
    args.zero_output_for_mask = sequence_.zero_output_for_mask;
    Launch(Role::kMaskFlags, sequence_.batch, &args);
  }

  const std::string& error() const { return error_; }

 private:
  template <typename Args>
  int64_t Of(Args* args) const {
    args->activation = ActivationCode(sequence_.activation);
    args->recurrent_activation = ActivationCode(sequence_.recurrent_activation);
    args->batch = static_cast<int>(sequence_.batch);
    args->units = static_cast<int>(sequence_.units());
    return sequence_.batch * sequence_.units();
  }

  void Launch(Role role, int64_t threads, const void* args) {
    if (!error_.empty() || threads == 0) return;
    const int kernel = SingleKernel(role);
    const int64_t a_block = KernelTable()[kernel].threads;
    error_ = start_(kernel, (threads + a_block - 1) / a_block, args);
  }

  const Sequence& sequence_;
  const Start& start_;
  std::string error_;
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_SEQUENCE_SUPPORT_H_
