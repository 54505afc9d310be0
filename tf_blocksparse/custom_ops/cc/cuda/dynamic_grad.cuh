// The gradients of the gates and of the blocks of a product of which every example has chosen its blocks.
#ifndef TF_BLOCKSPARSE_CUDA_DYNAMIC_GRAD_CUH_
#define TF_BLOCKSPARSE_CUDA_DYNAMIC_GRAD_CUH_

#include "tf_blocksparse/custom_ops/cc/cuda/dynamic_choices.cuh"
#include "tf_blocksparse/custom_ops/cc/cuda/grad_tile.cuh"

namespace blocksparse {
namespace cuda {

// A thread block a choice, also of a gate that is zero.
struct DynamicGates {
  static constexpr int kThreads = 128;

  struct Shared {
    float sums[kThreads];
  };

  static DEVICE float Sum(const DynamicGatesArgs& args, int example, int id) {
    const int row = id / args.columns * args.height;
    const int column = id % args.columns * args.width;
    const int rows = min(args.height, args.x_features - row);
    const int columns = min(args.width, args.y_features - column);
    const float* x = args.x + static_cast<size_t>(example) * args.x_features + row;
    const float* dy = args.dy + static_cast<size_t>(example) * args.y_features + column;
    const float* block = args.blocks + static_cast<size_t>(id) * args.height * args.width;
    const int across = min(args.width, kThreads);  // neighbouring threads take neighbours
    const int down = kThreads / across;
    float sum = 0.0f;
    for (int i = threadIdx.x / across; i < rows && threadIdx.x < down * across; i += down) {
      float inner = 0.0f;
      for (int j = threadIdx.x % across; j < columns; j += across) {
        inner += block[static_cast<size_t>(i) * args.width + j] * dy[j];
      }
      if (static_cast<int>(threadIdx.x) % across < columns) sum += x[i] * inner;
    }
    return sum;
  }

  static DEVICE void Run(const DynamicGatesArgs& args) {
    Shared& shared = SharedMemory<Shared>();
    const int id = args.ids[blockIdx.x];
    const bool is_block = id >= 0 && id / args.columns < args.rows;
    shared.sums[threadIdx.x] = is_block ? Sum(args, blockIdx.x / args.count, id) : 0.0f;
#pragma unroll
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) shared.sums[threadIdx.x] += shared.sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) args.dgates[blockIdx.x] = is_block ? shared.sums[0] : NotANumber();
  }
};

// A thread block makes a tile of one block, of the examples that have chosen it: as many are looked at as there are
// threads, and those among them are multiplied as GradTile does.
template <int kRows, int kColumns, int kThreadRows, int kThreadColumns, int kLanes>
struct DynamicGrad {
  typedef GradTile<Float32, kRows, kColumns, kThreadRows, kThreadColumns, kLanes> Tile;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kDepth = Tile::kDepth;

  struct Shared {
    typename Tile::Shared tile;
    float gates[kThreads];
    float chosen_gates[kThreads];
    int chosen[kThreads];
    int count;
  };

  struct Part {
    int block;
    int first_row;  // of the block
    int first_column;
    int row;        // of the matrix, where the tile begins
    int column;
    int rows_left;  // real features of the tile: 0 or less if there are none
    int columns_left;

    static DEVICE Part Get(const DynamicGradArgs& args) {
      Part part;
      const int tile = blockIdx.x % (args.row_tiles * args.column_tiles);
      part.block = blockIdx.x / (args.row_tiles * args.column_tiles);
      part.first_row = tile / args.column_tiles * kRows;
      part.first_column = tile % args.column_tiles * kColumns;
      part.row = part.block / args.columns * args.height + part.first_row;
      part.column = part.block % args.columns * args.width + part.first_column;
      part.rows_left = min(args.height - part.first_row, args.x_features - part.row);
      part.columns_left = min(args.width - part.first_column, args.y_features - part.column);
      return part;
    }
  };

  // Which of the examples from `first` on have chosen the block, by rising number. Its barriers also stand between the
  // choices before, once all threads have used them, and these.
  static DEVICE void Choose(const DynamicGradArgs& args, const Part& part, int first, Shared& shared) {
    const int example = first + threadIdx.x;
    const float gate =
        example < args.batch ? args.table[static_cast<size_t>(part.block) * args.batch + example] : 0.0f;
    shared.gates[threadIdx.x] = gate;
    __syncthreads();
    int before = 0;
#pragma unroll 8
    for (int t = 0; t < kThreads; ++t) before += t < static_cast<int>(threadIdx.x) && shared.gates[t] != 0.0f;
    if (gate != 0.0f) {
      shared.chosen[before] = example;
      shared.chosen_gates[before] = gate;
    }
    if (threadIdx.x == kThreads - 1) shared.count = before + (gate != 0.0f);
    __syncthreads();
  }

  // Of those that were chosen, from `from` on: rows of x times their gates, and rows of dy.
  static DEVICE void Put(const DynamicGradArgs& args, const Part& part, int from, Shared& shared) {
#pragma unroll 1
    for (int i = threadIdx.x; i < kDepth * kRows; i += kThreads) {
      const int entry = from + i / kRows;
      const bool inside = entry < shared.count && i % kRows < part.rows_left;
      shared.tile.slices.x[i / kRows][i % kRows] =
          inside ? shared.chosen_gates[entry] *
                       args.x[static_cast<size_t>(shared.chosen[entry]) * args.x_features + part.row + i % kRows]
                 : 0.0f;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < kDepth * kColumns; i += kThreads) {
      const int entry = from + i / kColumns;
      const bool inside = entry < shared.count && i % kColumns < part.columns_left;
      shared.tile.slices.dy[i / kColumns][i % kColumns] =
          inside ? args.dy[static_cast<size_t>(shared.chosen[entry]) * args.y_features + part.column + i % kColumns]
                 : 0.0f;
    }
  }

  static DEVICE void Run(const DynamicGradArgs& args) {
    const Part part = Part::Get(args);
    Shared& shared = SharedMemory<Shared>();
    Tile work = {};
    for (int first = 0; first < args.batch; first += kThreads) {
      Choose(args, part, first, shared);
      for (int from = 0; from < shared.count; from += kDepth) {
        __syncthreads();  // the slice before has been read
        Put(args, part, from, shared);
        __syncthreads();
        work.Multiply(shared.tile.slices);
      }
    }
    __syncthreads();
    work.PutSums(shared.tile);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
      Write(args, part, i / kColumns, i % kColumns, Tile::SumOf(shared.tile, i / kColumns, i % kColumns));
    }
  }

  static DEVICE void Write(const DynamicGradArgs& args, const Part& part, int i, int j, float sum) {
    const int row = part.first_row + i;
    const int column = part.first_column + j;
    if (row >= args.height || column >= args.width) return;
    float& value = args.dblocks[(static_cast<size_t>(part.block) * args.height + row) * args.width + column];
    const bool inside = i < part.rows_left && j < part.columns_left;
    value = (inside ? sum : 0.0f) + (args.accumulate ? value : 0.0f);
  }
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DYNAMIC_GRAD_CUH_
