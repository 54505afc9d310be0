#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "tf_blocksparse/custom_ops/cc/kernels/line_product.h"
#include "tf_blocksparse/custom_ops/cc/kernels/sequence_layout.h"

namespace blocksparse {
namespace {

// The parts of the workspace that all members share.
struct Shared {
  Shared(const SequencePlan& plan, float* workspace) {
    const auto take = [&](int64_t floats) { return std::exchange(workspace, workspace + floats); };
    const Sequence& sequence = plan.sequence;
    h[0] = take(plan.state_floats);
    h[1] = take(plan.state_floats);
    c = sequence.cell == Cell::kLstm ? take(plan.state_floats) : nullptr;
    reset = sequence.candidate != nullptr ? take(plan.state_floats) : nullptr;
    tiles[0] = take(plan.tile_floats);
    tiles[1] = take(plan.tile_floats);
    projected = take(plan.projected_floats);
    gates = take(plan.gate_floats);
    bias = take(RoundUp(sequence.gates() * sequence.units(), 16));
    lists = reinterpret_cast<int32_t*>(take(plan.list_floats));
    members = workspace;
  }

  float* h[2];
  float* c;
  float* reset;     // r h
  float* tiles[2];  // x of a chunk: [step][slots][in]
  float* projected;
  float* gates;
  float* bias;
  int32_t* lists;
  float* members;
};

class Member {
 public:
  Member(const SequencePlan& plan, const SequenceInputs& inputs, const SequenceOutputs& outputs, const Shared& shared,
         int64_t member, int64_t size, Barrier* barrier)
      : plan_(plan), sequence_(plan.sequence), table_(*plan.sequence.table), inputs_(inputs), outputs_(outputs),
        shared_(shared), barrier_(barrier), member_(member), size_(size), in_(sequence_.kernel->grid.rows.features),
        units_(sequence_.units()), gates_(sequence_.gates()), columns_(sequence_.recurrent->grid.columns) {
    const std::vector<int64_t> bounds = SplitUnits(sequence_, size);
    first_line_ = bounds[member];
    end_line_ = bounds[member + 1];
    first_unit_ = std::min(first_line_ * columns_.block, units_);
    own_units_ = std::min(end_line_ * columns_.block, units_) - first_unit_;
    room_ = (end_line_ - first_line_) * plan.line_features;
    projected_ = plan.by_rows ? shared.projected
                              : shared.projected + plan.chunk * plan.slots * gates_ * first_line_ * plan.line_features;
    gate_buffer_ = shared.gates + 3 * plan.slots * first_line_ * plan.line_features;
    float* own = shared.members + member * plan.member_floats;
    keep_ = std::exchange(own, own + plan.slots);
    show_ = std::exchange(own, own + plan.slots);
    sums_ = std::exchange(own, own + plan.sum_floats);
    saved_ = own;
    product_workspace_ = shared.members + (member + 1) * plan.member_floats - RoundUp(plan.product_floats, 16);
    LoadMatrices();
  }

  void Run() {
    Begin();
    int64_t chunk = 0;
    for (int64_t step = 0; step < sequence_.time; step += plan_.chunk, ++chunk) {
      const int64_t steps = std::min(plan_.chunk, sequence_.time - step);
      Project(step, steps, chunk % 2);
      if (step + steps < sequence_.time) Pack(step + steps, (chunk + 1) % 2);
      for (int64_t s = step; s < step + steps; ++s) Step(s, s - step, step, steps);
    }
    End();
  }

 private:
  void LoadMatrices() {
    int32_t* list = shared_.lists;
    const auto load = [&](const BlockIndex* index, const float* blocks, std::vector<LineProduct>* products) {
      if (index == nullptr) return;
      for (int64_t line = first_line_; line < index->line_axis().lines; line += columns_.gate_lines) {
        products->emplace_back(table_, *index, blocks);
        products->back().Load(line, line + end_line_ - first_line_, list + index->start[line]);
      }
      list += ListFloats(index);
    };
    if (end_line_ == first_line_ || sequence_.low_precision != nullptr) return;
    load(sequence_.kernel, inputs_.kernel.floats(), &kernel_);
    load(sequence_.recurrent, inputs_.recurrent.floats(), &recurrent_);
    load(sequence_.candidate, inputs_.candidate.floats(), &candidate_);
  }

