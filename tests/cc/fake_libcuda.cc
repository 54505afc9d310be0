// A CUDA driver whose one device is the emulator: what driver.cc calls, and counts of the calls. Device memory is that
// of the host, streams are ignored, and a kernel has run when its launch returns.
//
// The environment says what it pretends to be: FAKE_CUDA_ARCHITECTURE (default 80), FAKE_CUDA_MULTIPROCESSORS (8),
// FAKE_CUDA_DRIVER_VERSION (12090), FAKE_CUDA_CONTEXT (1; 0: none is current), FAKE_CUDA_FAIL (a function's name).
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "tests/cc/cuda_kernels.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1, kInvalidImage = 200, kNotFound = 500, kLaunchFailed = 719;

int Setting(const char* name, int otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr ? otherwise : std::atoi(given);
}

std::mutex mutex;
std::map<std::string, int> counts;

// Counts the call. True if it is to fail.
bool Called(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  ++counts[name];
  const char* failing = std::getenv("FAKE_CUDA_FAIL");
  return failing != nullptr && std::strcmp(failing, name) == 0;
}

template <typename T>
T Read(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Whether a cubin, an ELF file of 64 bits, has the section .text.<name>, which is where a kernel's code is.
bool CubinHas(const unsigned char* image, const std::string& name) {
  const unsigned char* sections = image + Read<uint64_t>(image + 40);
  const int size = Read<uint16_t>(image + 58), count = Read<uint16_t>(image + 60), names = Read<uint16_t>(image + 62);
  const unsigned char* strings = image + Read<uint64_t>(sections + names * size + 24);
  for (int i = 0; i < count; ++i) {
    const auto* found = reinterpret_cast<const char*>(strings + Read<uint32_t>(sections + i * size));
    if (found == ".text." + name) return true;
  }
  return false;
}

bool IsCubin(const void* image) { return std::memcmp(image, "\x7f" "ELF", 4) == 0; }

bool ImageHas(const void* image, const std::string& name) {
  if (IsCubin(image)) return CubinHas(static_cast<const unsigned char*>(image), name);
  return std::strstr(static_cast<const char*>(image), (".entry " + name + "(").c_str()) != nullptr;
}

}  // namespace

// How often a function was called.
EXPORT int FakeCudaCount(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  return counts[name];
}

EXPORT int cuDriverGetVersion(int* version) {
  *version = Setting("FAKE_CUDA_DRIVER_VERSION", 12090);
  return Called("cuDriverGetVersion") ? kInvalidValue : 0;
}

EXPORT int cuCtxGetCurrent(void** context) {
  static int the_context;
  *context = Setting("FAKE_CUDA_CONTEXT", 1) ? &the_context : nullptr;
  return Called("cuCtxGetCurrent") ? kInvalidValue : 0;
}

EXPORT int cuCtxGetDevice(int* device) {
  *device = 0;
  return Called("cuCtxGetDevice") ? kInvalidValue : 0;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int architecture = Setting("FAKE_CUDA_ARCHITECTURE", 80);
  switch (attribute) {
    case 16:
      *value = Setting("FAKE_CUDA_MULTIPROCESSORS", 8);
      break;
    case 75:
      *value = architecture / 10;
      break;
    case 76:
      *value = architecture % 10;
      break;
    default:
      return kInvalidValue;
  }
  return Called("cuDeviceGetAttribute") ? kInvalidValue : 0;
}

EXPORT int cuModuleLoadData(void** module, const void* image) {
  *module = const_cast<void*>(image);
  if (Called("cuModuleLoadData")) return kInvalidImage;
  return IsCubin(image) || std::strstr(static_cast<const char*>(image), ".version") != nullptr ? 0 : kInvalidImage;
}

EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (Called("cuModuleGetFunction") || !ImageHas(module, name)) return kNotFound;
  const auto& table = blocksparse::cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (std::strcmp(table[i].name, name) != 0) continue;
    *function = reinterpret_cast<void*>(i + 1);
    return 0;
  }
  return kNotFound;
}

EXPORT int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_bytes, void*, void** args, void** extra) {
  if (Called("cuLaunchKernel")) return kLaunchFailed;
  const int kernel = static_cast<int>(reinterpret_cast<uintptr_t>(function)) - 1;
  const bool plain = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1 && shared_bytes == 0 && !extra;
  const int threads = blocksparse::cuda::KernelTable()[kernel].threads;
  if (!plain || grid_x == 0 || static_cast<int>(block_x) != threads) return kInvalidValue;
  blocksparse_test::EmulateKernel(kernel, grid_x, args[0], blocksparse_test::ThreadOrder::kShuffled);
  return 0;
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
  if (Called("cuMemcpyHtoDAsync_v2")) return kInvalidValue;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}

EXPORT int cuGetErrorString(int error, const char** text) {
  *text = error == kInvalidImage ? "device kernel image is invalid" : error == kNotFound ? "named symbol not found"
                                                                                       : "emulated failure";
  return 0;
}
