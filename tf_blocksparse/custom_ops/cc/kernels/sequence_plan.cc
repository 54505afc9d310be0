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
// Low-precision products of more examples than this are made step by step: else W would be read for each example.
constexpr int64_t kMostRowsByExample = 4;

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
  // Of all arrays together, which plans count in 64 bits.
  int64_t elements = sequence.batch;
  if (__builtin_mul_overflow(elements, sequence.time, &elements) ||
      __builtin_mul_overflow(elements, 64 * sequence.units(), &elements)) {
    return "the states of " + std::to_string(sequence.batch) + " examples of " + std::to_string(sequence.time) +
           " time steps and " + std::to_string(sequence.units()) + " units are more than can be counted";
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
  return std::min(UsefulWorkers(nanoseconds / 2, threads), sequence.recurrent->line_axis().gate_lines);
}

namespace {

void PlanSegments(SequencePlan* plan) {
  const Sequence& sequence = plan->sequence;
  const Grid& grid = sequence.recurrent->grid;
  for (int64_t row = 0; row < sequence.batch;) {
    SequenceSegment segment = {};
    segment.recurrent =
        ChooseKernel(*sequence.table, Kind::kProductRows, grid.rows.block, grid.columns.block, sequence.batch - row);
    segment.tile = IsTile(*segment.recurrent);
    segment.slots = segment.recurrent->batch == 0 ? sequence.batch - row : segment.recurrent->batch;
    segment.rows = std::min(segment.slots, sequence.batch - row);
    segment.first_row = row;
    segment.first_slot = plan->slots;
    segment.kernel = Like(sequence, *segment.recurrent, sequence.kernel);
    segment.candidate = Like(sequence, *segment.recurrent, sequence.candidate);
    for (const MicroKernel* kernel : {segment.kernel, segment.recurrent, segment.candidate}) {
      if (kernel != nullptr) {
        plan->line_features = std::max(plan->line_features, LineFeatures(*kernel, grid.columns));
      }
    }
    plan->by_rows = plan->by_rows && !segment.tile;
    plan->slots += segment.slots;
    row += segment.rows;
    plan->segments.push_back(segment);
  }
}

// All examples are rows of one segment.
void PlanLowPrecisionSegment(SequencePlan* plan) {
  SequenceSegment segment = {};
  segment.rows = segment.slots = plan->slots = plan->sequence.batch;
  if (segment.rows == 0) return;
  const Axis& columns = plan->sequence.recurrent->grid.columns;
  plan->line_features = std::min(columns.block, columns.gate_features);
  plan->segments.push_back(segment);
}

void PlanChunk(SequencePlan* plan) {
  const Sequence& sequence = plan->sequence;
  const int64_t wanted = plan->by_rows ? kChunkRows : kChunkTileRows;
  // Of rows that lie by example the steps of each are a product of their own.
  const int64_t at_once = plan->by_rows && !sequence.time_major && plan->slots > 1 ? 2 : plan->slots;
  plan->chunk = std::min(std::max<int64_t>(wanted / at_once, 1), sequence.time);
  plan->gather = sequence.low_precision != nullptr && sequence.batch > kMostRowsByExample;
  if (plan->gather) plan->chunk = 1;
}

void PlanGroup(SequencePlan* plan) {
  const Sequence& sequence = plan->sequence;
  const Axis& columns = sequence.recurrent->grid.columns;
  const int64_t line_floats = plan->line_features * MostSlots(plan->segments);
  plan->group_lines = std::max<int64_t>(kGroupFloats / (sequence.gates() * line_floats), 1);
  // Rows that one kernel call does read U once, whatever the group.
  if (plan->by_rows && plan->segments.size() == 1) plan->group_lines = columns.gate_lines;
  plan->group_lines = std::min(plan->group_lines, columns.gate_lines);
  // Low-precision products write whole rows of all gates; the others a group of lines, and a line beside.
  plan->sum_floats = sequence.low_precision != nullptr
                         ? sequence.batch * columns.features
                         : (sequence.gates() * plan->group_lines + 1) * line_floats;
}

void PlanRowProducts(SequencePlan* plan) {
  const Sequence& sequence = plan->sequence;
  const int64_t rows = sequence.time_major || plan->gather ? sequence.batch : 1;
  const int64_t rest = sequence.time % plan->chunk;
  if (sequence.low_precision == nullptr) {
    plan->product = PlanProduct(*sequence.table, *sequence.kernel, plan->chunk * rows, 1);
    plan->rest = PlanProduct(*sequence.table, *sequence.kernel, rest * rows, 1);
    plan->product_floats = std::max(plan->product.workspace_floats, plan->rest.workspace_floats);
    return;
  }
  const auto low = [&](const BlockIndex* index, int64_t batch) {
    const LowPrecisionPlan product =
        PlanLowPrecision(*sequence.low_precision, *sequence.table, static_cast<const ColumnIndex&>(*index),
                         sequence.block_type, sequence.x_type, batch, 1);
    plan->product_floats = std::max(plan->product_floats, product.workspace_words);
    return product;
  };
  plan->low_product = low(sequence.kernel, plan->chunk * rows);
  plan->low_rest = low(sequence.kernel, rest * rows);
  plan->low_recurrent = low(sequence.recurrent, sequence.batch);
  if (sequence.candidate != nullptr) plan->low_candidate = low(sequence.candidate, sequence.batch);
  if (plan->gather) plan->product_floats += RoundUp(sequence.batch * sequence.kernel->grid.rows.features, 16);
}

}  // namespace

