// What a CUDA kernel asks of a device, on the CPU, for tests: the same sources, compiled as C++.
//
// A thread block is run at a time. Its threads are fibers, each of which runs to its next barrier before the next one
// gets its turn, in an order that the test chooses: what a missing barrier lets through differs from order to order.
// With BLOCKSPARSE_EMULATE_WITH_THREADS they are threads of the system, slower by far, in which ThreadSanitizer sees
// every access to shared memory that no barrier orders.
//
// Shared memory is filled with NaN before each thread block and is exactly as large as the kernel says, so that
// AddressSanitizer sees the first byte too many. That a barrier is not reached by all threads is an error here.
#ifndef TF_BLOCKSPARSE_TESTS_CUDA_EMULATOR_H_
#define TF_BLOCKSPARSE_TESTS_CUDA_EMULATOR_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#ifdef BLOCKSPARSE_EMULATE_WITH_THREADS
#include <pthread.h>

#include <set>
#include <string>
#include <thread>
#include <utility>
#else
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace cuda_emulator {

constexpr size_t kMaxSharedBytes = 48 << 10;  // what a kernel gets without asking for more

// The order in which the threads of a block get their turns.
enum class Order { kForward, kReverse, kShuffled };

[[noreturn]] inline void Fail(const char* what) {
  std::fprintf(stderr, "cuda emulator: %s\n", what);
  std::abort();
}

struct Index {
  int x = 0;
};

// What the 32 threads of a warp show each other.
struct Exchange {
  unsigned a[32][4];
  unsigned b[32][2];
};

// The thread block that runs.
struct Block {
  Index block;
  std::vector<Exchange> warps;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_bytes = 0;
};

#ifdef BLOCKSPARSE_EMULATE_WITH_THREADS

inline thread_local Block* current_block = nullptr;
inline thread_local Index current_thread;
inline pthread_barrier_t* block_barrier = nullptr;
inline pthread_barrier_t* warp_barriers = nullptr;

inline Block& CurrentBlock() { return *current_block; }
inline Index CurrentThread() { return current_thread; }
inline void BlockBarrier() { pthread_barrier_wait(block_barrier); }
inline void WarpBarrier() { pthread_barrier_wait(&warp_barriers[current_thread.x / 32]); }

// A call of __syncthreads() in a source.
using Site = std::pair<std::string, int>;

// Those that were reached, and one that is left out, to see whether that is noticed.
inline std::set<Site> reached;
inline Site left_out;

inline void BlockBarrierAt(const char* file, int line) {
  if (line == left_out.second && left_out.first == file) return;
  if (current_thread.x == 0) reached.insert({file, line});
  BlockBarrier();
}

// One launch at a time in a process.
inline void Launch(const std::function<void()>& kernel, int64_t grid, int threads, Order) {
  for (int64_t b = 0; b < grid; ++b) {
    Block block;
    block.block.x = static_cast<int>(b);
    block.warps.resize((threads + 31) / 32);
    block.shared.reset(new unsigned char[kMaxSharedBytes]);
    std::memset(block.shared.get(), 0xff, kMaxSharedBytes);
    std::vector<pthread_barrier_t> barriers(block.warps.size() + 1);
    pthread_barrier_init(&barriers[0], nullptr, threads);
    for (size_t w = 0; w < block.warps.size(); ++w) {
      pthread_barrier_init(&barriers[w + 1], nullptr, std::min<int>(32, threads - 32 * static_cast<int>(w)));
    }
    block_barrier = &barriers[0];
    warp_barriers = &barriers[1];
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t) {
      running.emplace_back([&block, &kernel, t] {
        current_block = &block;
        current_thread.x = t;
        kernel();
      });
    }
    for (std::thread& thread : running) thread.join();
    for (pthread_barrier_t& barrier : barriers) pthread_barrier_destroy(&barrier);
  }
}

inline void* SharedMemory(size_t bytes) {
  if (bytes > kMaxSharedBytes) Fail("more shared memory than a kernel gets");
  return CurrentBlock().shared.get();
}

#else

enum class State { kRunning, kAtBlockBarrier, kAtWarpBarrier, kDone };

// The stack below a fiber's frames is its own; switching is a matter of a few registers, where ucontext.h's way, two
// calls of the system, would take most of the time of a test.
struct Fiber {
  State state = State::kDone;
  std::unique_ptr<unsigned char[]> stack;
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
};

constexpr size_t kStackBytes = 128 << 10;

struct Scheduler {
  Block block;
  std::vector<Fiber> fibers;
  int current = 0;
  const std::function<void()>* kernel = nullptr;
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
};

inline Scheduler& TheScheduler() {
  static thread_local Scheduler scheduler;
  return scheduler;
}

#if defined(__x86_64__)
// Keeps the registers that a call keeps on the stack, and goes on where `to` left off.
__attribute__((naked, noinline)) inline void SwitchStack(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret\n\t");
}
inline void ToScheduler(Scheduler& s) { SwitchStack(&s.fibers[s.current].pointer, s.pointer); }
inline void ToFiber(Scheduler& s) { SwitchStack(&s.pointer, s.fibers[s.current].pointer); }
#else
inline void ToScheduler(Scheduler& s) { swapcontext(&s.fibers[s.current].context, &s.context); }
inline void ToFiber(Scheduler& s) { swapcontext(&s.context, &s.fibers[s.current].context); }
#endif

inline void RunFiber() {
  Scheduler& s = TheScheduler();
  (*s.kernel)();
  s.fibers[s.current].state = State::kDone;
  ToScheduler(s);
  Fail("a finished thread went on");
}

