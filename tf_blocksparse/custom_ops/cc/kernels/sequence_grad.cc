#include <algorithm>
#include <utility>

#include "tf_blocksparse/custom_ops/cc/kernels/choose.h"
#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence_layout.h"

namespace blocksparse {
namespace {

// Floats of the arrays of a step for the lines that are done together, of which there are a dozen.
constexpr int64_t kGroupFloats = 2048;

// The parts of the workspace that all members share.
struct Shared {
  Shared(const SequenceGradPlan& plan, float* workspace) {
    const auto take = [&](int64_t floats) { return std::exchange(workspace, workspace + floats); };
    sums[0] = take(plan.sum_floats);
    sums[1] = take(plan.sum_floats);
    dh = take(plan.state_floats);
    dc = plan.sequence.cell == Cell::kLstm ? take(plan.state_floats) : nullptr;
    lists = reinterpret_cast<int32_t*>(take(plan.list_floats));
    members = workspace;
  }

  float* sums[2];  // gradients of the gates' sums: what U^T is multiplied by
  float* dh;
  float* dc;
  int32_t* lists;
  float* members;
};

// Some lines of one segment in one step: units [unit, unit + count) and the arrays of them, [unit][slot].
struct Group {
  const SequenceSegment& segment;
  int64_t step;
  int64_t line;
  int64_t end;
  int64_t unit;
  int64_t count;
};

class Member {
 public:
  Member(const SequenceGradPlan& plan, const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs,
         const Shared& shared, int64_t member, int64_t size, Barrier* barrier)
      : plan_(plan), sequence_(plan.sequence), table_(*plan.sequence.table), inputs_(inputs), outputs_(outputs),
        shared_(shared), barrier_(barrier), units_(sequence_.units()), gates_(sequence_.gates()),
        rows_(sequence_.recurrent->grid.rows), recurrent_(table_, *sequence_.recurrent, inputs.recurrent_blocks) {
    const std::vector<int64_t> bounds = SplitUnits(sequence_, size);
    first_line_ = bounds[member];
    end_line_ = bounds[member + 1];
    float* own = shared.members + member * plan.member_floats;
    const int64_t group_floats = plan.group_lines * plan.line_features * MostSlots(plan.segments);
    keep_ = std::exchange(own, own + plan.slots);
    show_ = std::exchange(own, own + plan.slots);
    gate_tiles_ = std::exchange(own, own + sequence_.saved_gates() * group_floats);
    for (float** tile : {&h_, &c_, &new_c_, &product_}) *tile = std::exchange(own, own + group_floats);
    LoadMatrices();
  }

  void Run() {
    std::fill_n(keep_, plan_.slots, 1.0f);
    std::fill_n(show_, plan_.slots, 1.0f);
    ForGroups(0, [&](const Group& group) {
      FetchState(group, inputs_.dh, FeatureAt(shared_.dh, group.segment, units_, group.unit));
      if (shared_.dc != nullptr) {
        FetchState(group, inputs_.dc, FeatureAt(shared_.dc, group.segment, units_, group.unit));
      }
    });
    for (int64_t step = sequence_.time - 1; step >= 0; --step) Step(step);
    ForGroups(0, [&](const Group& group) {
      EmitState(group, shared_.dh, outputs_.dh);
      if (shared_.dc != nullptr) EmitState(group, shared_.dc, outputs_.dc);
    });
  }

 private:
  void LoadMatrices() {
    if (end_line_ == first_line_) return;
    recurrent_.Load(first_line_, end_line_, shared_.lists + sequence_.recurrent->start[first_line_]);
    if (sequence_.candidate == nullptr) return;
    candidate_.emplace_back(table_, *sequence_.candidate, inputs_.candidate_blocks);
    candidate_[0].Load(first_line_, end_line_, shared_.lists + ListFloats(sequence_.recurrent) +
                                                   sequence_.candidate->start[first_line_]);
  }

  template <typename Function>
  void ForGroups(int64_t step, const Function& function) {
    for (int64_t line = first_line_; line < end_line_; line += plan_.group_lines) {
      const int64_t end = std::min(line + plan_.group_lines, end_line_);
      const int64_t unit = line * rows_.block;
      const int64_t count = std::min(end * rows_.block, units_) - unit;
      for (const SequenceSegment& segment : plan_.segments) function({segment, step, line, end, unit, count});
    }
  }

  // Of an array [batch, units].
  void FetchState(const Group& group, const float* rows, float* tile) {
    Fetch(table_, group.segment, rows + group.segment.first_row * units_ + group.unit, units_, group.count, tile, 0);
  }

  void EmitState(const Group& group, float* state, float* rows) {
    Emit(table_, group.segment, FeatureAt(state, group.segment, units_, group.unit), 0, group.count,
         rows + group.segment.first_row * units_ + group.unit, units_);
  }

  // Of an array [batch, time, features], one step from a feature on.
  void FetchStep(const Group& group, int64_t step, const float* array, int64_t features, int64_t feature, float* tile) {
    Fetch(table_, group.segment, array + sequence_.Row(group.segment.first_row, step) * features + feature,
          sequence_.ExampleStride() * features, group.count, tile, 0);
  }

