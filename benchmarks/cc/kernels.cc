// The kernels alone, without TensorFlow: time of a product, and what share of the machine's own speed that is.
//
//   kernels --shape 1760x1760 --block 16x16 --sparsity 0.9 --gates 1 --mode product --order column --threads 1
//           --batches 1,16,64 --seconds 0.3
//
// Modes: product (y = x W), x-gradient (dx = dy W^T), block-gradient. Orders: row, column (of the stored blocks).
// TF_BLOCKSPARSE_MAX_ISA caps the instruction set, as it does in the op.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "machine_peak.h"
#include "spin_pool.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"
#include "tf_blocksparse/custom_ops/cc/kernels/matmul.h"

namespace {

using blocksparse::BlockIndex;
using blocksparse::Order;

// The arguments, each with its default.
std::map<std::string, std::string> options = {
    {"shape", "1760x1760"}, {"block", "16x16"},  {"sparsity", "0.9"},       {"gates", "1"},    {"mode", "product"},
    {"order", "column"},    {"threads", "1"},    {"batches", "1,8,32,128"}, {"seconds", "0.3"}};

std::vector<int64_t> Integers(const std::string& text, char separator) {
  std::vector<int64_t> values;
  std::stringstream list(text);
  for (std::string item; std::getline(list, item, separator);) {
    values.push_back(std::atoll(item.c_str()));
    if (values.back() < 1) throw std::invalid_argument("expected positive integers, got " + text);
  }
  return values;
}

std::pair<int64_t, int64_t> Pair(const std::string& name) {
  const std::vector<int64_t> values = Integers(options[name], 'x');
  if (values.size() != 2) throw std::invalid_argument("--" + name + " is of the form 16x16, got " + options[name]);
  return {values[0], values[1]};
}

void Parse(int argc, char** argv) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = std::string(argv[i]).substr(std::string(argv[i]).find_first_not_of('-'));
    if (!options.count(name) || i + 1 == argc) throw std::invalid_argument("unknown or lone argument --" + name);
    options[name] = argv[i + 1];
  }
  const std::string& mode = options["mode"];
  const std::string& order = options["order"];
  if (mode != "product" && mode != "x-gradient" && mode != "block-gradient") {
    throw std::invalid_argument("--mode is product, x-gradient or block-gradient, got " + mode);
  }
  if (order != "row" && order != "column") throw std::invalid_argument("--order is row or column, got " + order);
}

void Require(const std::string& error) {
  if (!error.empty()) throw std::invalid_argument(error);
}

// Aligned as tensors are.
template <typename T>
struct TensorAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const TensorAllocator&) const { return true; }
  bool operator!=(const TensorAllocator&) const { return false; }
};
using Floats = std::vector<float, TensorAllocator<float>>;

// A random pattern with an exact number of blocks, and its values.
struct Matrix {
  blocksparse::Grid grid;
  std::vector<int32_t> indptr, indices;
  Floats blocks;
};

Floats Normal(int64_t size, std::mt19937* random) {
  std::normal_distribution<float> normal;
  Floats values(size);
  for (float& value : values) value = normal(*random);
  return values;
}

Matrix RandomMatrix(Order order, std::mt19937* random) {
  Matrix w;
  const auto [in, out] = Pair("shape");
  const auto [height, width] = Pair("block");
  Require(blocksparse::MakeGrid(in, out, Integers(options["gates"], ',').at(0), height, width, &w.grid));
  int64_t lines = w.grid.rows.lines, others = w.grid.columns.lines;
  if (order == Order::kColumn) std::swap(lines, others);
  std::vector<char> mask(lines * others, 0);
  const double density = 1 - std::atof(options["sparsity"].c_str());
  const int64_t num_blocks = std::llround(static_cast<double>(mask.size()) * density);
  if (num_blocks < 1 || num_blocks > static_cast<int64_t>(mask.size())) {
    throw std::invalid_argument("--sparsity must leave a block and be at least 0, got " + options["sparsity"]);
  }
  std::fill(mask.begin(), mask.begin() + num_blocks, 1);
  std::shuffle(mask.begin(), mask.end(), *random);
  w.indptr.push_back(0);
  for (int64_t i = 0; i < lines; ++i) {
    for (int64_t j = 0; j < others; ++j) {
      if (mask[i * others + j]) w.indices.push_back(static_cast<int32_t>(j));
    }
    w.indptr.push_back(static_cast<int32_t>(w.indices.size()));
  }
  w.blocks = Normal(num_blocks * height * width, random);
  return w;
}

// One product, ready to be called again and again: all that this program knows of the kernels' interface.
struct Call {
  const char* kernel;
  int64_t workers;
  std::function<void()> run;
};

