// Threads that run at the same time and wait for each other at every step of a sequence.
#ifndef TF_BLOCKSPARSE_KERNELS_TEAM_H_
#define TF_BLOCKSPARSE_KERNELS_TEAM_H_

#include <atomic>
#include <cstdint>
#include <functional>

namespace blocksparse {

// Where the members of a team meet. What one wrote before Wait() the others see after it.
class Barrier {
 public:
  explicit Barrier(int64_t members) : members_(members) {}
  void Wait();

 private:
  const int64_t members_;
  std::atomic<int64_t> arrived_{0};
  std::atomic<int64_t> generation_{0};
};

// Runs member(i, size, barrier) for all i < size at the same time, and returns when all have returned. `size` is at most
// `wanted`, and may be one.
using TeamTask = std::function<void(int64_t member, int64_t size, Barrier* barrier)>;
using RunTeam = std::function<void(int64_t wanted, const TeamTask& task)>;

// Teams of the caller and of threads that `schedule` finds. Only threads that already run can become members, and they
// are waited for no longer than it takes a sleeping thread to wake: a pool that is busy makes a small team, never one
// that waits for a member that does not come. What is scheduled later finds the team closed and returns at once.
RunTeam TeamOf(const std::function<void(std::function<void()>)>& schedule);

}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_KERNELS_TEAM_H_
