#include <algorithm>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence_layout.h"

namespace blocksparse {
namespace {

// Examples times steps whose products with W are made together, so that W is read once for all of them, and what is
// made still lies in the second-level cache when its step comes.
constexpr int64_t kChunkTileRows = 64;
constexpr int64_t kChunkRows = 32;
// Floats of all gates of the lines that are done together: the first-level cache holds them from the product to the cell.
constexpr int64_t kGroupFloats = 8192;

const MicroKernel* Like(const Sequence& sequence, const MicroKernel& kernel, const BlockIndex* index) {
  if (index == nullptr) return nullptr;
  return KernelLike(*sequence.table, kernel, index->grid.rows.block, index->grid.columns.block);
}

}  // namespace

std::string CheckSequence(const Sequence& sequence) {
  const Grid& grid = sequence.recurrent->grid;
  const auto shape = [](const Grid& g) {
    return std::to_string(g.rows.block) + "x" + std::to_string(g.columns.block);
  };
  if (sequence.kernel != nullptr && sequence.kernel->grid.columns.block != grid.columns.block) {
    return "the blocks of kernel and recurrent must have one width, got " + shape(sequence.kernel->grid) + " and " +
           shape(grid);
  }
  if (sequence.candidate != nullptr && shape(sequence.candidate->grid) != shape(grid)) {
    return "the blocks of recurrent and candidate must have one shape, got " + shape(grid) + " and " +
           shape(sequence.candidate->grid);
  }
  return "";
}

std::vector<int64_t> SplitUnits(const Sequence& sequence, int64_t parts) {
  const int64_t lines = sequence.recurrent->line_axis().gate_lines;
  std::vector<int64_t> before(lines + 1, 0);
  for (const BlockIndex* index : {sequence.kernel, sequence.recurrent, sequence.candidate}) {
    if (index == nullptr) continue;
    for (int64_t line = 0; line < index->line_axis().lines; ++line) {
      before[line % lines + 1] += index->start[line + 1] - index->start[line];
    }
  }
  // A line's cell costs something even without blocks.
  for (int64_t line = 0; line < lines; ++line) before[line + 1] += before[line] + 1;
  std::vector<int64_t> bounds(parts + 1, lines);
  for (int64_t p = 0; p < parts; ++p) {
    bounds[p] = std::lower_bound(before.begin(), before.end(), before[lines] * p / parts) - before.begin();
  }
  return bounds;
}

int64_t SequenceMembers(const Sequence& sequence, int64_t slots, int64_t threads) {
  double elements = static_cast<double>(sequence.units() * sequence.gates());
  for (const BlockIndex* index : {sequence.kernel, sequence.recurrent, sequence.candidate}) {
    if (index != nullptr) elements += static_cast<double>(index->num_blocks) * index->grid.block_elements();
  }
  const double nanoseconds =
      EstimateNanoseconds(*sequence.table, elements, static_cast<double>(slots)) * static_cast<double>(sequence.time);
  // Finding the members costs more than waking a thread for one product.
  return std::min(UsefulWorkers(nanoseconds / 4, threads), sequence.recurrent->line_axis().gate_lines);
}

SequencePlan PlanSequence(const Sequence& sequence, int64_t threads) {
  SequencePlan plan = {};
  plan.sequence = sequence;
  const BlockIndex& recurrent = *sequence.recurrent;
  const Axis& columns = recurrent.grid.columns;
  const int64_t units = sequence.units();
  const int64_t out = sequence.gates() * units;
  plan.by_rows = true;
  for (int64_t row = 0; row < sequence.batch;) {
    SequenceSegment segment = {};
    segment.recurrent = ChooseKernel(*sequence.table, Kind::kProductRows, recurrent.grid.rows.block, columns.block,
                                     sequence.batch - row);
    segment.tile = IsTile(*segment.recurrent);
    segment.slots = segment.recurrent->batch == 0 ? sequence.batch - row : segment.recurrent->batch;
    segment.rows = std::min(segment.slots, sequence.batch - row);
    segment.first_row = row;
    segment.first_slot = plan.slots;
    segment.kernel = Like(sequence, *segment.recurrent, sequence.kernel);
    segment.candidate = Like(sequence, *segment.recurrent, sequence.candidate);
    for (const MicroKernel* kernel : {segment.kernel, segment.recurrent, segment.candidate}) {
      if (kernel != nullptr) plan.line_features = std::max(plan.line_features, LineFeatures(*kernel, columns));
    }
    plan.by_rows = plan.by_rows && !segment.tile;
    plan.slots += segment.slots;
    row += segment.rows;
    plan.segments.push_back(segment);
  }
  plan.members = SequenceMembers(sequence, plan.slots, threads);
  const int64_t most_slots = MostSlots(plan.segments);
  if (plan.segments.empty() || sequence.time == 0) return plan;

  const int64_t line_floats = sequence.gates() * plan.line_features * most_slots;
  plan.group_lines = std::max<int64_t>(kGroupFloats / line_floats, 1);
  // Rows that one kernel call does read U once, whatever the group.
  if (plan.by_rows && plan.segments.size() == 1) plan.group_lines = columns.gate_lines;
  plan.group_lines = std::min(plan.group_lines, columns.gate_lines);
  const int64_t wanted = plan.by_rows ? kChunkRows : kChunkTileRows;
  const int64_t at_once = plan.by_rows && !sequence.time_major && plan.slots > 1 ? 2 : plan.slots;
  plan.chunk = std::min(std::max<int64_t>(wanted / at_once, 1), sequence.time);
  const int64_t room = columns.gate_lines * plan.line_features;
  if (plan.by_rows) {
    const int64_t batch = sequence.time_major ? sequence.batch : 1;
    plan.product = PlanProduct(*sequence.table, *sequence.kernel, plan.chunk * batch, 1);
    plan.rest = PlanProduct(*sequence.table, *sequence.kernel, sequence.time % plan.chunk * batch, 1);
    plan.projected_floats = RoundUp(plan.chunk * sequence.batch * out, 16);
  } else {
    plan.tile_floats = RoundUp(plan.chunk * plan.slots * sequence.kernel->grid.rows.features, 16);
    plan.projected_floats = RoundUp(plan.chunk * plan.slots * sequence.gates() * room, 16);
  }
  plan.state_floats = RoundUp(plan.slots * units, 16);
  plan.list_floats = ListFloats(sequence.kernel) + ListFloats(sequence.recurrent) + ListFloats(sequence.candidate);
  if (sequence.candidate != nullptr) plan.gate_floats = RoundUp(3 * plan.slots * room, 16);
  const int64_t group_floats = plan.group_lines * plan.line_features * most_slots;
  // Sums and saved gates of a group, a line beside, and a flag for each example.
  plan.member_floats = RoundUp((sequence.gates() + sequence.saved_gates()) * group_floats +
                                   plan.line_features * most_slots + 2 * plan.slots,
                               16) +
                       std::max(plan.product.workspace_floats, plan.rest.workspace_floats);
  const int64_t states = 2 + (sequence.cell == Cell::kLstm) + (sequence.candidate != nullptr);
  plan.workspace_floats = states * plan.state_floats + 2 * plan.tile_floats + plan.projected_floats +
                          plan.list_floats + plan.gate_floats + RoundUp(out, 16) + plan.members * plan.member_floats;
  return plan;
}

}  // namespace blocksparse
