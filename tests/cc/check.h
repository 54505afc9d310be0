// The few checks that the C++ tests need. A failed check prints where and what, and the test goes on; Finish() is
// what main returns.
#ifndef TF_BLOCKSPARSE_TESTS_CHECK_H_
#define TF_BLOCKSPARSE_TESTS_CHECK_H_

#include <atomic>
#include <cstdio>
#include <string>

namespace blocksparse_test {

inline std::atomic<int> checks{0};  // threads check, too
inline std::atomic<int> failures{0};

inline void Fail(const char* file, int line, const std::string& what) {
  if (++failures <= 20) std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

inline int Finish() {
  std::printf("%d checks, %d failed\n", checks.load(), failures.load());
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace blocksparse_test

// `what` is put together only when the check fails: some tests make millions of checks.
#define CHECK_TRUE(condition, what)                                              \
  do {                                                                           \
    ++::blocksparse_test::checks;                                                \
    if (!(condition)) ::blocksparse_test::Fail(__FILE__, __LINE__, (what));      \
  } while (false)
#define CHECK_CONTAINS(text, part)                                 \
  CHECK_TRUE(std::string(text).find(part) != std::string::npos,    \
             "expected \"" + std::string(part) + "\" in \"" + std::string(text) + "\"")
#define CHECK_EQUAL(a, b) \
  CHECK_TRUE((a) == (b), std::string(#a " is not " #b ": ") + std::to_string(a) + ", " + std::to_string(b))

#endif  // TF_BLOCKSPARSE_TESTS_CHECK_H_
