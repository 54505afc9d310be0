#include "tf_blocksparse/custom_ops/cc/ops/block_index_cache.h"

#include <utility>

#include "tf_blocksparse/custom_ops/cc/ops/op_support.h"

namespace blocksparse {
namespace {

using tensorflow::Tensor;

bool SameBuffer(const Tensor& a, const Tensor& b) {
  return a.data() == b.data() && a.NumElements() == b.NumElements();
}

bool SameAxis(const Axis& a, const Axis& b) {
  return a.features == b.features && a.block == b.block && a.gates == b.gates;
}

}  // namespace

std::shared_ptr<const BlockIndex> BlockIndexCache::Find(const Grid& grid, const Tensor& indices,
                                                        const Tensor& indptr) {
  absl::MutexLock lock(&mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const Grid& held = entry->index->grid;
    if (SameBuffer(entry->indptr, indptr) && SameBuffer(entry->indices, indices) &&
        SameAxis(held.rows, grid.rows) && SameAxis(held.columns, grid.columns)) {
      entries_.splice(entries_.begin(), entries_, entry);
      return entry->index;
    }
  }
  return nullptr;
}

absl::Status BlockIndexCache::Get(const Grid& grid, const Tensor& indices, const Tensor& indptr,
                                  std::shared_ptr<const BlockIndex>* index) {
  *index = Find(grid, indices, indptr);
  if (*index != nullptr) return absl::OkStatus();
  // Built without the lock: two calls at once may both build, which costs time and no more.
  auto built = std::make_shared<BlockIndex>();
  const std::string error = BuildBlockIndex(grid, order_, indptr.unaligned_flat<int32_t>().data(),
                                            indptr.NumElements(), indices.unaligned_flat<int32_t>().data(),
                                            indices.NumElements(), by_column_, built.get());
  if (!error.empty()) return InvalidIf(error);
  *index = std::move(built);
  absl::MutexLock lock(&mutex_);
  entries_.push_front({indices, indptr, *index});
  if (entries_.size() > kMaxEntries) entries_.pop_back();
  return absl::OkStatus();
}

absl::Status BlockIndexCache::Check(const Grid& grid, const Tensor& indices, const Tensor& indptr) const {
  return InvalidIf(CheckBsr(grid, order_, indptr.unaligned_flat<int32_t>().data(), indptr.NumElements(),
                            indices.unaligned_flat<int32_t>().data(), indices.NumElements()));
}

}  // namespace blocksparse