  // The states, the biases, the first chunk of x.
  void Begin() {
    std::fill_n(keep_, plan_.slots, 1.0f);
    std::fill_n(show_, plan_.slots, inputs_.mask == nullptr ? 1.0f : 0.0f);
    for (const SequenceSegment& segment : plan_.segments) {
      FetchState(segment, inputs_.h, shared_.h[0]);
      if (shared_.c != nullptr) FetchState(segment, inputs_.c, shared_.c);
    }
    if (inputs_.bias != nullptr) AddBiases();
    Pack(0, 0);
    barrier_->Wait();
  }

  void FetchState(const SequenceSegment& segment, const float* rows, float* state) {
    Fetch(table_, segment, rows + segment.first_row * units_ + first_unit_, units_, own_units_,
          FeatureAt(state, segment, units_, first_unit_), units_);
  }

  void EmitState(const SequenceSegment& segment, float* state, float* rows) {
    Emit(table_, segment, FeatureAt(state, segment, units_, first_unit_), units_, own_units_,
         rows + segment.first_row * units_ + first_unit_, units_);
  }

  // One bias for both products, but for the candidate of a GRU, where the reset gate comes between.
  void AddBiases() {
    for (int64_t g = 0; g < gates_; ++g) {
      const bool both = inputs_.recurrent_bias != nullptr && g < 2;
      for (int64_t u = g * units_ + first_unit_; u < g * units_ + first_unit_ + own_units_; ++u) {
        shared_.bias[u] = inputs_.bias[u] + (both ? inputs_.recurrent_bias[u] : 0.0f);
      }
    }
  }

  // This member's share of the features of x in the chunk from `step` on.
  void Pack(int64_t step, int64_t buffer) {
    if (plan_.by_rows) return;
    const int64_t lanes = table_.lanes;
    const int64_t first = std::min(RoundUp(in_ * member_ / size_, lanes), in_);
    const int64_t end = member_ + 1 == size_ ? in_ : std::min(RoundUp(in_ * (member_ + 1) / size_, lanes), in_);
    const int64_t steps = std::min(plan_.chunk, sequence_.time - step);
    for (int64_t s = 0; s < steps; ++s) {
      for (const SequenceSegment& segment : plan_.segments) {
        if (!segment.tile) continue;
        const int64_t row = sequence_.Row(segment.first_row, sequence_.Source(step + s));
        Fetch(table_, segment, inputs_.x + row * in_ + first, sequence_.ExampleStride() * in_, end - first,
              FeatureAt(shared_.tiles[buffer] + s * plan_.slots * in_, segment, in_, first), in_);
      }
    }
  }

  // x W for this member's units in the steps from `step` on.
  void Project(int64_t step, int64_t steps, int64_t buffer) {
    if (own_units_ == 0) return;
    if (plan_.by_rows) return ProjectRows(step, steps);
    for (int64_t line = first_line_; line < end_line_; line += plan_.group_lines) {
      const int64_t end = std::min(line + plan_.group_lines, end_line_);
      for (int64_t s = 0; s < steps; ++s) {
        for (const SequenceSegment& segment : plan_.segments) {
          for (int64_t g = 0; g < gates_; ++g) {
            float* y = ProjectedTile(segment, s, g, line);
            ProjectGroup(segment, step + s, shared_.tiles[buffer] + s * plan_.slots * in_, g, line, end, y);
          }
        }
      }
    }
  }

  // Of a gate, from a line on: [step][segment][gate][units][slots], or [slots][units] at the end.
  float* ProjectedTile(const SequenceSegment& segment, int64_t s, int64_t gate, int64_t line) {
    return projected_ + s * plan_.slots * gates_ * room_ + segment.first_slot * gates_ * room_ +
           gate * segment.slots * room_ + (line - first_line_) * columns_.block * (segment.tile ? segment.slots : 1);
  }

  void ProjectGroup(const SequenceSegment& segment, int64_t step, float* tiles, int64_t g, int64_t line, int64_t end,
                    float* y) {
    const int64_t first = g * columns_.gate_lines + line;
    const int64_t last = g * columns_.gate_lines + end;
    if (segment.tile) {
      kernel_[g].Tile(*segment.kernel, FeatureAt(tiles, segment, in_, 0), first, last, y);
      return;
    }
    const int64_t row = sequence_.Row(segment.first_row, sequence_.Source(step));
    kernel_[g].Rows(*segment.kernel, inputs_.x + row * in_, sequence_.ExampleStride() * in_, segment.rows, first, last,
                    y, room_, sums_);
  }