SequencePlan PlanSequence(const Sequence& sequence, int64_t threads) {
  SequencePlan plan = {};
  plan.sequence = sequence;
  plan.by_rows = true;
  if (sequence.low_precision != nullptr) {
    PlanLowPrecisionSegment(&plan);
  } else {
    PlanSegments(&plan);
  }
  plan.members = SequenceMembers(sequence, plan.slots, threads);
  if (plan.segments.empty() || sequence.time == 0) return plan;

  PlanChunk(&plan);
  PlanGroup(&plan);
  const int64_t out = sequence.gates() * sequence.units();
  const int64_t room = sequence.recurrent->grid.columns.gate_lines * plan.line_features;
  if (plan.by_rows) {
    PlanRowProducts(&plan);
    plan.projected_floats = RoundUp(plan.chunk * sequence.batch * out, 16);
  } else {
    plan.tile_floats = RoundUp(plan.chunk * plan.slots * sequence.kernel->grid.rows.features, 16);
    plan.projected_floats = RoundUp(plan.chunk * plan.slots * sequence.gates() * room, 16);
  }
  plan.state_floats = RoundUp(plan.slots * sequence.units(), 16);
  if (sequence.low_precision == nullptr) {
    plan.list_floats = ListFloats(sequence.kernel) + ListFloats(sequence.recurrent) + ListFloats(sequence.candidate);
  }
  if (sequence.candidate != nullptr) plan.gate_floats = RoundUp(3 * plan.slots * room, 16);
  // Sums, saved gates, and two flags for each example.
  const int64_t saved =
      sequence.saved_gates() * plan.group_lines * plan.line_features * MostSlots(plan.segments);
  plan.member_floats = RoundUp(plan.sum_floats + saved + 2 * plan.slots, 16) + RoundUp(plan.product_floats, 16);
  const int64_t states = 2 + (sequence.cell == Cell::kLstm) + (sequence.candidate != nullptr);
  plan.workspace_floats = states * plan.state_floats + 2 * plan.tile_floats + plan.projected_floats +
                          plan.list_floats + plan.gate_floats + RoundUp(out, 16) + plan.members * plan.member_floats;
  return plan;
}

}  // namespace blocksparse
