#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"

#include <cstddef>

namespace blocksparse {
namespace {

bool ServesShape(const ShapeRule& rule, int64_t height, int64_t width) {
  if (rule.width != 0 && width != rule.width) return false;
  if (rule.height == 0) return true;
  return rule.multiple ? height % rule.height == 0 : height == rule.height;
}

bool ServesKind(Kind kernel, Kind wanted) {
  if (wanted == Kind::kProductRows) return kernel == Kind::kProductRows || kernel == Kind::kProductTile;
  return kernel == wanted;
}

}  // namespace

const MicroKernel* ChooseKernel(const KernelTable& table, Kind kind, int64_t height, int64_t width,
                                int64_t batch) {
  for (int64_t i = 0; i < table.num_kernels; ++i) {
    const MicroKernel& kernel = table.kernels[i];
    if (ServesKind(kernel.kind, kind) && ServesShape(kernel.shape, height, width) &&
        batch >= kernel.min_batch && batch <= kernel.max_batch) {
      return &kernel;
    }
  }
  return nullptr;
}

const MicroKernel* AnyShapeKernel(const KernelTable& table, Kind kind, int64_t batch) {
  for (int64_t i = 0; i < table.num_kernels; ++i) {
    const MicroKernel& kernel = table.kernels[i];
    if (kernel.kind == kind && kernel.shape.height == 0 && kernel.shape.width == 0 &&
        (kernel.batch == 0 || kernel.batch == batch)) {
      return &kernel;
    }
  }
  return nullptr;
}

const MicroKernel* KernelLike(const KernelTable& table, const MicroKernel& like, int64_t height, int64_t width) {
  for (int64_t i = 0; i < table.num_kernels; ++i) {
    const MicroKernel& kernel = table.kernels[i];
    if (kernel.kind == like.kind && kernel.batch == like.batch && ServesShape(kernel.shape, height, width)) {
      return &kernel;
    }
  }
  return AnyShapeKernel(table, like.kind, like.batch);
}

double EstimateNanoseconds(const KernelTable& table, double elements, double batch) {
  // One core's L2/L3 bandwidth, and two multiply-adds of a vector each cycle at 3 GHz, both at two thirds.
  const double multiply_adds_per_ns = 4.0 * static_cast<double>(table.lanes);
  return elements * 4.0 / 30.0 + elements * batch / multiply_adds_per_ns;
}

int64_t UsefulWorkers(double nanoseconds, int64_t threads) {
  // Waking a sleeping thread of the pool costs 10 us on bare metal and 50 us and more on a virtual machine.
  constexpr double kMinNanosecondsPerWorker = 50000.0;
  const int64_t useful = static_cast<int64_t>(nanoseconds / kMinNanosecondsPerWorker);
  if (useful < 2) return 1;
  return useful < threads ? useful : threads;
}

}  // namespace blocksparse
