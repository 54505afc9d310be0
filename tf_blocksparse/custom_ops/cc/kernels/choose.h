// The choice of micro-kernels from the list, and of the number of threads.
#ifndef TF_BLOCKSPARSE_KERNELS_CHOOSE_H_
#define TF_BLOCKSPARSE_KERNELS_CHOOSE_H_

#include <cstdint>

#include "tf_blocksparse/custom_ops/cc/kernels/microkernels.h"

namespace blocksparse {

// The first kernel of the list that does blocks of this shape and this many batch rows. kProductRows stands for
// either kind of forward kernel. Never null.
const MicroKernel* ChooseKernel(const KernelTable& table, Kind kind, int64_t height, int64_t width, int64_t batch);

// The kernel of exactly this kind for any shape and any part of a block, for the ragged edges beside a kernel that
// does `batch` rows a call. Null if there is none: the list must have one for each tile size.
const MicroKernel* AnyShapeKernel(const KernelTable& table, Kind kind, int64_t batch);

// A kernel for blocks of this shape of the same kind as `like`, for as many rows; one for any shape if there is no other.
const MicroKernel* KernelLike(const KernelTable& table, const MicroKernel& like, int64_t height, int64_t width);

// One thread's time for `elements` stored numbers times `batch` rows.
double EstimateNanoseconds(const KernelTable& table, double elements, double batch);

int64_t UsefulWorkers(double nanoseconds, int64_t threads);

// Work is cut into more parts than there are threads: who comes late, or loses its core for a while, leaves the rest to
// the others.
constexpr int64_t kPartsPerWorker = 4;

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_CHOOSE_H_
