// Arrays of the workspace of a sequence: [slots, features], segment after segment, each a tile or rows.
#ifndef TF_BLOCKSPARSE_KERNELS_SEQUENCE_LAYOUT_H_
#define TF_BLOCKSPARSE_KERNELS_SEQUENCE_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"
#include "tf_blocksparse/custom_ops/cc/kernels/round_up.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace blocksparse {

// Features that a kernel may write for a line.
inline int64_t LineFeatures(const MicroKernel& kernel, const Axis& lines) {
  return AnyShape(kernel) ? std::min(lines.block, lines.gate_features) : lines.block;
}

inline int64_t MostSlots(const std::vector<SequenceSegment>& segments) {
  int64_t most = 0;
  for (const SequenceSegment& segment : segments) most = std::max(most, segment.slots);
  return most;
}

inline int64_t ListFloats(const BlockIndex* index) {
  return index != nullptr && index->in_stored_order() ? RoundUp(index->num_blocks, 16) : 0;
}

// Where a feature of a segment is; a tile is [features][slots], else [slots][features].
inline float* FeatureAt(float* array, const SequenceSegment& segment, int64_t features, int64_t feature) {
  return array + segment.first_slot * features + (segment.tile ? feature * segment.slots : feature);
}

// From one run of a CellJob to the next.
inline int64_t RunStride(const SequenceSegment& segment, int64_t features) {
  return segment.tile ? segment.slots : features;
}

// `features` of each of the segment's rows: from row-major memory, rows `stride` floats apart. What a tile has beyond the
// rows is set to zero.
inline void Fetch(const KernelTable& table, const SequenceSegment& segment, const float* rows, int64_t stride,
                  int64_t features, float* to, int64_t run_stride) {
  if (segment.tile) return table.pack(rows, stride, segment.rows, features, segment.slots, to);
  for (int64_t r = 0; r < segment.rows; ++r) {
    std::memcpy(to + r * run_stride, rows + r * stride, features * sizeof(float));
  }
}

// And back.
inline void Emit(const KernelTable& table, const SequenceSegment& segment, const float* from, int64_t run_stride,
                 int64_t features, float* rows, int64_t stride) {
  if (segment.tile) return table.unpack(from, segment.slots, segment.rows, features, rows, stride);
  for (int64_t r = 0; r < segment.rows; ++r) {
    std::memcpy(rows + r * stride, from + r * run_stride, features * sizeof(float));
  }
}

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_SEQUENCE_LAYOUT_H_
