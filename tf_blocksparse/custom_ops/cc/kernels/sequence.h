// A recurrent layer over a whole sequence, and back through time.
//
// Each thread owns some units with all their gates: their columns of the input's matrix W and of the recurrent matrix U,
// which stay in that core's caches from step to step. So the threads meet once a step, when the new state is complete.
// The products with W of some steps are made together, before those steps.
#ifndef TF_BLOCKSPARSE_KERNELS_SEQUENCE_H_
#define TF_BLOCKSPARSE_KERNELS_SEQUENCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/block_index.h"
#include "tf_blocksparse/custom_ops/cc/kernels/low_precision.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"
#include "tf_blocksparse/custom_ops/cc/kernels/team.h"

namespace blocksparse {

enum class Cell { kRnn, kGru, kLstm };

inline int64_t GatesOf(Cell cell) { return cell == Cell::kRnn ? 1 : cell == Cell::kGru ? 3 : 4; }

// A GRU with a candidate matrix resets before that product.
struct Sequence {
  const KernelTable* table;
  Cell cell;
  Activation activation;
  Activation recurrent_activation;
  const BlockIndex* kernel;     // W [in, gates * units]; not needed backwards
  const BlockIndex* recurrent;  // U [units, gates * units], or [units, 2 * units] beside a candidate
  const BlockIndex* candidate;  // [units, units], or null
  int64_t batch;
  int64_t time;
  bool time_major;  // arrays with time are [time, batch, ...], else [batch, time, ...]
  bool go_backwards;
  bool return_sequences;
  bool zero_output_for_mask;
  // Null: the blocks are float32. Else they and what they are multiplied by are of these types, forward only, and the
  // indices are ColumnIndex.
  const LowPrecisionTables* low_precision;
  BlockType block_type;
  XType x_type;

  int64_t units() const { return recurrent->grid.rows.features; }
  int64_t gates() const { return GatesOf(cell); }
  // Of what the gradient needs of each step.
  int64_t saved_gates() const { return cell == Cell::kGru && candidate == nullptr ? 4 : gates(); }
  // Where a step of an example is in arrays with time, in rows.
  int64_t Row(int64_t example, int64_t step) const {
    return time_major ? step * batch + example : example * time + step;
  }
  int64_t ExampleStride() const { return time_major ? 1 : time; }
  // The place in x and in the mask of the step-th step that is done.
  int64_t Source(int64_t step) const { return go_backwards ? time - 1 - step : step; }
};

// Empty, or why the matrices do not fit together.
std::string CheckSequence(const Sequence& sequence);

// A matrix: floats, or what low_precision.h says with the scales of its columns for int8.
struct SequenceBlocks {
  const void* blocks;
  const float* scales;

  const float* floats() const { return static_cast<const float*>(blocks); }
};

struct SequenceInputs {
  const float* x;  // [batch, time, in]
  const float* h;  // [batch, units]
  const float* c;  // [batch, units], kLstm
  SequenceBlocks kernel;
  SequenceBlocks recurrent;
  SequenceBlocks candidate;
  const float* bias;            // [gates * units], or null
  const float* recurrent_bias;  // [gates * units], or null: kGru without candidate
  const bool* mask;             // [batch, time], or null
};

struct SequenceOutputs {
  float* output;  // [batch, time, units], or [batch, units] if not return_sequences
  float* h;       // [batch, units], after the last step
  float* c;
  // For the gradient, or null; steps in the order in which they are done.
  float* gates;   // [batch, time, saved_gates * units]
  float* states;  // [batch, time, units], before the step
  float* cells;   // [batch, time, units], c after the step
};

// Examples that are done together: a tile of them, or some rows. Arrays of the workspace hold one segment after the other.
struct SequenceSegment {
  const MicroKernel* kernel;  // for W; not used where plans multiply whole chunks of rows
  const MicroKernel* recurrent;
  const MicroKernel* candidate;
  int64_t first_row;
  int64_t rows;
  int64_t first_slot;
  int64_t slots;  // examples that there is room for
  bool tile;
};

struct SequencePlan {
  Sequence sequence;
  int64_t members;  // threads wanted
  std::vector<SequenceSegment> segments;
  int64_t slots;
  int64_t chunk;         // steps whose products with W are made together
  bool by_rows;          // no tile among the segments: these products are then plans of their own
  ProductPlan product;   // of chunk steps, and of the last ones
  ProductPlan rest;
  // The same of low-precision matrices, and the products of a step.
  bool gather;  // x of a step is copied to rows that lie side by side
  LowPrecisionPlan low_product;
  LowPrecisionPlan low_rest;
  LowPrecisionPlan low_recurrent;
  LowPrecisionPlan low_candidate;
  int64_t group_lines;   // lines of each gate that are done together
  int64_t line_features; // room for a line
  // Parts of the workspace, in floats.
  int64_t state_floats;
  int64_t tile_floats;  // of x, a chunk
  int64_t projected_floats;
  int64_t list_floats;
  int64_t gate_floats;    // kGru with candidate: gates between the two parts of a step
  int64_t sum_floats;     // of each thread: sums of the gates of a group of lines
  int64_t product_floats;  // of each thread: workspace of the products
  int64_t member_floats;  // of each thread
  int64_t workspace_floats;
};

SequencePlan PlanSequence(const Sequence& sequence, int64_t threads);

void RunSequence(const SequencePlan& plan, const SequenceInputs& inputs, const SequenceOutputs& outputs,
                 float* workspace, const RunTeam& run_team);

// Bounds of the units' lines of `parts` threads: about equal numbers of blocks of all matrices. Lines of each gate.
std::vector<int64_t> SplitUnits(const Sequence& sequence, int64_t parts);

// Threads that pay for a sequence of so many examples, those that fill up tiles included.
int64_t SequenceMembers(const Sequence& sequence, int64_t slots, int64_t threads);

struct SequenceGradInputs {
  const float* doutput;  // of output, by the order of the steps
  const float* dh;       // of h after the last step
  const float* dc;
  const float* gates;
  const float* states;  // kGru
  const float* cells;   // kLstm
  const float* c;       // kLstm: before the first step
  const float* recurrent_blocks;
  const float* candidate_blocks;
  const bool* mask;
};

struct SequenceGradOutputs {
  float* dprojected;  // [batch, time, gates * units], of x W + b; 0 where a mask skips the step
  float* drecurrent;  // kGru without candidate: of h U + b'
  float* dh;          // [batch, units], before the first step
  float* dc;
};

// The indices of U and of the candidate are by row here; `kernel` is not used.
struct SequenceGradPlan {
  Sequence sequence;
  int64_t members;
  std::vector<SequenceSegment> segments;
  int64_t slots;
  int64_t group_lines;
  int64_t line_features;
  int64_t sum_floats;
  int64_t state_floats;
  int64_t list_floats;
  int64_t member_floats;
  int64_t workspace_floats;
};

SequenceGradPlan PlanSequenceGrad(const Sequence& sequence, int64_t threads);

void RunSequenceGrad(const SequenceGradPlan& plan, const SequenceGradInputs& inputs, const SequenceGradOutputs& outputs,
                     float* workspace, const RunTeam& run_team);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_SEQUENCE_H_