  void EmitStep(const Group& group, const float* tile, int64_t features, int64_t feature, float* array) {
    Emit(table_, group.segment, tile, 0, group.count,
         array + sequence_.Row(group.segment.first_row, group.step) * features + feature,
         sequence_.ExampleStride() * features);
  }

  void Step(int64_t step) {
    const bool masked = ReadMask(step);
    float* sums = shared_.sums[step % 2];
    ForGroups(step, [&](const Group& group) { StepGroup(group, masked, sums); });
    barrier_->Wait();
    if (sequence_.candidate != nullptr) {
      ForGroups(step, [&](const Group& group) { ResetGroup(group, masked, sums); });
      barrier_->Wait();
    }
    ForGroups(step, [&](const Group& group) {
      const SequenceSegment& segment = group.segment;
      recurrent_.Tile(*segment.recurrent, FeatureAt(sums, segment, gates_ * units_, 0), group.line, group.end,
                      product_);
      Add(product_, group, FeatureAt(shared_.dh, segment, units_, group.unit));
    });
  }

  static void Add(const float* tile, const Group& group, float* sum) {
    for (int64_t i = 0; i < group.count * group.segment.slots; ++i) sum[i] += tile[i];
  }

  // Which examples take part in the step, and which showed an output. Whether there are any that did not take part.
  bool ReadMask(int64_t step) {
    if (inputs_.mask == nullptr) return false;
    bool masked = false;
    for (const SequenceSegment& segment : plan_.segments) {
      for (int64_t r = 0; r < segment.rows; ++r) {
        const bool keep = Keeps(segment.first_row + r, step);
        bool show = keep;
        for (int64_t before = step - 1; !show && !sequence_.zero_output_for_mask && before >= 0; --before) {
          show = Keeps(segment.first_row + r, before);
        }
        keep_[segment.first_slot + r] = keep ? 1.0f : 0.0f;
        show_[segment.first_slot + r] = show ? 1.0f : 0.0f;
        masked = masked || !keep;
      }
    }
    return masked;
  }

  bool Keeps(int64_t example, int64_t step) const {
    return inputs_.mask[sequence_.Row(example, sequence_.Source(step))];
  }

  void StepGroup(const Group& group, bool masked, float* sums) {
    const SequenceSegment& segment = group.segment;
    CellGradJob job = Job(group, masked, sums);
    AddOutput(group);
    if (sequence_.cell == Cell::kLstm) {
      FetchStep(group, group.step, inputs_.cells, units_, group.unit, new_c_);
      if (group.step == 0) {
        FetchState(group, inputs_.c, c_);
      } else {
        FetchStep(group, group.step - 1, inputs_.cells, units_, group.unit, c_);
      }
    }
    job.part = sequence_.candidate != nullptr      ? CellPart::kGruOutput
               : sequence_.cell == Cell::kRnn      ? CellPart::kRnn
               : sequence_.cell == Cell::kLstm     ? CellPart::kLstm
                                                   : CellPart::kGru;
    table_.cell_grad(job);
    for (int64_t g = 0; g < gates_; ++g) {
      if (job.part == CellPart::kGruOutput && g == 1) continue;
      EmitStep(group, job.dsums + g * job.dsums_gate, gates_ * units_, g * units_ + group.unit, outputs_.dprojected);
    }
    if (job.part != CellPart::kGru) return;
    // The candidate's part of h U has a gradient of its own; what is multiplied by U^T is that.
    float* candidate = job.dsums + 2 * job.dsums_gate;
    std::copy_n(product_, group.count * segment.slots, candidate);
    for (int64_t g = 0; g < gates_; ++g) {
      EmitStep(group, job.dsums + g * job.dsums_gate, gates_ * units_, g * units_ + group.unit, outputs_.drecurrent);
    }
  }

  // The gradient of r h, by the candidate's product, and what the reset gate makes of it.
  void ResetGroup(const Group& group, bool masked, float* sums) {
    const SequenceSegment& segment = group.segment;
    CellGradJob job = Job(group, masked, sums);
    candidate_[0].Tile(*segment.candidate, FeatureAt(sums, segment, gates_ * units_, 2 * units_), group.line, group.end,
                       product_);
    job.part = CellPart::kGruReset;
    table_.cell_grad(job);
    EmitStep(group, job.dsums + job.dsums_gate, gates_ * units_, units_ + group.unit, outputs_.dprojected);
  }

