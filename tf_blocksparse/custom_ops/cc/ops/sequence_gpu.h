// Recurrent layers on a GPU: see cuda/sequence.h. Indices stay in the memory of the host, as those of the products.
#ifndef TF_BLOCKSPARSE_OPS_SEQUENCE_GPU_H_
#define TF_BLOCKSPARSE_OPS_SEQUENCE_GPU_H_

#include <atomic>

#include "tf_blocksparse/custom_ops/cc/cuda/sequence.h"
#include "tf_blocksparse/custom_ops/cc/ops/gpu_call.h"
#include "tf_blocksparse/custom_ops/cc/ops/sequence_backward.h"

namespace blocksparse {

inline const BlockIndex* ShapeOf(const GpuProductIndex* index) { return index == nullptr ? nullptr : &index->shape; }

// How many multiprocessors there are, which a pattern is made for; known after the first call.
class GpuPatterns {
 public:
  IndexCache<GpuProductIndex>::Build Build(bool by_column);
  absl::Status Open(tensorflow::OpKernelContext* context);

 private:
  std::atomic<int64_t> multiprocessors_{1};
};

// On the device, copied there on the first call with it.
absl::Status GetMatrix(tensorflow::OpKernelContext* context, const GpuCall& call, const GpuProductIndex* index,
                       const float* blocks, cuda::DeviceMatrix* matrix);

absl::Status RunOnGpu(tensorflow::OpKernelContext* context, const Sequence& sequence,
                      const SequenceIndices<GpuProductIndex>& indices, const SequenceInputs& inputs,
                      const SequenceOutputs& outputs);
absl::Status RunOnGpu(tensorflow::OpKernelContext* context, const Sequence& sequence,
                      const SequenceIndices<GpuProductIndex>& indices, const SequenceGradInputs& inputs,
                      const SequenceGradOutputs& outputs);

// The base that is made first, so that the caches may refer to it.
struct WithGpuPatterns {
  GpuPatterns patterns;
};

template <Cell CELL>
class GpuSequenceOp : private WithGpuPatterns, public SequenceForward<CELL, GpuProductIndex> {
 public:
  explicit GpuSequenceOp(tensorflow::OpKernelConstruction* construction)
      : SequenceForward<CELL, GpuProductIndex>(construction, patterns.Build(true)) {}

 protected:
  absl::Status Begin(tensorflow::OpKernelContext* context) override { return patterns.Open(context); }
  absl::Status Run(tensorflow::OpKernelContext* context, const Sequence& sequence,
                   const SequenceIndices<GpuProductIndex>& indices, const SequenceInputs& inputs,
                   const SequenceOutputs& outputs) override {
    return RunOnGpu(context, sequence, indices, inputs, outputs);
  }
};

template <Cell CELL>
class GpuSequenceGradOp : private WithGpuPatterns, public SequenceBackward<CELL, GpuProductIndex> {
 public:
  explicit GpuSequenceGradOp(tensorflow::OpKernelConstruction* construction)
      : SequenceBackward<CELL, GpuProductIndex>(construction, patterns.Build(false)) {}

 protected:
  absl::Status Begin(tensorflow::OpKernelContext* context) override { return patterns.Open(context); }
  absl::Status Run(tensorflow::OpKernelContext* context, const Sequence& sequence,
                   const SequenceIndices<GpuProductIndex>& indices, const SequenceGradInputs& inputs,
                   const SequenceGradOutputs& outputs) override {
    return RunOnGpu(context, sequence, indices, inputs, outputs);
  }
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_SEQUENCE_GPU_H_
