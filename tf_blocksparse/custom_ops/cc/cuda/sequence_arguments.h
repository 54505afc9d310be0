// What the host tells the CUDA kernels of recurrent layers. As arguments.h.
#ifndef TF_BLOCKSPARSE_CUDA_SEQUENCE_ARGUMENTS_H_
#define TF_BLOCKSPARSE_CUDA_SEQUENCE_ARGUMENTS_H_

namespace blocksparse {
namespace cuda {

// What of a cell is done between two products: the values of the CPU kernels' CellPart.
enum CellParts { kRnnPart, kLstmPart, kGruPart, kGruResetPart, kGruOutputPart };

// Of an example at a step, from its mask.
constexpr unsigned char kKeeps = 1;  // it takes part
constexpr unsigned char kShows = 2;  // it has an output

// flags[step, example], from mask[example * example_stride + source of the step * step_stride].
struct MaskArgs {
  const unsigned char* mask;
  unsigned char* flags;
  long long example_stride;
  long long step_stride;
  int batch;
  int time;
  int go_backwards;
  int zero_output_for_mask;
};

// A step. Arrays with time are at that step: an example is `..._stride` floats behind the one before.
struct CellArgs {
  const float* projected;       // [batch, gates * units] of x W
  long long projected_stride;
  const float* recurrent;       // [batch, ... * units] of h U; of kGruOutputPart [batch, units], of (r h) U_c
  const float* bias;            // [gates * units], of the sums, or null
  const float* recurrent_bias;  // [gates * units] or null: of kGruPart
  const float* h;               // [batch, units]
  float* new_h;                 // [batch, units]; of kGruResetPart r h
  float* c;                     // [batch, units]: kLstmPart, in and out
  float* update;                // [batch, units], of kGruResetPart for kGruOutputPart
  const unsigned char* flags;   // [batch] or null
  float* output;                // or null
  long long output_stride;
  float* gates;                 // for the gradient, or null: [saved gates * units]
  long long gates_stride;
  float* states;                // or null: h
  float* cells;                 // or null: c after the step
  long long states_stride;      // of both
  int part;
  int activation;
  int recurrent_activation;
  int batch;
  int units;
};

// A step backwards.
struct CellGradArgs {
  const float* doutput;         // or null: of this step's output
  long long doutput_stride;
  const float* gates;           // as saved
  long long gates_stride;
  const float* states;          // kGru: h before the step
  const float* cells;           // kLstm: c after the step
  const float* cells_before;    // and before it
  long long states_stride;      // of states and cells
  long long before_stride;      // of cells_before
  const unsigned char* flags;   // [batch] or null
  float* dh;                    // [batch, units]: in, of the new state but for `product`; out, of the one before
  float* dc;                    // kLstm
  const float* product;         // [batch, units], to be added to dh, or null; of kGruResetPart the gradient of r h
  float* dprojected;            // [gates * units]
  float* drecurrent;            // or null: kGruPart
  long long dprojected_stride;  // of both
  float* sums;                  // [batch, sum_features]: what is multiplied by U^T
  float* candidate_sums;        // [batch, units]: kGruOutputPart, what is multiplied by U_c^T
  int sum_features;
  int part;
  int activation;
  int recurrent_activation;
  int batch;
  int units;
};

// to = from + added, or from; zeros where `from` is null.
struct AddArgs {
  const float* from;
  const float* added;
  float* to;
  long long count;
};

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_SEQUENCE_ARGUMENTS_H_
