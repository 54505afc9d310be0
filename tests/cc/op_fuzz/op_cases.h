// Calls of every op, drawn at random in a repeatable way: sound ones, as a file that is right has them, of which up to
// three things are then spoilt.
#ifndef TF_BLOCKSPARSE_TESTS_OP_CASES_H_
#define TF_BLOCKSPARSE_TESTS_OP_CASES_H_

#include <string>
#include <vector>

#include "tests/cc/op_fuzz/op_call.h"

namespace blocksparse_test {

// Names of all ops, without the prefix "BlockSparse>".
const std::vector<std::string>& AllOps();

OpCall DrawCall(const std::string& op, Random* random);

void Spoil(OpCall* call, Random* random);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_OP_CASES_H_
