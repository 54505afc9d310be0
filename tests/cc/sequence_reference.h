// Recurrent layers over a sequence in plain loops of double: the oracle of the kernels.
#ifndef TF_BLOCKSPARSE_TESTS_SEQUENCE_REFERENCE_H_
#define TF_BLOCKSPARSE_TESTS_SEQUENCE_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/sequence.h"

namespace blocksparse_test {

// All arrays are [batch, time, ...], whatever the order of the kernels' own.
struct SequenceValues {
  std::vector<double> projected;   // [batch, time, gates * units]: x W + b, by the order of x
  std::vector<double> addend;      // [batch, time, gates * units]: to h U, by the order of the steps
  std::vector<double> recurrent;   // U, dense
  std::vector<double> candidate;   // dense, or empty
  std::vector<double> h;           // [batch, units]
  std::vector<double> c;
  std::vector<char> mask;          // [batch, time], or empty
};

struct SequenceResults {
  std::vector<double> output;  // [batch, time, units]
  std::vector<double> h;
  std::vector<double> c;
  std::vector<double> gates;   // [batch, time, saved_gates * units]
  std::vector<double> states;
  std::vector<double> cells;
};

SequenceResults ReferenceSequence(const blocksparse::Sequence& sequence, const SequenceValues& values);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_SEQUENCE_REFERENCE_H_
