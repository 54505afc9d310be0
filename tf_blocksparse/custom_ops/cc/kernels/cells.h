// What a recurrent cell does between two products, element by element.
//
// This header is included by sources that are compiled with instruction set flags: it declares data only.
#ifndef TF_BLOCKSPARSE_KERNELS_CELLS_H_
#define TF_BLOCKSPARSE_KERNELS_CELLS_H_

#include <cstdint>

namespace blocksparse {

enum class Activation { kLinear, kRelu, kTanh, kSigmoid };

// Cells, by what they compute from the sums z of their gates, in Keras's order:
//   kRnn         h' = act(z)
//   kLstm        c' = f c + i g, h' = o act(c'), with i, f, o = rec(z_0), rec(z_1), rec(z_3) and g = act(z_2)
//   kGru         h' = u h + (1 - u) act(x W_c + b + r (h U_c + b')), with u, r = rec(z_0), rec(z_1)
// A GRU that resets before the product is done in two parts, as the product needs all of r h:
//   kGruReset    u, r = rec(z_0), rec(z_1), h' = r h
//   kGruOutput   h' = u h + (1 - u) act(z_2)
enum class CellPart { kRnn, kLstm, kGru, kGruReset, kGruOutput };

// `outer` runs of `inner` consecutive elements: for each example its units, row-major; or, in a tile, for each unit its
// examples. Strides are from run to run. Gates lie `..._gate` floats apart.
struct CellJob {
  CellPart part;
  Activation activation;
  Activation recurrent_activation;
  int64_t outer;
  int64_t inner;
  bool tile;
  const float* projected;  // x W
  int64_t projected_stride;
  int64_t projected_gate;
  const float* recurrent;  // h U; gate 0 is that of the first gate of the part, for kGruOutput the candidate's
  int64_t recurrent_stride;
  int64_t recurrent_gate;
  const float* bias;  // by unit, of the sums, or null
  int64_t bias_gate;
  const float* candidate_bias;  // kGru: b', or null
  const float* h;
  float* new_h;
  const float* c;  // kLstm
  float* new_c;
  int64_t state_stride;  // of h and c
  const float* keep;     // by example: 0 where the state stays. Null: nowhere
  // What the gradient needs, or null: the gates' activations; for kGru h U_c + b' too. kGruOutput reads gate 0.
  float* gates;
  int64_t gates_stride;
  int64_t gates_gate;
};

// The step backwards, in tiles: `outer` units of `inner` examples, all arrays [unit][example]. In: gates as saved, dh the
// gradient of the new state. Out: the gradients of the sums, and what goes to the state before, not through products.
struct CellGradJob {
  CellPart part;
  Activation activation;
  Activation recurrent_activation;
  int64_t outer;
  int64_t inner;
  const float* gates;
  int64_t gates_gate;
  const float* h;      // before the step
  const float* new_c;  // kLstm: after the step
  const float* c;      // before the step
  const float* dh;
  const float* dc;
  const float* keep;
  float* dsums;  // of x W + b (and of h U, but for the candidate of kGru)
  int64_t dsums_gate;
  float* dcandidate;  // kGru: of h U_c + b'. kGruReset: in, the gradient of r h
  float* dh_before;   // kGruReset adds to it
  float* dc_before;
};

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_CELLS_H_