  // All examples: rows that lie one after the other in x.
  void ProjectRows(int64_t step, int64_t steps) {
    const int64_t out = gates_ * units_;
    const int64_t first = FirstSource(step, steps);
    if (plan_.gather) {
      float* rows = product_workspace_;
      for (int64_t b = 0; b < sequence_.batch; ++b) {
        std::memcpy(rows + b * in_, inputs_.x + sequence_.Row(b, first) * in_, in_ * sizeof(float));
      }
      return MultiplyLow(plan_.low_product, inputs_.kernel, rows, projected_);
    }
    const int64_t runs = sequence_.time_major ? 1 : sequence_.batch;
    for (int64_t b = 0; b < runs; ++b) {
      const float* x = inputs_.x + sequence_.Row(b, first) * in_;
      float* y = projected_ + b * steps * out;
      if (sequence_.low_precision != nullptr) {
        MultiplyLow(steps == plan_.chunk ? plan_.low_product : plan_.low_rest, inputs_.kernel, x, y);
      } else {
        RunProductLines(steps == plan_.chunk ? plan_.product : plan_.rest, first_line_, end_line_, x,
                        inputs_.kernel.floats(), y, product_workspace_);
      }
    }
  }

  // This member's columns of a low-precision product; y has the columns of all members.
  void MultiplyLow(const LowPrecisionPlan& product, const SequenceBlocks& matrix, const float* x, float* y) {
    float* workspace = product_workspace_ + (plan_.gather ? RoundUp(sequence_.batch * in_, 16) : 0);
    RunLowPrecisionLines(product, {x, matrix.blocks, product.index->indices, matrix.scales, {}, y, workspace},
                         first_line_, end_line_);
  }

  int64_t FirstSource(int64_t step, int64_t steps) const {
    return sequence_.go_backwards ? sequence_.time - step - steps : step;
  }

  void Step(int64_t step, int64_t in_chunk, int64_t chunk_step, int64_t chunk_steps) {
    const bool masked = ReadMask(step);
    float* h = shared_.h[step % 2];
    float* new_h = shared_.h[(step + 1) % 2];
    const auto part = [&](CellPart cell_part) {
      for (int64_t line = first_line_; line < end_line_; line += plan_.group_lines) {
        const int64_t end = std::min(line + plan_.group_lines, end_line_);
        for (const SequenceSegment& segment : plan_.segments) {
          CellJob job = {};
          job.part = cell_part;
          job.keep = masked ? keep_ + segment.first_slot : nullptr;
          SetProjected(segment, step, in_chunk, chunk_step, chunk_steps, line, &job);
          StepGroup(segment, step, h, new_h, line, end, &job);
        }
      }
      barrier_->Wait();
    };
    if (sequence_.candidate != nullptr) {
      part(CellPart::kGruReset);
      part(CellPart::kGruOutput);
    } else {
      part(sequence_.cell == Cell::kRnn    ? CellPart::kRnn
           : sequence_.cell == Cell::kLstm ? CellPart::kLstm
                                           : CellPart::kGru);
    }
  }

  // Which examples take part in the step, and which show an output. Whether there are any that do not take part.
  bool ReadMask(int64_t step) {
    if (inputs_.mask == nullptr) return false;
    bool masked = false;
    for (const SequenceSegment& segment : plan_.segments) {
      for (int64_t r = 0; r < segment.rows; ++r) {
        const int64_t slot = segment.first_slot + r;
        const bool keep = inputs_.mask[sequence_.Row(segment.first_row + r, sequence_.Source(step))];
        keep_[slot] = keep ? 1.0f : 0.0f;
        masked = masked || !keep;
        if (keep) show_[slot] = 1.0f;
        if (!keep && sequence_.zero_output_for_mask) show_[slot] = 0.0f;
      }
    }
    return masked;
  }

  void SetProjected(const SequenceSegment& segment, int64_t step, int64_t in_chunk, int64_t chunk_step,
                    int64_t chunk_steps, int64_t line, CellJob* job) {
    if (!plan_.by_rows) {
      job->projected = ProjectedTile(segment, in_chunk, 0, line);
      job->projected_stride = segment.tile ? segment.slots : room_;
      job->projected_gate = segment.slots * room_;
      return;
    }
    const int64_t out = gates_ * units_;
    const int64_t source = sequence_.Source(step) - FirstSource(chunk_step, chunk_steps);
    const int64_t row = sequence_.time_major ? source * sequence_.batch + segment.first_row
                                             : segment.first_row * chunk_steps + source;
    job->projected = projected_ + row * out + line * columns_.block;
    job->projected_stride = (sequence_.time_major ? 1 : chunk_steps) * out;
    job->projected_gate = units_;
  }