inline void StartFiber(Fiber& fiber) {
  if (fiber.stack == nullptr) fiber.stack.reset(new unsigned char[kStackBytes]);
  fiber.state = State::kRunning;
#if defined(__x86_64__)
  // As after the pushes of SwitchStack: six registers, where to return to, and a place that stands for a caller's
  // return address, which keeps the stack aligned as at a call.
  const uintptr_t end = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + kStackBytes) & ~uintptr_t{15};
  void** top = reinterpret_cast<void**>(end) - 8;
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(&RunFiber);
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, RunFiber, 0);
#endif
}

inline Block& CurrentBlock() { return TheScheduler().block; }
inline Index CurrentThread() { return {TheScheduler().current}; }

inline void Wait(State state) {
  Scheduler& s = TheScheduler();
  s.fibers[s.current].state = state;
  ToScheduler(s);
}
inline void BlockBarrier() { Wait(State::kAtBlockBarrier); }
inline void WarpBarrier() { Wait(State::kAtWarpBarrier); }

// Lets those go on for whom all are there. False if the block is done.
inline bool Release(Scheduler& s, int threads) {
  int at_block = 0, done = 0;
  bool any_warp = false;
  for (int first = 0; first < threads; first += 32) {
    const int end = std::min(threads, first + 32);
    int at_warp = 0;
    for (int t = first; t < end; ++t) {
      at_block += s.fibers[t].state == State::kAtBlockBarrier;
      at_warp += s.fibers[t].state == State::kAtWarpBarrier;
      done += s.fibers[t].state == State::kDone;
    }
    if (at_warp == 0) continue;
    if (at_warp != end - first) Fail("not all threads of a warp reach an operation of the warp");
    any_warp = true;
    for (int t = first; t < end; ++t) s.fibers[t].state = State::kRunning;
  }
  if (done == threads) return false;
  if (any_warp) return true;
  if (at_block != threads) Fail("not all threads of a block reach __syncthreads()");
  for (int t = 0; t < threads; ++t) s.fibers[t].state = State::kRunning;
  return true;
}

inline void Launch(const std::function<void()>& kernel, int64_t grid, int threads, Order order) {
  Scheduler& s = TheScheduler();
  if (static_cast<int>(s.fibers.size()) < threads) s.fibers.resize(threads);
  std::vector<int> turns(threads);
  for (int t = 0; t < threads; ++t) turns[t] = order == Order::kReverse ? threads - 1 - t : t;
  std::mt19937 random(7);
  s.kernel = &kernel;
  s.block.warps.resize((threads + 31) / 32);
  for (int64_t b = 0; b < grid; ++b) {
    s.block.block.x = static_cast<int>(b);
    s.block.shared_bytes = 0;
    for (int t = 0; t < threads; ++t) StartFiber(s.fibers[t]);
    do {
      if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), random);
      for (const int t : turns) {
        if (s.fibers[t].state != State::kRunning) continue;
        s.current = t;
        ToFiber(s);
      }
    } while (Release(s, threads));
  }
}

inline void* SharedMemory(size_t bytes) {
  if (bytes > kMaxSharedBytes) Fail("more shared memory than a kernel gets");
  Block& block = CurrentBlock();
  if (block.shared_bytes == 0) {  // the first thread of the block
    block.shared.reset(new unsigned char[bytes]);
    std::memset(block.shared.get(), 0xff, bytes);
    block.shared_bytes = bytes;
  }
  if (bytes != block.shared_bytes) Fail("a kernel may call SharedMemory for one struct");
  return block.shared.get();
}

#endif

// c += a b, with the fragments as the PTX manual lays them out over the lanes; number(word, part) is one of the
// kPerWord numbers in a word.
template <int kPerWord, typename Number>
void WarpMultiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], const Number& number) {
  const int lane = CurrentThread().x % 32;
  Exchange& warp = CurrentBlock().warps[CurrentThread().x / 32];
  std::copy(a, a + 4, warp.a[lane]);
  std::copy(b, b + 2, warp.b[lane]);
  WarpBarrier();
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8;
    const int column = lane % 4 * 2 + e % 2;
    float sum = c[e];
    for (int word = 0; word < 8; ++word) {
      const unsigned left = warp.a[row % 8 * 4 + word % 4][row / 8 + word / 4 * 2];
      const unsigned right = warp.b[column * 4 + word % 4][word / 4];
      for (int part = 0; part < kPerWord; ++part) sum += number(left, part) * number(right, part);
    }
    c[e] = sum;
  }
  WarpBarrier();
}

inline float HalfToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    value = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return bits & 0x8000 ? -value : value;
}

// To the nearest, ties to even: the CPU's own rounding, of a value scaled so that the last bit of a half is 1.
inline uint16_t FloatToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (value != value) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = std::max(exponent, -13);
  const int fraction = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));  // at most 2048
  return sign | static_cast<uint16_t>(fraction < 1024 ? fraction : (exponent + 13) * 1024 + fraction);
}

}  // namespace cuda_emulator

#define threadIdx (cuda_emulator::CurrentThread())
#define blockIdx (cuda_emulator::CurrentBlock().block)

#ifdef BLOCKSPARSE_EMULATE_WITH_THREADS
#define __syncthreads() cuda_emulator::BlockBarrierAt(__FILE__, __LINE__)
#else
inline void __syncthreads() { cuda_emulator::BlockBarrier(); }
#endif

inline int atomicAdd(int* to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }

inline float atomicAdd(float* to, float value) {
  float before, after;
  __atomic_load(to, &before, __ATOMIC_RELAXED);
  do {
    after = before + value;
  } while (!__atomic_compare_exchange(to, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

using std::min;

#endif  // TF_BLOCKSPARSE_TESTS_CUDA_EMULATOR_H_
