#include "tf_blocksparse/custom_ops/cc/kernels/parallel.h"

#include <atomic>
#include <memory>
#include <thread>

namespace blocksparse {
namespace {

// Looks at the tasks of others before it lets another thread have the core: a few microseconds.
constexpr int kSpins = 2000;

// Outlives the call for the sake of threads that come late.
struct Tasks {
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  int64_t count = 0;
  const std::function<void(int64_t)>* task = nullptr;  // not to be touched but by who has taken one of the tasks

  void Take() {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      (*task)(i);
      done.fetch_add(1, std::memory_order_release);
    }
  }
};

}  // namespace

ParallelFor WithHelpers(const std::function<void(std::function<void()>)>& schedule) {
  return [schedule](int64_t n, const std::function<void(int64_t)>& task) {
    const auto tasks = std::make_shared<Tasks>();
    tasks->count = n;
    tasks->task = &task;
    // The first task is the caller's, so that one thread meets the same part of the weights every time.
    tasks->next.store(1, std::memory_order_relaxed);
    for (int64_t helper = 1; helper < n; ++helper) schedule([tasks] { tasks->Take(); });
    task(0);
    tasks->done.fetch_add(1, std::memory_order_release);
    tasks->Take();
    for (int spin = 0; tasks->done.load(std::memory_order_acquire) < n; ++spin) {
      if (spin >= kSpins) std::this_thread::yield();
    }
  };
}

}  // namespace blocksparse
