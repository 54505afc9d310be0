// A part of a long run of cases, for builds in which each takes many times as long.
#ifndef TF_BLOCKSPARSE_TESTS_SAMPLE_H_
#define TF_BLOCKSPARSE_TESTS_SAMPLE_H_

#include <cstdint>
#include <cstdlib>
#include <string>

namespace blocksparse_test {

// Takes all cases; where the environment variable TF_BLOCKSPARSE_TEST_EVERY is n, every n-th case, starting with one
// that depends on the name of the run, so that runs side by side do not all take the same ones.
class Sample {
 public:
  explicit Sample(const std::string& run) {
    const char* given = std::getenv("TF_BLOCKSPARSE_TEST_EVERY");
    every_ = given == nullptr ? 1 : std::strtoull(given, nullptr, 10);
    if (every_ == 0) every_ = 1;
    for (const char c : run) next_ = next_ * 31 + static_cast<unsigned char>(c);
  }

  bool Takes() { return next_++ % every_ == 0; }
  bool all() const { return every_ == 1; }

 private:
  uint64_t every_ = 1;
  uint64_t next_ = 0;
};

}  // namespace blocksparse_test

#endif  // TF_BLOCKSPARSE_TESTS_SAMPLE_H_
