// Block-sparse matrices and vectors for tests, random in a repeatable way.
#ifndef TF_BLOCKSPARSE_TESTS_RANDOM_MATRIX_H_
#define TF_BLOCKSPARSE_TESTS_RANDOM_MATRIX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"
#include "tf_blocksparse/custom_ops/cc/kernels/reference.h"

namespace blocksparse_test {

// Integers from -4 to 4 as floats: all sums of the tests are exact, in every order, so results must be equal.
std::vector<float> RandomIntegers(int64_t size, uint32_t seed);

// Normal-ish floats.
std::vector<float> RandomFloats(int64_t size, uint32_t seed);

// `density` of the blocks kept, a negative one: exactly one block. The elements of edge blocks that lie outside of
// the matrix are NaN.
blocksparse::BsrMatrix RandomMatrix(int64_t in, int64_t out, int64_t gates, int64_t height, int64_t width,
                                    double density, uint32_t seed, bool integers = true,
                                    blocksparse::Order order = blocksparse::Order::kRow);

// Where the blocks lie: anywhere; about the diagonal; in no more than every other block row and two of three block
// columns; nearly all in the middle block row, or in the middle block column.
enum class Pattern { kRandom, kBanded, kEmptyLines, kHeavyRow, kHeavyColumn };

// As RandomMatrix, in that pattern; `density` is that of the lines or of the band that hold blocks.
blocksparse::BsrMatrix PatternMatrix(Pattern pattern, int64_t in, int64_t out, int64_t gates, int64_t height,
                                     int64_t width, double density, uint32_t seed, bool integers = true,
                                     blocksparse::Order order = blocksparse::Order::kRow);

// Runs every task on its own thread.
void ThreadedFor(int64_t n, const std::function<void(int64_t)>& task);

// Index of the first element that differs by more than `tolerance`; -1 if none. NaN equals NaN alone.
int64_t FirstDifference(const std::vector<float>& got, const std::vector<double>& expected, double tolerance);

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_RANDOM_MATRIX_H_
