#include "tf_blocksparse/custom_ops/cc/cuda/pattern.h"

#include <algorithm>
#include <cstring>

namespace blocksparse {
namespace cuda {
namespace {

// The device's pointers to the parts of an image are aligned to this.
constexpr size_t kAlignment = 16;

template <typename T>
size_t Append(const std::vector<T>& values, std::vector<unsigned char>* image) {
  const size_t at = (image->size() + kAlignment - 1) / kAlignment * kAlignment;
  image->resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(image->data() + at, values.data(), values.size() * sizeof(T));
  return at;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t OffsetMultiple(const Axis& axis) {
  for (const int64_t multiple : {8, 4}) {
    if (axis.block % multiple == 0 && (axis.gates == 1 || axis.gate_features % multiple == 0)) return multiple;
  }
  return 1;
}

// Lines of more than `limit` entries become several items of about equal length.
Split MakeSplit(const BlockIndex& index, int64_t limit, std::vector<unsigned char>* image) {
  const Axis& axis = index.line_axis();
  std::vector<Item> items;
  std::vector<Group> groups;
  Split split;
  for (int64_t line = 0; line < axis.lines; ++line) {
    const int32_t first = index.start[line];
    const int64_t entries = index.start[line + 1] - first;
    const int feature = static_cast<int>(axis.Offset(line));
    const int extent = static_cast<int>(axis.Extent(line));
    const int64_t parts = std::max<int64_t>(CeilDiv(entries, limit), 1);
    if (parts > 1) groups.push_back({static_cast<int>(split.slots), static_cast<int>(parts), feature, extent});
    for (int64_t p = 0; p < parts; ++p) {
      const int slot = parts > 1 ? static_cast<int>(split.slots++) : -1;
      items.push_back({static_cast<int>(first + entries * p / parts), static_cast<int>(first + entries * (p + 1) / parts),
                       feature, extent, slot});
    }
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.end - a.first > b.end - b.first; });
  split.items = static_cast<int64_t>(items.size());
  split.groups = static_cast<int64_t>(groups.size());
  split.items_at = Append(items, image);
  split.groups_at = Append(groups, image);
  return split;
}

std::vector<Entry> MakeEntries(const BlockIndex& index) {
  std::vector<Entry> entries(index.num_blocks);
  for (int64_t line = 0; line < index.line_axis().lines; ++line) {
    for (int64_t e = index.start[line]; e < index.start[line + 1]; ++e) {
      const bool full = e < index.full_end[line];
      entries[e].offset = static_cast<unsigned>(index.Offset(e, full)) | (full ? 0 : kEdgeBit);
      entries[e].position = static_cast<int>(index.Position(e));
    }
  }
  return entries;
}

}  // namespace

ProductPattern MakeProductPattern(const BlockIndex& index, int64_t multiprocessors) {
  ProductPattern pattern;
  pattern.num_blocks = index.num_blocks;
  pattern.max_entries = index.max_entries;
  pattern.x_features = index.other_axis().features;
  pattern.y_features = index.line_axis().features;
  pattern.block_k = index.other_axis().block;
  pattern.block_n = index.line_axis().block;
  pattern.edge_k = index.other_axis().EdgeExtent();
  pattern.offset_multiple = OffsetMultiple(index.other_axis());
  pattern.entries_at = Append(MakeEntries(index), &pattern.image);

  const int64_t unlimited = std::max<int64_t>(index.max_entries, 1);
  pattern.whole = MakeSplit(index, unlimited, &pattern.image);
  // Items that are worth a thread block: 512 steps of a sum for a tile, 2048 elements of blocks for few rows.
  const int64_t average = CeilDiv(index.num_blocks, index.line_axis().lines);
  const int64_t even = std::max({CeilDiv(index.num_blocks, 2 * multiprocessors), 2 * average,
                                 CeilDiv(512, pattern.block_k)});
  const int64_t few = std::max(CeilDiv(index.num_blocks, 4 * multiprocessors),
                               CeilDiv(2048, pattern.block_k * pattern.block_n));
  pattern.even = even >= unlimited ? pattern.whole : MakeSplit(index, even, &pattern.image);
  pattern.few = few >= unlimited ? pattern.whole : MakeSplit(index, few, &pattern.image);
  return pattern;
}

GradPattern MakeGradPattern(const BlockIndex& index) {
  GradPattern pattern;
  const Axis& rows = index.grid.rows;
  const Axis& columns = index.grid.columns;
  pattern.num_blocks = index.num_blocks;
  pattern.x_features = rows.features;
  pattern.y_features = columns.features;
  pattern.height = rows.block;
  pattern.width = columns.block;
  pattern.row_multiple = OffsetMultiple(rows);
  pattern.column_multiple = OffsetMultiple(columns);
  std::vector<Place> places(index.num_blocks);
  const Axis& lines = index.line_axis();
  const Axis& other = index.other_axis();
  for (int64_t line = 0; line < lines.lines; ++line) {
    const int offset = static_cast<int>(lines.Offset(line));
    const int extent = static_cast<int>(lines.Extent(line));
    for (int64_t e = index.start[line]; e < index.start[line + 1]; ++e) {
      const bool full = e < index.full_end[line];
      const int across = static_cast<int>(index.Offset(e, full));
      const int size = static_cast<int>(full ? other.block : other.EdgeExtent());
      places[index.Position(e)] =
          index.by_column ? Place{across, size, offset, extent} : Place{offset, extent, across, size};
    }
  }
  Append(places, &pattern.image);
  return pattern;
}

}  // namespace cuda
}  // namespace blocksparse
