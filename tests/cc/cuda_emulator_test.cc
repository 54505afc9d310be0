// The emulator itself: that it finds what it is for, and that its numbers and its warps are those of the manuals.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <set>

#include "tests/cc/check.h"
#include "tests/cc/cuda_emulator.h"
#include "tests/cc/cuda_numbers.h"
#include "tf_blocksparse/custom_ops/cc/cuda/device.cuh"

namespace {

using namespace blocksparse::cuda;
using namespace blocksparse_test;
using cuda_emulator::Launch;
using cuda_emulator::Order;

constexpr Order kOrders[] = {Order::kForward, Order::kReverse, Order::kShuffled};
constexpr int kThreads = 64;

struct Numbers {
  float of[kThreads];
};

// Each thread takes what its neighbour has put down.
std::vector<float> Exchanged(Order order, bool with_barrier) {
  std::vector<float> result(kThreads);
  const auto kernel = [&] {
    Numbers& shared = SharedMemory<Numbers>();
    shared.of[threadIdx.x] = static_cast<float>(threadIdx.x);
    if (with_barrier) __syncthreads();
    result[threadIdx.x] = shared.of[(threadIdx.x + 1) % kThreads];
  };
  Launch(kernel, 2, kThreads, order);
  return result;
}

void MissingBarriersShow() {
  for (const Order order : kOrders) {
    const std::vector<float> right = Exchanged(order, true);
    bool same = true;
    for (int t = 0; t < kThreads; ++t) same &= right[t] == static_cast<float>((t + 1) % kThreads);
    CHECK_TRUE(same, "a barrier did not hold");
    int unwritten = 0;
    for (const float value : Exchanged(order, false)) unwritten += std::isnan(value);
    CHECK_TRUE(unwritten > 0, "a missing barrier went unseen");
  }
}

// Whether `body` ends the process.
bool Aborts(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct TooLarge {
  unsigned char bytes[cuda_emulator::kMaxSharedBytes + 1];
};

void WrongKernelsStop() {
  CHECK_TRUE(!Aborts([] { Launch([] { __syncthreads(); }, 1, kThreads, Order::kForward); }), "a right one");
  CHECK_TRUE(Aborts([] {
               Launch([] {
                 if (threadIdx.x < 32) __syncthreads();
               }, 1, kThreads, Order::kForward);
             }), "a barrier that half of the threads reach");
  CHECK_TRUE(Aborts([] { Launch([] { SharedMemory<TooLarge>(); }, 1, 32, Order::kForward); }), "too much memory");
  CHECK_TRUE(Aborts([] {
               Launch([] {
                 float c[4] = {};
                 const unsigned a[4] = {}, b[2] = {};
                 if (threadIdx.x % 2 == 0) WarpMultiply(c, a, b, Float16());
               }, 1, 32, Order::kForward);
             }), "half of a warp");
}

void EveryThreadRunsOnce() {
  for (const Order order : kOrders) {
    std::set<std::pair<int, int>> seen;
    int count = 0;
    Launch([&] {
      seen.insert({blockIdx.x, threadIdx.x});
      ++count;
    }, 5, 48, order);
    CHECK_EQUAL(count, 5 * 48);
    CHECK_EQUAL(seen.size(), size_t{5 * 48});
  }
}

// All numbers of 16 bits, and floats between, on and beyond them.
void Conversions() {
  for (int i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    const Float16::Storage half = {bits};
    const BFloat16::Storage brain = {bits};
    const auto same = [](float a, float b) { return a == b ? std::signbit(a) == std::signbit(b) : a != a && b != b; };
    CHECK_TRUE(same(ToFloat(half), HalfValue(bits)), "half " + std::to_string(i));
    CHECK_TRUE(same(ToFloat(brain), BFloat16Value(bits)), "bfloat16 " + std::to_string(i));
  }
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    float value = __uint_as_float(static_cast<unsigned>(random()));
    if (i % 2 == 0) value = std::ldexp(static_cast<float>(random() % 8192), static_cast<int>(random() % 40) - 30);
    if (value != value) continue;
    Float16::Storage half;
    BFloat16::Storage brain;
    FromFloat(value, &half);
    FromFloat(value, &brain);
    CHECK_EQUAL(half.bits, HalfBits(value));
    CHECK_EQUAL(brain.bits, BFloat16Bits(value));
  }
  Float16::Storage half;
  BFloat16::Storage brain;
  FromFloat(NAN, &half);
  FromFloat(NAN, &brain);
  CHECK_TRUE(std::isnan(ToFloat(half)) && std::isnan(ToFloat(brain)), "NaN became a number");
}

// To 10 bits of fraction, ties away from zero.
void Tf32Rounding() {
  const auto rounded = [](float value) { return __uint_as_float(TensorWord(__float_as_uint(value), Tf32())); };
  CHECK_EQUAL(rounded(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);
  CHECK_EQUAL(rounded(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  CHECK_EQUAL(rounded(1.0f + 0x1p-12f), 1.0f);
  CHECK_EQUAL(rounded(1.5f), 1.5f);
  CHECK_TRUE(std::isinf(rounded(INFINITY)) && std::isnan(rounded(NAN)), "infinity or NaN became a number");
}

// As the PTX manual writes it of mma.m16n8k16, number by number: where thread `lane` has number i of a, b and c.
struct At {
  int row, column;
};
At OfA(int lane, int i) {
  return {lane / 4 + (i < 2 || (i >= 4 && i < 6) ? 0 : 8), lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
At OfB(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane / 4}; }
At OfC(int lane, int i) { return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1)}; }

void WarpsMultiply() {
  float a[16][16], b[16][8], c[16][8];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) a[i][j] = static_cast<float>((i * 7 + j * 3) % 11 - 5);
    for (int j = 0; j < 8; ++j) b[i][j] = static_cast<float>((i * 5 + j * 2) % 9 - 4);
  }
  const auto bits = [](float value) {
    Float16::Storage half;
    FromFloat(value, &half);
    return static_cast<unsigned>(half.bits);
  };
  for (const Order order : kOrders) {
    Launch([&] {
      const int lane = threadIdx.x;
      unsigned left[4] = {}, right[2] = {};
      for (int i = 0; i < 8; ++i) left[i / 2] |= bits(a[OfA(lane, i).row][OfA(lane, i).column]) << (16 * (i % 2));
      for (int i = 0; i < 4; ++i) right[i / 2] |= bits(b[OfB(lane, i).row][OfB(lane, i).column]) << (16 * (i % 2));
      float sums[4] = {1, 1, 1, 1};
      WarpMultiply(sums, left, right, Float16());
      for (int i = 0; i < 4; ++i) c[OfC(lane, i).row][OfC(lane, i).column] = sums[i];
    }, 1, 32, order);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float sum = 1;
        for (int k = 0; k < 16; ++k) sum += a[i][k] * b[k][j];
        CHECK_EQUAL(c[i][j], sum);
      }
    }
  }
}

}  // namespace

int main() {
  MissingBarriersShow();
  WrongKernelsStop();
  EveryThreadRunsOnce();
  Conversions();
  Tf32Rounding();
  WarpsMultiply();
  return Finish();
}
