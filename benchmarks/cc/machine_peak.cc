#include "machine_peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>

namespace machine_peak {
namespace {

constexpr int kAccumulators = 12;  // two units of four cycles each need eight
constexpr int kUnroll = 8;         // vectors in one round of reading

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Starting values that the compiler cannot know. a * kShrink + kGrow stays between its start and 1: no number of the
// loops is ever denormal or infinite.
volatile float kStart = 0.5f;
volatile float kShrink = 0.75f;
volatile float kGrow = 0.25f;

// A vector register that is read and written, in the words of an asm statement.
#if defined(__x86_64__)
#define IN_VECTOR(name) "+x"(name)
#else
#define IN_VECTOR(name) "+w"(name)
#endif

// A function of its own for each instruction set: the compiler splits wide vectors in functions that lack the
// instructions, before it inlines them into those that have them. The accumulators are named one by one, since an
// array of them may end up in memory.
#define MEASURED_LOOPS(isa, attribute, vector_bytes)                                                       \
  typedef float isa##Vector __attribute__((vector_size(vector_bytes)));                                    \
  attribute __attribute__((noinline)) float isa##Fma(int64_t rounds) {                                     \
    const isa##Vector s = isa##Vector{} + kShrink, t = isa##Vector{} + kGrow;                              \
    isa##Vector a = isa##Vector{} + kStart, b = a, c = a, d = a, e = a, f = a;                             \
    isa##Vector g = a, h = a, i = a, j = a, k = a, l = a;                                                  \
    for (int64_t n = 0; n < rounds; ++n) {                                                                 \
      a = a * s + t, b = b * s + t, c = c * s + t, d = d * s + t, e = e * s + t, f = f * s + t;            \
      g = g * s + t, h = h * s + t, i = i * s + t, j = j * s + t, k = k * s + t, l = l * s + t;            \
      /* Equal sums would be computed once: the compiler must not know that they are. */                   \
      __asm__("" : IN_VECTOR(a), IN_VECTOR(b), IN_VECTOR(c), IN_VECTOR(d), IN_VECTOR(e), IN_VECTOR(f));    \
      __asm__("" : IN_VECTOR(g), IN_VECTOR(h), IN_VECTOR(i), IN_VECTOR(j), IN_VECTOR(k), IN_VECTOR(l));    \
    }                                                                                                      \
    const isa##Vector sum = a + b + c + d + e + f + g + h + i + j + k + l;                                 \
    return sum[0];                                                                                         \
  }                                                                                                        \
  attribute __attribute__((noinline)) float isa##Read(const float* data, int64_t vectors, int64_t times) { \
    isa##Vector a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};                                                    \
    for (int64_t n = 0; n < times; ++n) {                                                                  \
      const isa##Vector* p = reinterpret_cast<const isa##Vector*>(data);                                   \
      for (const isa##Vector* end = p + vectors; p < end; p += kUnroll) {                                  \
        a += p[0], b += p[1], c += p[2], d += p[3], e += p[4], f += p[5], g += p[6], h += p[7];            \
      }                                                                                                    \
      __asm__ volatile("" ::: "memory");                                                                   \
    }                                                                                                      \
    const isa##Vector sum = a + b + c + d + e + f + g + h;                                                 \
    return sum[0];                                                                                         \
  }

MEASURED_LOOPS(Generic, , 16)
#if defined(__x86_64__)
MEASURED_LOOPS(Avx2, __attribute__((target("avx2,fma"))), 32)
MEASURED_LOOPS(Avx512, __attribute__((target("avx512f"))), 64)
#endif

struct Isa {
  const char* name;
  int64_t vector_bytes;
  float (*fma)(int64_t rounds);
  float (*read)(const float* data, int64_t vectors, int64_t times);
};

std::vector<Isa> Supported() {
  std::vector<Isa> isas = {{"generic", 16, GenericFma, GenericRead}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back({"avx2", 32, Avx2Fma, Avx2Read});
  if (__builtin_cpu_supports("avx512f")) isas.push_back({"avx512", 64, Avx512Fma, Avx512Read});
#endif
  return isas;
}

volatile float sink;

// The best rate of trials of about 5 ms that together take `seconds`. `work` does its part n times; `each` is what
// all threads do in one time.
double BestRate(int threads, double seconds, double each, const std::function<void(int, int64_t)>& work) {
  int64_t times = 1;
  while (Together(threads, [&](int thread) { work(thread, times); }) < 0.005) times *= 2;
  double best = 0;
  const double end = Now() + seconds;
  do {
    const double taken = Together(threads, [&](int thread) { work(thread, times); });
    best = std::max(best, each * static_cast<double>(times) / taken);
  } while (Now() < end);
  return best;
}

}  // namespace

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (const Isa& isa : Supported()) names.push_back(isa.name);
  return names;
}

double Together(int threads, const std::function<void(int)>& body) {
  std::atomic<int> waiting{threads};
  std::vector<double> starts(threads), ends(threads);
  const auto run = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    starts[thread] = Now();
    body(thread);
    ends[thread] = Now();
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  return *std::max_element(ends.begin(), ends.end()) - *std::min_element(starts.begin(), starts.end());
}

double FmaPeak(const std::string& name, int threads, double seconds) {
  for (const Isa& isa : Supported()) {
    if (isa.name != name) continue;
    constexpr int64_t kRounds = 1000;
    const double flops = 2.0 * kRounds * kAccumulators * static_cast<double>(isa.vector_bytes) / 4 * threads;
    return BestRate(threads, seconds, flops, [&](int, int64_t times) { sink = isa.fma(times * kRounds); }) / 1e9;
  }
  throw std::invalid_argument("this processor has no " + name);
}

double ReadBandwidth(int64_t bytes, int threads, double seconds) {
  const Isa isa = Supported().back();
  const int64_t round = isa.vector_bytes * kUnroll;
  const int64_t part = std::max(round, bytes / threads / round * round);
  // 64-byte alignment is a multiple of what every vector needs.
  std::unique_ptr<float, decltype(&std::free)> data(
      static_cast<float*>(std::aligned_alloc(64, (part * threads + 63) / 64 * 64)), &std::free);
  if (!data) throw std::bad_alloc();
  std::fill_n(data.get(), part * threads / 4, 1.0f);
  const auto read = [&](int thread, int64_t times) {
    sink = isa.read(data.get() + thread * (part / 4), part / isa.vector_bytes, times);
  };
  return BestRate(threads, seconds, static_cast<double>(part * threads), read) / 1e9;
}

}  // namespace machine_peak
