// The grid that block compressed sparse row (BSR) storage lays on a weight matrix.
//
// W is [in, out] and is stored as SciPy's bsr_matrix stores it: `blocks` [n, height, width] with the
// elements of a block in row order, `indices` [n] with the block column of each block, and `indptr`
// [grid rows + 1]. Neither side of W has to divide by the block: the last block of a row or a column is
// stored in full and its elements outside of W mean nothing.
//
// The blocks may also be stored by block column: sorted by column, then by row, `indices` then being block rows and
// `indptr` [grid columns + 1]; the elements of a block stay in row order. y = x W then reads them in one stream.
//
// With `gates` > 1 the columns of W are that many equal matrices side by side (an LSTM kernel is four) and
// the grid starts afresh on each, so that no block spans two of them.
#ifndef TF_BLOCKSPARSE_KERNELS_BSR_H_
#define TF_BLOCKSPARSE_KERNELS_BSR_H_

#include <cstdint>
#include <string>

namespace blocksparse {

// One side of the matrix. A "line" is a block row or a block column.
struct Axis {
  int64_t features = 0;       // rows or columns of the matrix
  int64_t block = 1;          // of them in a block
  int64_t gates = 1;          // equal parts that the grid is laid on
  int64_t gate_features = 0;  // features / gates
  int64_t gate_lines = 0;     // ceil(gate_features / block)
  int64_t lines = 0;          // gates * gate_lines

  // Features in the last line of each gate.
  int64_t EdgeExtent() const { return gate_features - (gate_lines - 1) * block; }
  bool ragged() const { return EdgeExtent() != block; }
  int64_t Offset(int64_t line) const {
    return (line / gate_lines) * gate_features + (line % gate_lines) * block;
  }
  int64_t Extent(int64_t line) const {
    return line % gate_lines == gate_lines - 1 ? EdgeExtent() : block;
  }
};

struct Grid {
  Axis rows;     // the input features of y = x W
  Axis columns;  // the output features

  int64_t block_elements() const { return rows.block * columns.block; }
};

enum class Order { kRow, kColumn };

// Fills `grid`. Returns an empty string, or the text of an error.
std::string MakeGrid(int64_t in_features, int64_t out_features, int64_t gates, int64_t block_height,
                     int64_t block_width, Grid* grid);

// Checks indices and indptr against the grid. Returns an empty string, or the text of an error that names the
// first bad element. Reads nothing outside of the two arrays, whatever they hold.
std::string CheckBsr(const Grid& grid, Order order, const int32_t* indptr, int64_t indptr_size,
                     const int32_t* indices, int64_t num_blocks);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_BSR_H_
