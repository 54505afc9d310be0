// The CUDA driver, found when it is first asked for: this library is not linked to it, and loads where there is none.
#ifndef TF_BLOCKSPARSE_CUDA_DRIVER_H_
#define TF_BLOCKSPARSE_CUDA_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace blocksparse {
namespace cuda {

// A device of which the kernels are loaded.
struct Module {
  void* module = nullptr;
  int architecture = 0;  // of the device: 80 for 8.0
  int image = 0;         // of the kernels
  bool is_ptx = false;
  int multiprocessors = 1;
  std::vector<void*> functions;  // by the place in the kernel table; null until it is first used
  std::mutex mutex;
};

// All functions return an empty string, or the text of an error. Thread-safe.
class Driver {
 public:
  // The one of this process: libcuda.so.1, or what the environment variable TF_BLOCKSPARSE_LIBCUDA names.
  static std::string Get(Driver** driver);

  // The kernels in the calling thread's current context, loaded on the first call.
  std::string GetModule(Module** module);

  // Starts a kernel of the table with `args`, its one argument; does not wait for it.
  std::string Launch(Module* module, int kernel, int64_t grid, const void* args, void* stream);

  // Host to device. `from` may be freed when this returns.
  std::string Copy(void* to, const void* from, size_t bytes, void* stream);

 private:
  std::string Open();
  std::string Load(Module* module);
  std::string GetFunction(Module* module, int kernel, void** function);
  std::string Check(int error, const std::string& what);

  int (*get_version_)(int*) = nullptr;
  int (*get_context_)(void**) = nullptr;
  int (*get_device_)(int*) = nullptr;
  int (*get_attribute_)(int*, int, int) = nullptr;
  int (*load_)(void**, const void*) = nullptr;
  int (*get_function_)(void**, void*, const char*) = nullptr;
  int (*launch_)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                 void**) = nullptr;
  int (*copy_)(uint64_t, const void*, size_t, void*) = nullptr;
  int (*get_error_)(int, const char**) = nullptr;

  std::mutex mutex_;
  std::map<void*, std::unique_ptr<Module>> modules_;  // by context
};

// The place in blocksparse_cuda_images of the image for a device: that of its architecture or of the nearest older one
// with the same major version, else PTX; -1 if there is none.
int ChooseImage(int architecture);

}  // namespace cuda
}  // namespace blocksparse

#endif  // TF_BLOCKSPARSE_CUDA_DRIVER_H_