Call Prepare(const BlockIndex& index, Floats* blocks, int64_t batch, int threads,
             const blocksparse::ParallelFor& parallel_for, std::mt19937* random) {
  std::string error;
  const blocksparse::KernelTable* table = blocksparse::ActiveTable(&error);
  Require(error);
  struct Buffers {
    Floats x, dy, y, workspace;
  };
  auto held = std::make_shared<Buffers>();
  held->x = Normal(batch * index.grid.rows.features, random);
  held->dy = Normal(batch * index.grid.columns.features, random);
  if (options["mode"] == "block-gradient") {
    const blocksparse::GradPlan plan = blocksparse::PlanGrad(*table, index, batch, threads);
    held->workspace.resize(plan.workspace_floats);
    return {plan.kernel->name, plan.workers, [=] {
              RunGrad(plan, held->x.data(), held->dy.data(), blocks->data(), held->workspace.data(), parallel_for);
            }};
  }
  const blocksparse::ProductPlan plan = blocksparse::PlanProduct(*table, index, batch, threads);
  held->workspace.resize(plan.workspace_floats);
  held->y.resize(batch * index.line_axis().features);
  const float* input = index.by_column ? held->x.data() : held->dy.data();
  return {plan.segments[0].kernel->name, plan.workers, [=] {
            RunProduct(plan, input, blocks->data(), blocksparse::Epilogue{}, held->y.data(), held->workspace.data(),
                       parallel_for);
          }};
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median and minimum seconds of a call, of samples of a fifth of a millisecond or one call.
std::pair<double, double> Time(const std::function<void()>& call, double seconds) {
  for (int i = 0; i < 3; ++i) call();
  double start = Now();
  call();
  const int repeats = std::max(1, static_cast<int>(2e-4 / (Now() - start)));
  std::vector<double> samples;
  const double end = Now() + seconds;
  do {
    start = Now();
    for (int i = 0; i < repeats; ++i) call();
    samples.push_back((Now() - start) / repeats);
  } while (Now() < end || samples.size() < 5);
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples[0]};
}

void Measure() {
  std::mt19937 random(1);
  const Order order = options["order"] == "row" ? Order::kRow : Order::kColumn;
  const int threads = static_cast<int>(Integers(options["threads"], ',').at(0));
  const double seconds = std::atof(options["seconds"].c_str());
  Matrix w = RandomMatrix(order, &random);
  BlockIndex index;
  Require(blocksparse::BuildBlockIndex(w.grid, order, w.indptr.data(), w.indptr.size(), w.indices.data(),
                                       w.indices.size(), options["mode"] == "product", &index));
  SpinPool pool(threads);
  const blocksparse::ParallelFor parallel_for = [&](int64_t n, const std::function<void(int64_t)>& task) {
    pool.Run(n, task);
  };
  const double bytes = 4.0 * static_cast<double>(w.blocks.size());
  const double peak = machine_peak::FmaPeak(machine_peak::Isas().back(), threads, 0.3);
  const double read = machine_peak::ReadBandwidth(static_cast<int64_t>(bytes), threads, 0.3);
  std::printf("%s, %s in blocks of %s, %s zero, stored by %s; %d threads can do %.1f GF/s, and read its %.2f MB at "
              "%.1f GB/s\n",
              options["mode"].c_str(), options["shape"].c_str(), options["block"].c_str(),
              options["sparsity"].c_str(), options["order"].c_str(), threads, peak, bytes / 1e6, read);
  std::printf("%6s %8s %-22s %10s %10s %8s %6s %8s %6s %9s\n", "batch", "workers", "kernel", "median us", "min us",
              "GF/s", "% peak", "GB/s", "% read", "% roof");
  for (int64_t batch : Integers(options["batches"], ',')) {
    const Call call = Prepare(index, &w.blocks, batch, threads, parallel_for, &random);
    const auto [median, minimum] = Time(call.run, seconds);
    const double gflops = bytes / 2 * static_cast<double>(batch) / median / 1e9;
    const double gbytes = bytes / median / 1e9;
    std::printf("%6lld %8lld %-22s %10.2f %10.2f %8.1f %6.1f %8.1f %6.1f %9.1f\n", static_cast<long long>(batch),
                static_cast<long long>(call.workers), call.kernel, median * 1e6, minimum * 1e6, gflops,
                100 * gflops / peak, gbytes, 100 * gbytes / read, 100 * std::max(gflops / peak, gbytes / read));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Parse(argc, argv);
    Measure();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernels: %s\n", error.what());
    return 1;
  }
  return 0;
}