  // The lines [line, end) of each gate: products with U, the cell, what is asked for of the step.
  void StepGroup(const SequenceSegment& segment, int64_t step, float* h, float* new_h, int64_t line, int64_t end,
                 CellJob* job) {
    const int64_t unit = line * columns_.block;
    const int64_t count = std::min(end * columns_.block, units_) - unit;
    const int64_t group_room = (end - line) * plan_.line_features;
    const bool second = job->part == CellPart::kGruOutput;
    job->tile = segment.tile;
    job->outer = segment.tile ? count : segment.rows;
    job->inner = segment.tile ? segment.slots : count;
    job->activation = sequence_.activation;
    job->recurrent_activation = sequence_.recurrent_activation;
    SetRecurrent(segment, unit, group_room, second ? 1 : sequence_.recurrent->grid.columns.gates, job);
    job->bias = inputs_.bias == nullptr ? nullptr : shared_.bias + unit;
    job->bias_gate = units_;
    job->candidate_bias = inputs_.recurrent_bias == nullptr ? nullptr : inputs_.recurrent_bias + 2 * units_ + unit;
    job->state_stride = RunStride(segment, units_);
    job->h = FeatureAt(h, segment, units_, unit);
    job->new_h = FeatureAt(job->part == CellPart::kGruReset ? shared_.reset : new_h, segment, units_, unit);
    if (shared_.c != nullptr) job->c = job->new_c = FeatureAt(shared_.c, segment, units_, unit);
    SetGates(segment, line, group_room, job);
    if (outputs_.states != nullptr && !second) {
      EmitStep(segment, step, job->h, job->state_stride, unit, count, 1, outputs_.states);
    }
    float* state = second ? shared_.reset : h;
    if (sequence_.low_precision != nullptr) {
      MultiplyLow(second ? plan_.low_candidate : plan_.low_recurrent, second ? inputs_.candidate : inputs_.recurrent,
                  state, sums_);
    } else {
      Multiply(segment, state, second ? candidate_ : recurrent_, second, line, end);
    }
    table_.cell(*job);
    if (job->part == CellPart::kGruReset) return;
    EmitOutputs(segment, step, *job, unit, count);
  }

  void SetRecurrent(const SequenceSegment& segment, int64_t unit, int64_t group_room, int64_t gates, CellJob* job) {
    if (sequence_.low_precision != nullptr) {
      job->recurrent = sums_ + unit;
      job->recurrent_stride = gates * units_;
      job->recurrent_gate = units_;
    } else {
      job->recurrent = sums_;
      job->recurrent_stride = segment.tile ? segment.slots : group_room;
      job->recurrent_gate = segment.slots * group_room;
    }
  }

  void SetGates(const SequenceSegment& segment, int64_t line, int64_t group_room, CellJob* job) {
    if (sequence_.candidate != nullptr) {  // they wait for the second part
      job->gates = gate_buffer_ + segment.first_slot * 3 * room_ +
                   (line - first_line_) * columns_.block * (segment.tile ? segment.slots : 1);
      job->gates_stride = segment.tile ? segment.slots : room_;
      job->gates_gate = segment.slots * room_;
    } else if (outputs_.gates != nullptr) {
      job->gates = saved_;
      job->gates_stride = segment.tile ? segment.slots : group_room;
      job->gates_gate = segment.slots * group_room;
    }
  }

  void Multiply(const SequenceSegment& segment, float* state, std::vector<LineProduct>& matrices, bool second,
                int64_t line, int64_t end) {
    const MicroKernel& kernel = second ? *segment.candidate : *segment.recurrent;
    const int64_t group_room = (end - line) * plan_.line_features;
    float* beside = sums_ + gates_ * plan_.group_lines * plan_.line_features * MostSlots(plan_.segments);
    for (size_t g = 0; g < matrices.size(); ++g) {
      float* y = sums_ + g * segment.slots * group_room;
      const int64_t first = static_cast<int64_t>(g) * columns_.gate_lines;
      const float* x = FeatureAt(state, segment, units_, 0);
      if (segment.tile) {
        matrices[g].Tile(kernel, x, first + line, first + end, y);
      } else {
        matrices[g].Rows(kernel, x, units_, segment.rows, first + line, first + end, y, group_room, beside);
      }
    }
  }

