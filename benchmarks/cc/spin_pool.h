// Threads that spin between tasks, so that waking them costs next to nothing: the kernels' own speed on several
// threads, without a thread pool's.
#ifndef TF_BLOCKSPARSE_BENCHMARKS_SPIN_POOL_H_
#define TF_BLOCKSPARSE_BENCHMARKS_SPIN_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

class SpinPool {
 public:
  // `threads` counts the caller's.
  explicit SpinPool(int threads) {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this, i] { Work(i); });
  }
  SpinPool(const SpinPool&) = delete;
  ~SpinPool() {
    quit_ = true;
    round_.fetch_add(1, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
  }

  // Calls task(0) .. task(n - 1), spread over the threads, and returns when all are done.
  void Run(int64_t n, const std::function<void(int64_t)>& task) {
    if (n <= 1 || threads_.empty()) {
      for (int64_t i = 0; i < n; ++i) task(i);
      return;
    }
    task_ = &task;
    tasks_ = n;
    working_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    Share(0);
    while (working_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  void Share(int64_t first) {
    for (int64_t i = first; i < tasks_; i += static_cast<int64_t>(threads_.size()) + 1) (*task_)(i);
  }

  void Work(int64_t thread) {
    for (int64_t seen = 0;; ++seen) {
      while (round_.load(std::memory_order_acquire) == seen) std::this_thread::yield();
      if (quit_) return;
      Share(thread);
      working_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::atomic<int64_t> round_{0};
  std::atomic<int> working_{0};
  std::atomic<bool> quit_{false};
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t tasks_ = 0;
};

#endif  // TF_BLOCKSPARSE_BENCHMARKS_SPIN_POOL_H_