  // With the saved tensors of the step.
  CellGradJob Job(const Group& group, bool masked, float* sums) {
    const SequenceSegment& segment = group.segment;
    const int64_t saved = sequence_.saved_gates();
    const int64_t gate_floats = group.count * segment.slots;
    for (int64_t g = 0; g < saved; ++g) {
      FetchStep(group, group.step, inputs_.gates, saved * units_, g * units_ + group.unit,
                gate_tiles_ + g * gate_floats);
    }
    if (sequence_.cell == Cell::kGru) FetchStep(group, group.step, inputs_.states, units_, group.unit, h_);
    CellGradJob job = {};
    job.activation = sequence_.activation;
    job.recurrent_activation = sequence_.recurrent_activation;
    job.outer = group.count;
    job.inner = segment.slots;
    job.gates = gate_tiles_;
    job.gates_gate = gate_floats;
    job.h = h_;
    job.new_c = new_c_;
    job.c = c_;
    job.keep = masked ? keep_ + segment.first_slot : nullptr;
    job.dsums = FeatureAt(sums, segment, gates_ * units_, group.unit);
    job.dsums_gate = units_ * segment.slots;
    job.dcandidate = product_;
    float* dh = FeatureAt(shared_.dh, segment, units_, group.unit);
    job.dh = job.dh_before = dh;
    if (shared_.dc != nullptr) job.dc = job.dc_before = FeatureAt(shared_.dc, segment, units_, group.unit);
    return job;
  }

  void AddOutput(const Group& group) {
    const SequenceSegment& segment = group.segment;
    if (sequence_.return_sequences) {
      FetchStep(group, group.step, inputs_.doutput, units_, group.unit, product_);
    } else if (group.step + 1 == sequence_.time) {
      FetchState(group, inputs_.doutput, product_);
    } else {
      return;
    }
    if (inputs_.mask != nullptr) {
      for (int64_t r = 0; r < segment.rows; ++r) {
        if (show_[segment.first_slot + r] != 0.0f) continue;
        for (int64_t u = 0; u < group.count; ++u) product_[u * segment.slots + r] = 0.0f;
      }
    }
    Add(product_, group, FeatureAt(shared_.dh, segment, units_, group.unit));
  }

  const SequenceGradPlan& plan_;
  const Sequence& sequence_;
  const KernelTable& table_;
  const SequenceGradInputs& inputs_;
  const SequenceGradOutputs& outputs_;
  const Shared& shared_;
  Barrier* barrier_;
  const int64_t units_;
  const int64_t gates_;
  const Axis& rows_;
  LineProduct recurrent_;
  std::vector<LineProduct> candidate_;  // none or one
  int64_t first_line_;
  int64_t end_line_;
  float* keep_;
  float* show_;
  float* gate_tiles_;
  float* h_;
  float* c_;
  float* new_c_;
  float* product_;
};

}  // namespace

SequenceGradPlan PlanSequenceGrad(const Sequence& sequence, int64_t threads) {
  SequenceGradPlan plan = {};
  plan.sequence = sequence;
  const BlockIndex& recurrent = *sequence.recurrent;
  const Axis& lines = recurrent.grid.rows;
  for (int64_t row = 0; row < sequence.batch;) {
    SequenceSegment segment = {};
    segment.recurrent = ChooseKernel(*sequence.table, Kind::kTransposedTile, lines.block, recurrent.grid.columns.block,
                                     sequence.batch - row);
    if (sequence.candidate != nullptr) {
      segment.candidate = KernelLike(*sequence.table, *segment.recurrent, lines.block, recurrent.grid.columns.block);
    }
    segment.tile = true;
    segment.slots = segment.recurrent->batch;
    segment.rows = std::min(segment.slots, sequence.batch - row);
    segment.first_row = row;
    segment.first_slot = plan.slots;
    plan.line_features = std::max(plan.line_features, LineFeatures(*segment.recurrent, lines));
    plan.slots += segment.slots;
    row += segment.rows;
    plan.segments.push_back(segment);
  }
  plan.members = SequenceMembers(sequence, plan.slots, threads);
  if (plan.segments.empty()) return plan;
  const int64_t line_floats = plan.line_features * MostSlots(plan.segments);
  plan.group_lines = std::min(std::max<int64_t>(kGroupFloats / line_floats, 1), lines.lines);
  plan.sum_floats = RoundUp(plan.slots * sequence.gates() * sequence.units(), 16);
  plan.state_floats = RoundUp(plan.slots * sequence.units(), 16);
  plan.list_floats = ListFloats(sequence.recurrent) + ListFloats(sequence.candidate);
  plan.member_floats = RoundUp((sequence.saved_gates() + 4) * plan.group_lines * line_floats + 2 * plan.slots, 16);
  const int64_t states = 1 + (sequence.cell == Cell::kLstm);
  plan.workspace_floats =
      2 * plan.sum_floats + states * plan.state_floats + plan.list_floats + plan.members * plan.member_floats;
  return plan;
}

void RunSequenceGrad(const SequenceGradPlan& plan, const SequenceGradInputs& inputs,
                     const SequenceGradOutputs& outputs, float* workspace, const RunTeam& run_team) {
  if (plan.segments.empty()) return;
  const Shared shared(plan, workspace);
  run_team(plan.members, [&](int64_t member, int64_t size, Barrier* barrier) {
    Member(plan, inputs, outputs, shared, member, size, barrier).Run();
  });
}

}  // namespace blocksparse
