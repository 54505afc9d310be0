// Which stored block, which part of it and which rows of the batch a thread block of a gradient has.
#ifndef TF_BLOCKSPARSE_CUDA_GRAD_WALK_CUH_
#define TF_BLOCKSPARSE_CUDA_GRAD_WALK_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/arguments.h"
#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace blocksparse {
namespace cuda {

struct GradPart {
  int block;
  int first_row;     // of the stored block
  int first_column;
  Place place;
  int split;
  int begin;         // of the batch
  int end;

  template <int kRows, int kColumns>
  static DEVICE GradPart Get(const GradArgs& args) {
    GradPart part;
    const int rest = blockIdx.x / args.splits;
    const int tiles = args.row_tiles * args.column_tiles;
    part.split = blockIdx.x % args.splits;
    part.block = rest / tiles;
    part.first_row = rest % tiles / args.column_tiles * kRows;
    part.first_column = rest % args.column_tiles * kColumns;
    part.place = args.places[part.block];
    part.begin = part.split * args.split_rows;
    part.end = min(args.batch, part.begin + args.split_rows);
    return part;
  }

  // The real features of a tile: 0 or less if there are none.
  DEVICE int RowsLeft() const { return place.rows - first_row; }
  DEVICE int ColumnsLeft() const { return place.columns - first_column; }
};

// Element (i, j) of the part's tile, if the stored block has it; 0 outside of the matrix, whatever `sum` is.
template <typename Storage>
DEVICE void WriteGrad(const GradArgs& args, const GradPart& part, int i, int j, float sum) {
  const int row = part.first_row + i;
  const int column = part.first_column + j;
  if (row >= args.height || column >= args.width) return;
  if (row >= part.place.rows || column >= part.place.columns) sum = 0.0f;
  const size_t at = (static_cast<size_t>(part.block) * args.height + row) * args.width + column;
  if (args.splits > 1) {
    args.partial[static_cast<size_t>(part.split) * args.elements + at] = sum;
  } else {
    FromFloat(sum, static_cast<Storage*>(args.dblocks) + at);
  }
}

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_GRAD_WALK_CUH_
