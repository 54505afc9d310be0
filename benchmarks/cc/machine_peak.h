// What the machine can do, measured: multiply-adds in registers, and reads of memory.
#ifndef TF_BLOCKSPARSE_BENCHMARKS_MACHINE_PEAK_H_
#define TF_BLOCKSPARSE_BENCHMARKS_MACHINE_PEAK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace machine_peak {

// The instruction sets that this processor has: generic, and avx2 and avx512 on x86. Best last.
std::vector<std::string> Isas();

// Billions of float operations a second of all threads together, each doing multiply-adds that depend on nothing but
// registers. "generic" multiplies and adds apart, as code without instruction set flags does on x86.
double FmaPeak(const std::string& isa, int threads, double seconds);

// Billions of bytes a second at which all threads together read an array again and again; each reads its part, with the
// widest loads there are.
double ReadBandwidth(int64_t bytes, int threads, double seconds);

// Runs body(0) .. body(threads - 1) at once and returns the seconds from the common start to the last end.
double Together(int threads, const std::function<void(int)>& body);

}  // namespace machine_peak

#endif  // TF_BLOCKSPARSE_BENCHMARKS_MACHINE_PEAK_H_