  void EmitOutputs(const SequenceSegment& segment, int64_t step, const CellJob& job, int64_t unit, int64_t count) {
    const bool last = step + 1 == sequence_.time;
    if (sequence_.return_sequences) {
      EmitStep(segment, step, job.new_h, job.state_stride, unit, count, 1, outputs_.output);
      Hide(segment, step, unit, count);
    } else if (last) {
      Emit(table_, segment, job.new_h, job.state_stride, count, outputs_.output + segment.first_row * units_ + unit,
           units_);
      Hide(segment, step, unit, count);
    }
    if (outputs_.gates != nullptr) {
      const int64_t saved = sequence_.saved_gates();
      for (int64_t g = 0; g < saved; ++g) {
        EmitStep(segment, step, job.gates + g * job.gates_gate, job.gates_stride, g * units_ + unit, count, saved,
                 outputs_.gates);
      }
    }
    if (outputs_.cells != nullptr) EmitStep(segment, step, job.new_c, job.state_stride, unit, count, 1, outputs_.cells);
  }

  // Into an array [batch, time, gates * units], from a feature on.
  void EmitStep(const SequenceSegment& segment, int64_t step, const float* from, int64_t run_stride, int64_t feature,
                int64_t count, int64_t gates, float* array) {
    const int64_t features = gates * units_;
    Emit(table_, segment, from, run_stride, count,
         array + sequence_.Row(segment.first_row, step) * features + feature, sequence_.ExampleStride() * features);
  }

  // Zeros where an example has no output yet, or none at a masked step.
  void Hide(const SequenceSegment& segment, int64_t step, int64_t unit, int64_t count) {
    if (inputs_.mask == nullptr) return;
    for (int64_t r = 0; r < segment.rows; ++r) {
      if (show_[segment.first_slot + r] != 0.0f) continue;
      const int64_t row = sequence_.return_sequences ? sequence_.Row(segment.first_row + r, step) : segment.first_row + r;
      std::fill_n(outputs_.output + row * units_ + unit, count, 0.0f);
    }
  }

  void End() {
    if (own_units_ == 0) return;
    for (const SequenceSegment& segment : plan_.segments) {
      EmitState(segment, shared_.h[sequence_.time % 2], outputs_.h);
      if (shared_.c != nullptr) EmitState(segment, shared_.c, outputs_.c);
    }
  }

  const SequencePlan& plan_;
  const Sequence& sequence_;
  const KernelTable& table_;
  const SequenceInputs& inputs_;
  const SequenceOutputs& outputs_;
  const Shared& shared_;
  Barrier* barrier_;
  const int64_t member_;
  const int64_t size_;
  const int64_t in_;
  const int64_t units_;
  const int64_t gates_;
  const Axis& columns_;  // of one gate: lines of units
  int64_t first_line_;
  int64_t end_line_;
  int64_t first_unit_;
  int64_t own_units_;
  int64_t room_;  // features of this member's lines, written in full
  float* projected_;
  float* gate_buffer_;
  float* keep_;
  float* show_;
  float* sums_;
  float* saved_;
  float* product_workspace_;
  std::vector<LineProduct> kernel_;  // by gate
  std::vector<LineProduct> recurrent_;
  std::vector<LineProduct> candidate_;
};

}  // namespace

void RunSequence(const SequencePlan& plan, const SequenceInputs& inputs, const SequenceOutputs& outputs,
                 float* workspace, const RunTeam& run_team) {
  const Sequence& sequence = plan.sequence;
  const int64_t states = sequence.batch * sequence.units();
  if (plan.segments.empty() || sequence.time == 0) {
    std::copy_n(inputs.h, states, outputs.h);
    if (sequence.cell == Cell::kLstm) std::copy_n(inputs.c, states, outputs.c);
    if (!sequence.return_sequences) std::fill_n(outputs.output, states, 0.0f);
    return;
  }
  const Shared shared(plan, workspace);
  run_team(plan.members, [&](int64_t member, int64_t size, Barrier* barrier) {
    Member(plan, inputs, outputs, shared, member, size, barrier).Run();
  });
}

}  // namespace blocksparse
