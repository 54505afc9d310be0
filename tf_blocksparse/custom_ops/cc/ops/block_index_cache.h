// Indices of blocks, built on the first call and found again on the next ones.
#ifndef TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_
#define TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "tensorflow/core/framework/tensor.h"
#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {

bool SameBuffer(const tensorflow::Tensor& a, const tensorflow::Tensor& b);
bool SameGrid(const Grid& a, const Grid& b);

// Found by the identity of the indices' and indptr's buffers, with no look at their contents. That is sound because
// the cache holds a reference to both: TensorFlow writes in place only to buffers that nothing else refers to, and
// cannot reuse an address that is still held. An array of Python's that is changed behind TensorFlow's back gives
// the old pattern or wrong numbers, never a bad access: see BlockIndex.
template <typename Index>
class IndexCache {
 public:
  // Checks and builds; returns an empty string, or the text of an error.
  using Build = std::function<std::string(const Grid& grid, const int32_t* indptr, int64_t indptr_size,
                                          const int32_t* indices, int64_t num_blocks, Index* index)>;

  explicit IndexCache(Build build) : build_(std::move(build)) {}

  // indices and indptr are int32 vectors. InvalidArgument if they are not a BSR pattern of the grid. Thread-safe.
  absl::Status Get(const Grid& grid, const tensorflow::Tensor& indices, const tensorflow::Tensor& indptr,
                   std::shared_ptr<const Index>* index) {
    *index = Find(grid, indices, indptr);
    if (*index != nullptr) return absl::OkStatus();
    // Built without the lock: two calls at once may both build, which costs time and no more.
    auto built = std::make_shared<Index>();
    const std::string error =
        build_(grid, indptr.unaligned_flat<int32_t>().data(), indptr.NumElements(),
               indices.unaligned_flat<int32_t>().data(), indices.NumElements(), built.get());
    if (!error.empty()) return InvalidIf(error);
    *index = std::move(built);
    absl::MutexLock lock(&mutex_);
    entries_.push_front({indices, indptr, *index});
    if (entries_.size() > kMaxEntries) entries_.pop_back();
    return absl::OkStatus();
  }

 private:
  // In eager mode one kernel object serves all layers whose attributes are equal, each with its own pattern.
  static constexpr size_t kMaxEntries = 8;

  struct Entry {
    tensorflow::Tensor indices;
    tensorflow::Tensor indptr;
    std::shared_ptr<const Index> index;
  };

  std::shared_ptr<const Index> Find(const Grid& grid, const tensorflow::Tensor& indices,
                                    const tensorflow::Tensor& indptr) {
    absl::MutexLock lock(&mutex_);
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (SameBuffer(entry->indptr, indptr) && SameBuffer(entry->indices, indices) &&
          SameGrid(entry->index->grid, grid)) {
        entries_.splice(entries_.begin(), entries_, entry);
        return entry->index;
      }
    }
    return nullptr;
  }

  const Build build_;
  absl::Mutex mutex_;
  std::list<Entry> entries_;  // last used first
};

// Builds what the CPU's kernels read.
IndexCache<BlockIndex>::Build BuildOf(Order order, bool by_column);

class BlockIndexCache : public IndexCache<BlockIndex> {
 public:
  BlockIndexCache(Order order, bool by_column) : IndexCache(BuildOf(order, by_column)) {}
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_OPS_BLOCK_INDEX_CACHE_H_
