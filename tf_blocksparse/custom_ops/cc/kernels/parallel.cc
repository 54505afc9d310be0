#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif

namespace blocksparse {
namespace {

// Looks at the tasks of others before it lets another thread have the core: a few microseconds.
constexpr int kSpins = 2000;

int64_t Processors() {
  static const int64_t count = std::max<int64_t>(std::thread::hardware_concurrency(), 1);
  return count;
}

// The processor that the calling thread runs on at the moment.
int64_t Processor() {
#if defined(__linux__)
  const int processor = sched_getcpu();
  return processor < 0 ? 0 : processor;
#else
  return 0;
#endif
}

// Outlives the call for the sake of threads that come late.
class Tasks {
 public:
  Tasks(int64_t count, const std::function<void(int64_t)>& task) : taken_(count), task_(task) {
    for (std::atomic<bool>& taken : taken_) taken.store(false, std::memory_order_relaxed);
  }

  // Does what nobody else does. Every processor has tasks of its own that it does first, the same in every call,
  // whichever thread runs on it: so it finds its part of the weights in its own cache. Then those of the others, from
  // their last ones on.
  void Take() {
    const int64_t count = static_cast<int64_t>(taken_.size());
    const int64_t processor = Processor() % Processors();
    const int64_t first = processor * count / Processors();
    const int64_t own = (processor + 1) * count / Processors() - first;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t task = i < own ? first + i : (first + own - 1 - i + count) % count;
      if (taken_[task].load(std::memory_order_relaxed) || taken_[task].exchange(true)) continue;
      task_(task);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  bool AreDone() const { return done_.load(std::memory_order_acquire) == static_cast<int64_t>(taken_.size()); }

 private:
  std::vector<std::atomic<bool>> taken_;
  std::atomic<int64_t> done_{0};
  const std::function<void(int64_t)>& task_;  // gone when all are done: not to be touched but by who has taken one
};

}  // namespace

ParallelFor WithHelpers(const std::function<void(std::function<void()>)>& schedule) {
  return [schedule](int64_t n, const std::function<void(int64_t)>& task) {
    const auto tasks = std::make_shared<Tasks>(n, task);
    for (int64_t helper = 1; helper < n; ++helper) schedule([tasks] { tasks->Take(); });
    tasks->Take();
    for (int spin = 0; !tasks->AreDone(); ++spin) {
      if (spin >= kSpins) std::this_thread::yield();
    }
  };
}

}  // namespace blocksparse
