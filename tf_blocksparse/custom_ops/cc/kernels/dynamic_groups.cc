#include "tf_blocksparse/custom_ops/cc/kernels/dynamic_groups.h"

#include <algorithm>
#include <limits>

namespace blocksparse {
namespace {

constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max() - 2;
constexpr int32_t kDropped = -1;

int64_t NumBlocks(const Grid& grid) { return grid.rows.lines * grid.columns.lines; }

// Quotients by the block columns, without the division that every entry would wait for: exact for ids of 32 bits.
class Columns {
 public:
  explicit Columns(int64_t count) : count_(count), inverse_(count == 1 ? 0 : ~uint64_t{0} / count + 1) {}

  int64_t RowOf(uint32_t id) const {
    if (count_ == 1) return id;
    return static_cast<int64_t>((static_cast<unsigned __int128>(id) * inverse_) >> 64);
  }

 private:
  int64_t count_;
  uint64_t inverse_;
};

std::string BadId(const Choices& choices, int64_t e, int32_t id, int64_t num_blocks) {
  return "block_ids[" + std::to_string(e / choices.count) + ", " + std::to_string(e % choices.count) +
         "] = " + std::to_string(id) + " is not in [0, " + std::to_string(num_blocks) + "), the blocks of the matrix";
}

}  // namespace

std::string CheckChoices(const Grid& grid, const Choices& choices) {
  const int64_t num_blocks = NumBlocks(grid);
  if (num_blocks > kMaxCount) {
    return "there may be at most " + std::to_string(kMaxCount) + " blocks, got " + std::to_string(num_blocks);
  }
  if (choices.count > 0 && choices.batch > kMaxCount / choices.count) {
    return "block_ids may have at most " + std::to_string(kMaxCount) + " elements, got shape [" +
           std::to_string(choices.batch) + ", " + std::to_string(choices.count) + "]";
  }
  return "";
}

int64_t GroupWords(const Grid& grid, const Choices& choices, ZeroGates zeros) {
  const int64_t words = zeros == ZeroGates::kKeep ? 4 : 3;  // of an id: its group, its entry and perhaps its place
  return NumBlocks(grid) + 2 + choices.size() * words;
}

std::string GroupByBlock(const Grid& grid, const Choices& choices, GroupOrder order, ZeroGates zeros,
                         void* workspace, Groups* groups) {
  const int64_t num_blocks = NumBlocks(grid);
  const int64_t size = choices.size();
  const int64_t rows = grid.rows.lines;
  const int64_t columns = grid.columns.lines;
  const bool by_column = order == GroupOrder::kByColumn;
  auto* entries = static_cast<DynamicEntry*>(workspace);
  auto* group_of = reinterpret_cast<int32_t*>(entries + size);
  int32_t* start = group_of + size;
  int32_t* places = zeros == ZeroGates::kKeep ? start + num_blocks + 2 : nullptr;

  // start[g + 2] counts group g; after the sums start[g + 1] is where its next entry goes, and at last where it ends.
  std::fill_n(start, num_blocks + 2, 0);
  const Columns divide(columns);
  for (int64_t e = 0; e < size; ++e) {
    const int32_t id = *static_cast<const volatile int32_t*>(choices.ids + e);  // read once: it may change
    if (static_cast<uint32_t>(id) >= static_cast<uint32_t>(num_blocks)) return BadId(choices, e, id, num_blocks);
    int64_t group = id;
    if (by_column) {
      const int64_t row = divide.RowOf(static_cast<uint32_t>(id));
      group = (id - row * columns) * rows + row;
    }
    const bool dropped = zeros == ZeroGates::kDrop && choices.gates[e] == 0.0f;
    group_of[e] = dropped ? kDropped : static_cast<int32_t>(group);
    start[dropped ? 0 : group + 2] += 1;
  }
  start[0] = 0;
  for (int64_t g = 2; g < num_blocks + 2; ++g) start[g] += start[g - 1];
  for (int64_t b = 0, e = 0; b < choices.batch; ++b) {
    for (int64_t k = 0; k < choices.count; ++k, ++e) {
      if (group_of[e] == kDropped) continue;
      const int32_t at = start[group_of[e] + 1]++;
      entries[at] = {static_cast<int32_t>(b), choices.gates[e]};
      if (places != nullptr) places[at] = static_cast<int32_t>(e);
    }
  }
  *groups = {start, entries, places};
  return "";
}

}  // namespace blocksparse
