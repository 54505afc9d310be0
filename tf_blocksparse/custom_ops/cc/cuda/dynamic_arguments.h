// What the host tells the CUDA kernels of products of which every example has chosen its blocks. As arguments.h.
#ifndef TF_BLOCKSPARSE_CUDA_DYNAMIC_ARGUMENTS_H_
#define TF_BLOCKSPARSE_CUDA_DYNAMIC_ARGUMENTS_H_

namespace blocksparse {
namespace cuda {

// The table of choices: what each example multiplies each block by, 0 where it has not chosen it, at
// example * example_stride + row * row_stride + column * column_stride for the block of that row and column of the grid.
// A block that is chosen twice counts twice. `faults` is 0 for each example, or NaN for one with an id of no block.
struct ChoiceArgs {
  const int* ids;        // [batch, count]
  const float* gates;    // [batch, count]
  float* table;          // [batch * rows * columns]
  float* faults;         // [batch], right behind the table
  long long cells;       // of the table and faults
  long long example_stride;
  long long row_stride;
  long long column_stride;
  int batch;
  int count;
  int rows;              // of the grid
  int columns;
};

// y = activation(sum over the chosen blocks + bias) or, by rows of the grid in place of columns, the gradient of x.
struct DynamicArgs {
  const float* x;        // [batch, x_features]
  const float* blocks;   // [rows * columns, height, width]
  const float* table;    // [batch, lines, across]
  const float* faults;   // [batch]
  const float* bias;     // [y_features] or null
  float* y;              // [batch, y_features]
  float* partial;        // [parts, batch, y_features] where parts > 1
  int batch;
  int x_features;
  int y_features;
  int block_k;           // extent of a block on the axis that is summed over
  int block_n;           // and on that of the output
  int lines;             // of blocks along the sum; their number is that of the other side of the grid
  int across;            // blocks of a line
  int line_stride;       // from a block to that of the next line, in blocks
  int across_stride;
  int batch_tiles;
  int column_tiles;      // thread blocks a line
  int parts;             // that a line is summed in
  int part_blocks;       // of a line
  int activation;
  int k_stride;          // as of ProductArgs
  int n_stride;
  int k_lanes;
  int n_lanes;
  int entry_lanes;
};

// dgates[e, k] = x[e, rows of the block] B dy[e, columns of the block], B the block ids[e, k].
struct DynamicGatesArgs {
  const float* x;        // [batch, x_features]
  const float* dy;       // [batch, y_features]
  const float* blocks;
  const int* ids;        // [batch, count]
  float* dgates;         // [batch, count]
  int batch;
  int count;
  int x_features;
  int y_features;
  int height;
  int width;
  int rows;
  int columns;
};

// dblocks[b, i, j] = sum over the examples of table[b, e] x[e, row of i] dy[e, column of j]; 0 outside of the matrix.
struct DynamicGradArgs {
  const float* x;        // [batch, x_features]
  const float* dy;       // [batch, y_features]
  const float* table;    // [blocks, batch]
  float* dblocks;        // [blocks, height, width]
  int batch;
  int x_features;
  int y_features;
  int height;
  int width;
  int columns;           // of the grid
  int row_tiles;         // thread blocks a stored block
  int column_tiles;
  int accumulate;        // to what dblocks holds
};

// The `count` largest of max(score, 0) of each example, by rising id, divided by their mean: see dynamic_choose.h.
struct ChooseArgs {
  const float* scores;   // [batch, blocks]
  int* ids;              // [batch, count]
  float* gates;          // [batch, count]
  int blocks;
  int count;
  float epsilon;
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DYNAMIC_ARGUMENTS_H_
