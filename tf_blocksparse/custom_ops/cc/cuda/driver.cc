#include "tf_blocksparse/custom_ops/cc/cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>

#include "tf_blocksparse/custom_ops/cc/cuda/images.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

namespace blocksparse {
namespace cuda {
namespace {

// Of cuda.h, which is part of CUDA's binary interface.
constexpr int kMultiprocessorCount = 16;
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;
constexpr int kOldestDriver = 12000;

std::string Version(int value) { return std::to_string(value / 10) + "." + std::to_string(value % 10); }

std::string ImageList() {
  std::string list;
  for (int i = 0; i < blocksparse_num_cuda_images; ++i) {
    const BlocksparseCudaImage& image = blocksparse_cuda_images[i];
    list += (i == 0 ? "" : ", ") + Version(image.architecture) + (image.is_ptx ? " and newer (PTX)" : "");
  }
  return list;
}

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

int ChooseImage(int architecture) {
  int best = -1;
  for (int i = 0; i < blocksparse_num_cuda_images; ++i) {
    const BlocksparseCudaImage& image = blocksparse_cuda_images[i];
    const bool same_major = image.architecture / 10 == architecture / 10;
    if (image.architecture > architecture || (!image.is_ptx && !same_major)) continue;
    if (best >= 0) {
      const BlocksparseCudaImage& other = blocksparse_cuda_images[best];
      if (image.is_ptx > other.is_ptx) continue;
      if (image.is_ptx == other.is_ptx && image.architecture < other.architecture) continue;
    }
    best = i;
  }
  return best;
}

std::string Driver::Get(Driver** driver) {
  static auto* the_driver = new Driver;
  static const auto* error = new std::string(the_driver->Open());
  *driver = the_driver;
  return *error;
}

std::string Driver::Open() {
  const char* given = std::getenv("TF_BLOCKSPARSE_LIBCUDA");
  const std::string name = given == nullptr ? "libcuda.so.1" : given;
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return "the CUDA driver could not be loaded: " + std::string(reason == nullptr ? name : reason) +
           ". Install NVIDIA's driver, or run on the CPU.";
  }
  const bool found = Find(library, "cuDriverGetVersion", &get_version_) &&
                     Find(library, "cuCtxGetCurrent", &get_context_) &&
                     Find(library, "cuCtxGetDevice", &get_device_) &&
                     Find(library, "cuDeviceGetAttribute", &get_attribute_) &&
                     Find(library, "cuModuleLoadData", &load_) &&
                     Find(library, "cuModuleGetFunction", &get_function_) &&
                     Find(library, "cuLaunchKernel", &launch_) &&
                     Find(library, "cuMemcpyHtoDAsync_v2", &copy_) && Find(library, "cuGetErrorString", &get_error_);
  if (!found) return name + " is not a CUDA driver: it lacks a function that every one has.";
  int version = 0;
  const std::string error = Check(get_version_(&version), "cuDriverGetVersion");
  if (!error.empty()) return error;
  if (version < kOldestDriver) {
    return "the CUDA driver is too old: it supports CUDA " + std::to_string(version / 1000) + "." +
           std::to_string(version % 1000 / 10) + ", and the kernels need 12.0 or newer. Install version 525 or newer.";
  }
  return "";
}

std::string Driver::Check(int error, const std::string& what) {
  if (error == 0) return "";
  const char* text = nullptr;
  if (get_error_(error, &text) != 0 || text == nullptr) text = "unknown error";
  return what + " failed: " + text + " (CUDA error " + std::to_string(error) + ")";
}

std::string Driver::GetModule(Module** module) {
  void* context = nullptr;
  std::string error = Check(get_context_(&context), "cuCtxGetCurrent");
  if (!error.empty()) return error;
  if (context == nullptr) return "no CUDA context is current: the op does not run on a GPU.";
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Module>& found = modules_[context];
  if (found == nullptr) {
    auto loaded = std::make_unique<Module>();
    error = Load(loaded.get());
    if (!error.empty()) return error;
    found = std::move(loaded);
  }
  *module = found.get();
  return "";
}

std::string Driver::Load(Module* module) {
  int device = 0, major = 0, minor = 0;
  std::string error = Check(get_device_(&device), "cuCtxGetDevice");
  if (error.empty()) error = Check(get_attribute_(&major, kCapabilityMajor, device), "cuDeviceGetAttribute");
  if (error.empty()) error = Check(get_attribute_(&minor, kCapabilityMinor, device), "cuDeviceGetAttribute");
  if (error.empty()) {
    error = Check(get_attribute_(&module->multiprocessors, kMultiprocessorCount, device), "cuDeviceGetAttribute");
  }
  if (!error.empty()) return error;
  module->architecture = 10 * major + minor;
  const int choice = ChooseImage(module->architecture);
  if (choice < 0) {
    return "there are no kernels for this GPU, of compute capability " + Version(module->architecture) +
           ": this build has them for " + ImageList() +
           ". Build it with -DTF_BLOCKSPARSE_CUDA_ARCHITECTURES=" + std::to_string(module->architecture) + ".";
  }
  const BlocksparseCudaImage& image = blocksparse_cuda_images[choice];
  module->image = image.architecture;
  module->is_ptx = image.is_ptx != 0;
  module->functions.assign(KernelTable().size(), nullptr);
  return Check(load_(&module->module, image.data),
               std::string("loading the ") + (image.is_ptx ? "PTX" : "kernels") + " for compute capability " +
                   Version(image.architecture) + " on a GPU of " + Version(module->architecture));
}

std::string Driver::GetFunction(Module* module, int kernel, void** function) {
  std::lock_guard<std::mutex> lock(module->mutex);
  void*& known = module->functions[kernel];
  if (known == nullptr) {
    const char* name = KernelTable()[kernel].name;
    const std::string error = Check(get_function_(&known, module->module, name), std::string("finding ") + name);
    if (!error.empty()) return error;
  }
  *function = known;
  return "";
}

std::string Driver::Launch(Module* module, int kernel, int64_t grid, const void* args, void* stream) {
  void* function = nullptr;
  std::string error = GetFunction(module, kernel, &function);
  if (!error.empty()) return error;
  const KernelInfo& info = KernelTable()[kernel];
  void* pointers[] = {const_cast<void*>(args)};
  return Check(launch_(function, static_cast<unsigned>(grid), 1, 1, info.threads, 1, 1, 0, stream, pointers, nullptr),
               std::string("starting ") + info.name);
}

std::string Driver::Copy(void* to, const void* from, size_t bytes, void* stream) {
  if (bytes == 0) return "";
  return Check(copy_(reinterpret_cast<uint64_t>(to), from, bytes, stream), "cuMemcpyHtoDAsync");
}

}  // namespace cuda
}  // namespace blocksparse
