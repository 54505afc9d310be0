// Prints what the machine can do, as JSON: float operations a second in registers for each instruction set, and the
// bytes a second that can be read of arrays of several sizes, on one thread and on all.
//
//   roofline                             # everything, in about 5 seconds
//   roofline --threads 2 --best          # the best instruction set only
//   roofline --threads 2 --bytes 1239040,3932160
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "machine_peak.h"

namespace {

constexpr int64_t kKiB = 1024;
constexpr double kSecondsEach = 0.1;

struct Options {
  std::vector<int> threads;
  std::vector<int64_t> bytes;
  bool best = false;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--best") {
      options.best = true;
    } else if ((name == "--threads" || name == "--bytes") && i + 1 < argc) {
      std::stringstream list(argv[++i]);
      for (std::string item; std::getline(list, item, ',');) {
        if (name == "--threads") options.threads.push_back(std::atoi(item.c_str()));
        if (name == "--bytes") options.bytes.push_back(std::atoll(item.c_str()));
      }
    } else {
      throw std::invalid_argument("unknown argument " + name + ": use --threads N,.. --bytes N,.. --best");
    }
  }
  if (options.threads.empty()) {
    options.threads.push_back(1);
    const int all = static_cast<int>(std::thread::hardware_concurrency());
    if (all > 1) options.threads.push_back(all);
  }
  if (options.bytes.empty()) {
    options.bytes = {16 * kKiB, 32 * kKiB};
    for (int64_t bytes = 256 * kKiB; bytes <= 256 * kKiB * kKiB; bytes *= 2) options.bytes.push_back(bytes);
  }
  for (int threads : options.threads) {
    if (threads < 1) throw std::invalid_argument("--threads must be positive");
  }
  for (int64_t bytes : options.bytes) {
    if (bytes < 1) throw std::invalid_argument("--bytes must be positive");
  }
  return options;
}

void Print(const Options& options) {
  std::vector<std::string> isas = machine_peak::Isas();
  if (options.best) isas = {isas.back()};
  const char* separator = "";
  std::printf("{\"fma\": [");
  for (const std::string& isa : isas) {
    for (int threads : options.threads) {
      std::printf("%s\n  {\"isa\": \"%s\", \"threads\": %d, \"gflops\": %.2f}", separator, isa.c_str(), threads,
                  machine_peak::FmaPeak(isa, threads, kSecondsEach));
      separator = ",";
    }
  }
  separator = "";
  std::printf("],\n \"read\": [");
  for (int64_t bytes : options.bytes) {
    for (int threads : options.threads) {
      std::printf("%s\n  {\"bytes\": %lld, \"threads\": %d, \"gbytes\": %.2f}", separator,
                  static_cast<long long>(bytes), threads,
                  machine_peak::ReadBandwidth(bytes, threads, kSecondsEach));
      separator = ",";
    }
  }
  std::printf("]}\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Print(Parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "roofline: %s\n", error.what());
    return 1;
  }
  return 0;
}
