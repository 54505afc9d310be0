// Teams of threads: members meet at every barrier, and nobody waits for a thread that does not come.
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/cc/check.h"
#include "tf_blocksparse/custom_ops/cc/kernels/team.h"

namespace {

using blocksparse::Barrier;
using blocksparse::RunTeam;
using blocksparse::TeamOf;

constexpr int kSteps = 200;

// Threads that run whatever is scheduled, each at once; Join() waits for all of them.
class Pool {
 public:
  std::function<void(std::function<void()>)> Schedule() {
    return [this](std::function<void()> work) {
      const std::lock_guard<std::mutex> lock(mutex_);
      threads_.emplace_back(std::move(work));
    };
  }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

// Every member adds to a number of its own at each step, and after the barrier sees what the others have.
void Steps(const RunTeam& run_team, int64_t wanted, std::atomic<int64_t>* largest) {
  std::vector<int64_t> counts(wanted, 0);
  std::atomic<int64_t> ran{0};
  int64_t team = 0;
  run_team(wanted, [&](int64_t member, int64_t size, Barrier* barrier) {
    if (member == 0) team = size;
    ran.fetch_add(1);
    for (int step = 0; step < kSteps; ++step) {
      ++counts[member];
      barrier->Wait();
      for (int64_t other = 0; other < size; ++other) {
        CHECK_TRUE(counts[other] == step + 1, "member " + std::to_string(other) + " is at another step");
      }
      barrier->Wait();
    }
  });
  CHECK_TRUE(team >= 1 && team <= wanted, "a team of at most those wanted");
  CHECK_EQUAL(ran.load(), team);
  int64_t before = largest->load();
  while (before < team && !largest->compare_exchange_weak(before, team)) {
  }
}

void Together() {
  Pool pool;
  std::atomic<int64_t> largest{0};
  for (int run = 0; run < 50; ++run) Steps(TeamOf(pool.Schedule()), 2, &largest);
  pool.Join();
  // That of one core alone has no helper.
  if (std::thread::hardware_concurrency() > 1) CHECK_EQUAL(largest.load(), 2);
}

// A pool that is full never runs the helpers, or runs them when all is over.
void BusyPool() {
  std::vector<std::function<void()>> waiting;
  std::atomic<int64_t> largest{0};
  for (int run = 0; run < 20; ++run) {
    Steps(TeamOf([&](std::function<void()> work) { waiting.push_back(std::move(work)); }), 2, &largest);
  }
  CHECK_EQUAL(largest.load(), 1);
  for (const std::function<void()>& late : waiting) late();
}

void Concurrent() {
  Pool pool;
  std::atomic<int64_t> largest{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int run = 0; run < 25; ++run) Steps(TeamOf(pool.Schedule()), 3, &largest);
    });
  }
  for (std::thread& caller : callers) caller.join();
  pool.Join();
}

}  // namespace

int main() {
  Together();
  BusyPool();
  Concurrent();
  return blocksparse_test::Finish();
}
