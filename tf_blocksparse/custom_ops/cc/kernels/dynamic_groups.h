// Which examples want which blocks: what a product that chooses its blocks for each example starts from.
//
// W is [in, out] in a grid of blocks of which all are stored, in full: block i * c + j is the one of block row i and
// block column j, c block columns to a row. Example e wants the blocks ids[e, :], each multiplied by its block gate.
// A block gate that is exactly zero is as good as none: the block is not read.
#ifndef TF_BLOCKSPARSE_KERNELS_DYNAMIC_GROUPS_H_
#define TF_BLOCKSPARSE_KERNELS_DYNAMIC_GROUPS_H_

#include <cstdint>
#include <string>

#include "tf_blocksparse/custom_ops/cc/kernels/bsr.h"
#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_kernels.h"

namespace blocksparse {

// What the examples chose: nothing of it has been checked.
struct Choices {
  const int32_t* ids;  // [batch, count]
  const float* gates;  // [batch, count]
  int64_t batch;
  int64_t count;  // blocks of an example

  int64_t size() const { return batch * count; }
};

// The order in which the groups follow one another.
enum class GroupOrder {
  kByRow,     // group i * c + j is that of block (i, j)
  kByColumn,  // group j * r + i, with r block rows
};

// Group g is entries[start[g]] .. entries[start[g + 1] - 1], by rising example.
struct Groups {
  const int32_t* start = nullptr;  // [blocks + 1]
  const DynamicEntry* entries = nullptr;
  const int32_t* places = nullptr;  // where each entry's gate is in Choices::gates; null if not asked for

  int64_t size(int64_t group) const { return start[group + 1] - start[group]; }
  int64_t total(int64_t num_groups) const { return start[num_groups]; }
};

enum class ZeroGates { kDrop, kKeep };

// An error if the sizes are more than the entries' integers count.
std::string CheckChoices(const Grid& grid, const Choices& choices);

// Words of 4 bytes that GroupByBlock needs, of choices that were checked.
int64_t GroupWords(const Grid& grid, const Choices& choices, ZeroGates zeros);

// Checks every id and sorts. Returns an empty string, or the text of an error that names the first bad id. With kKeep
// the places are filled in, and zero gates are entries like others. Ids may change while it runs: what is indexed with
// is a checked copy. `groups` refers to `workspace`.
std::string GroupByBlock(const Grid& grid, const Choices& choices, GroupOrder order, ZeroGates zeros,
                         void* workspace, Groups* groups);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_DYNAMIC_GROUPS_H_
