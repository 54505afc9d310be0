#include "tf_blocksparse/custom_ops/cc/kernels/team.h"

#include <chrono>
#include <memory>
#include <thread>

namespace blocksparse {
namespace {

// Looks before a waiting thread lets another have the core: some 10 us, longer than members differ on a quiet machine.
constexpr int kSpins = 4000;
// A thread of the pool that sleeps takes 5 to 100 us to wake.
constexpr std::chrono::microseconds kJoinTime(200);

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <typename Condition>
void SpinUntil(const Condition& condition) {
  for (int spin = 0; !condition(); ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Threads that are members of a team anywhere in the process, or wanted as such: more of them than cores would wait for
// each other's turn.
std::atomic<int64_t> members_running{0};

// Of the `wanted` members those that find a core; the caller has its own. They count until given back.
int64_t TakeCores(int64_t wanted) {
  static const int64_t cores = std::thread::hardware_concurrency();
  const int64_t before = members_running.fetch_add(wanted, std::memory_order_relaxed);
  const int64_t free = cores - before > 1 ? cores - before : 1;
  if (wanted <= free) return wanted;
  members_running.fetch_sub(wanted - free, std::memory_order_relaxed);
  return free;
}

void GiveBackCores(int64_t taken) { members_running.fetch_sub(taken, std::memory_order_relaxed); }

// Outlives the call for the sake of threads that come late.
class Recruits {
 public:
  explicit Recruits(int64_t wanted) : wanted_(wanted) {}

  // For a helper: its number, or 0 if the team is closed.
  int64_t Join() {
    int64_t size = size_.load(std::memory_order_relaxed);
    do {
      if (size < 0 || size >= wanted_) return 0;
    } while (!size_.compare_exchange_weak(size, size + 1, std::memory_order_acq_rel));
    return size;
  }

  // For the caller: closes the team, returns how many there are.
  int64_t Close() {
    const auto deadline = std::chrono::steady_clock::now() + kJoinTime;
    while (size_.load(std::memory_order_relaxed) < wanted_ && std::chrono::steady_clock::now() < deadline) Pause();
    return size_.exchange(-1, std::memory_order_acq_rel);
  }

  void Start(int64_t size, const TeamTask* task, Barrier* barrier) {
    team_size_ = size;
    task_ = task;
    barrier_ = barrier;
    started_.store(true, std::memory_order_release);
  }

  void Help() {
    const int64_t member = Join();
    if (member == 0) return;
    SpinUntil([this] { return started_.load(std::memory_order_acquire); });
    (*task_)(member, team_size_, barrier_);
    done_.fetch_add(1, std::memory_order_release);
  }

  void WaitForHelpers() {
    SpinUntil([this] { return done_.load(std::memory_order_acquire) == team_size_ - 1; });
  }

 private:
  const int64_t wanted_;
  std::atomic<int64_t> size_{1};  // with the caller; -1: closed
  std::atomic<bool> started_{false};
  std::atomic<int64_t> done_{0};
  int64_t team_size_ = 0;
  const TeamTask* task_ = nullptr;
  Barrier* barrier_ = nullptr;
};

}  // namespace

void Barrier::Wait() {
  if (members_ == 1) return;
  const int64_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  SpinUntil([&] { return generation_.load(std::memory_order_acquire) != generation; });
}

RunTeam TeamOf(const std::function<void(std::function<void()>)>& schedule) {
  return [schedule](int64_t wanted, const TeamTask& task) {
    const int64_t most = TakeCores(wanted);
    int64_t size = 1;
    std::shared_ptr<Recruits> recruits;
    if (most > 1) {
      recruits = std::make_shared<Recruits>(most);
      for (int64_t helper = 1; helper < most; ++helper) schedule([recruits] { recruits->Help(); });
      size = recruits->Close();
    }
    GiveBackCores(most - size);
    Barrier barrier(size);
    if (size > 1) recruits->Start(size, &task, &barrier);
    task(0, size, &barrier);
    if (size > 1) recruits->WaitForHelpers();
    GiveBackCores(size);
  };
}

}  // namespace blocksparse
