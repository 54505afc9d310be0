// Block indices, built on the first call and found again on the next ones.
#ifndef TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_
#define TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_

#include <list>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "tensorflow/core/framework/tensor.h"
#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"

namespace blocksparse {

// Found by the identity of the indices' and indptr's buffers, with no look at their contents. That is sound because
// the cache holds a reference to both: TensorFlow writes in place only to buffers that nothing else refers to, and
// cannot reuse an address that is still held. An array of Python's that is changed behind TensorFlow's back gives
// the old pattern or wrong numbers, never a bad access: see BlockIndex.
class BlockIndexCache {
 public:
  BlockIndexCache(Order order, bool by_column) : order_(order), by_column_(by_column) {}

  // indices and indptr are int32 vectors. InvalidArgument if they are not a BSR pattern of the grid. Thread-safe.
  absl::Status Get(const Grid& grid, const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr,
                   std::shared_ptr<const BlockIndex>* index);

  // The check alone.
  absl::Status Check(const Grid& grid, const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr) const;

 private:
  // In eager mode one kernel object serves all layers whose attributes are equal, each with its own pattern.
  static constexpr size_t kMaxEntries = 8;

  struct Entry {
    tensorflow::Tensor indices;
    tensorflow::Tensor indptr;
    std::shared_ptr<const BlockIndex> index;
  };

  std::shared_ptr<const BlockIndex> Find(const Grid& grid, const tensorflow::Tensor& indices,
                                         const tensorflow::Tensor& indptr);

  const Order order_;
  const bool by_column_;
  absl::Mutex mutex_;
  std::list<Entry> entries_;  // last used first
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_
