// What the host tells the CUDA kernels. NVRTC compiles this file too, and it has no standard headers.
#ifndef TF_BLOCKSPARSE_CUDA_ARGUMENTS_H_
#define TF_BLOCKSPARSE_CUDA_ARGUMENTS_H_

namespace blocksparse {
namespace cuda {

// A block of an output line: its first feature on the axis that is summed over, and its place in `blocks`. The top bit
// of `offset` is set where the block is ragged on that axis: then only `edge_k` of its features are real.
struct Entry {
  unsigned offset;
  int position;
};

constexpr unsigned kEdgeBit = 1u << 31;

// A run of entries of one output line, which is what a thread block sums up.
struct Item {
  int first;    // of the entries
  int end;
  int feature;  // the line's first output feature
  int extent;   // output features of the line, fewer than block_n where it is ragged
  int slot;     // of `partial` where the line is split into several items, else -1
};

// A line that is split: its items' slots, to be added up.
struct Group {
  int first_slot;
  int slots;
  int feature;
  int extent;
};

// y = activation(x W + bias), or dx = dy W^T with dy as x and dx as y.
struct ProductArgs {
  const void* x;         // [batch, x_features]
  const void* blocks;    // [num_blocks, height, width]
  const void* bias;      // [y_features] or null
  void* y;               // [batch, y_features]
  float* partial;        // [slots, batch, block_n]
  const Entry* entries;
  const Item* items;
  int batch;
  int x_features;
  int y_features;
  int block_k;           // extent of a block on the axis that is summed over
  int block_n;           // and on that of the output
  int edge_k;
  int column_tiles;      // thread blocks a line
  int batch_tiles;
  int activation;
  int x_aligned;         // whether every chunk of 16 bytes of x begins on a multiple of 16 bytes
  int blocks_aligned;
  int k_stride;          // distance of neighbours in a block: only the kernels for few rows read these
  int n_stride;
  int k_lanes;           // how their threads share out a line: k_lanes * n_lanes * entry_lanes of them
  int n_lanes;
  int entry_lanes;
};

// y = activation(sum of partial + bias), of the lines that are split.
struct CombineArgs {
  const float* partial;  // [slots, batch, block_n]
  const void* bias;
  void* y;
  const Group* groups;
  int batch;
  int y_features;
  int block_n;
  int tiles;             // thread blocks a group
  int activation;
};

// Where a stored block lies in the matrix, and how much of it.
struct Place {
  int row;
  int rows;
  int column;
  int columns;
};

// dblocks[k, i, j] = sum over b of x[b, row + i] dy[b, column + j]; 0 outside of the matrix.
struct GradArgs {
  const void* x;         // [batch, x_features]
  const void* dy;        // [batch, y_features]
  void* dblocks;         // [num_blocks, height, width]
  float* partial;        // [splits, num_blocks, height, width] where splits > 1
  const Place* places;
  int batch;
  int x_features;
  int y_features;
  int height;
  int width;
  int row_tiles;         // thread blocks a stored block
  int column_tiles;
  int splits;            // parts of the batch that are summed apart
  int split_rows;        // batch rows of each
  int x_aligned;
  int dy_aligned;
  long long elements;    // of dblocks
};

// dblocks = sum over the splits of partial.
struct GradCombineArgs {
  const float* partial;
  void* dblocks;
  long long elements;
  int splits;
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_ARGUMENTS_H_
