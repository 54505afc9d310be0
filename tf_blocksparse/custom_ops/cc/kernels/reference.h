// The same functions as plain loops over a dense matrix, in double: what the tests compare with.
#ifndef TF_BLOCKSPARSE_KERNELS_REFERENCE_H_
#define TF_BLOCKSPARSE_KERNELS_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"

namespace blocksparse {

struct BsrMatrix {
  Grid grid;
  std::vector<float> blocks;
  std::vector<int32_t> indices;
  std::vector<int32_t> indptr;
  Order order = Order::kRow;
};

// W, dense [in, out].
std::vector<double> ReferenceDense(const BsrMatrix& w);

// y [batch, out] = x W.
std::vector<double> ReferenceProduct(const BsrMatrix& w, const std::vector<float>& x, int64_t batch);

// dx [batch, in] = dy W^T.
std::vector<double> ReferenceGradX(const BsrMatrix& w, const std::vector<float>& dy, int64_t batch);

// dblocks, 0 outside of the matrix.
std::vector<double> ReferenceGradBlocks(const BsrMatrix& w, const std::vector<float>& x,
                                        const std::vector<float>& dy, int64_t batch);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_REFERENCE_H_
