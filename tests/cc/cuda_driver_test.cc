// How the driver is found, which image a GPU gets, and what is said when something is missing. Each case is a process
// of its own, with a driver that pretends: TF_BLOCKSPARSE_LIBCUDA names tests/cc/fake_libcuda.cc, compiled.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/cuda_products.h"
#include "tf_blocksparse/custom_ops/cc/cuda/driver.h"
#include "tf_blocksparse/custom_ops/cc/cuda/images.h"

// Texts stand for images, of which the third has two kernels.
extern "C" {
const BlocksparseCudaImage blocksparse_cuda_images[] = {
    {".version 1", 10, 70, 0}, {".version 2", 10, 75, 0}, {".version 3 .entry few_f32_8( .entry combine_f32(", 40, 80, 0},
    {".version 4", 10, 90, 0}, {".version 5", 10, 80, 1}, {".version 6", 10, 60, 1}};
const int32_t blocksparse_num_cuda_images = 6;
}

namespace {

using namespace blocksparse;
using namespace blocksparse_test;
using cuda::Driver;
using cuda::Module;

using Settings = std::vector<std::pair<const char*, const char*>>;

// Runs `body` in a process whose environment has `settings`, and counts its failures.
void InProcess(const Settings& settings, const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    for (const auto& [name, value] : settings) setenv(name, value, 1);
    const int before = failures;
    body();
    std::fflush(stderr);
    _exit(failures == before ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a case failed");
}

// The text of the error of loading the kernels.
std::string LoadError() {
  Driver* driver = nullptr;
  std::string error = Driver::Get(&driver);
  Module* module = nullptr;
  return error.empty() ? driver->GetModule(&module) : error;
}

void Images() {
  const std::pair<int, int> expected[] = {{70, 0}, {72, 0}, {75, 1}, {80, 2}, {86, 2},  {89, 2},
                                          {90, 3}, {61, 5}, {60, 5}, {100, 4}, {120, 4}, {50, -1}};
  for (const auto& [architecture, image] : expected) CHECK_EQUAL(cuda::ChooseImage(architecture), image);
}

void Errors() {
  const std::pair<Settings, const char*> cases[] = {
      {{{"TF_BLOCKSPARSE_LIBCUDA", "/no/such/libcuda.so"}}, "the CUDA driver could not be loaded"},
      {{{"TF_BLOCKSPARSE_LIBCUDA", "libm.so.6"}}, "libm.so.6 is not a CUDA driver"},
      {{{"FAKE_CUDA_DRIVER_VERSION", "11040"}}, "too old: it supports CUDA 11.4, and the kernels need 12.0"},
      {{{"FAKE_CUDA_CONTEXT", "0"}}, "no CUDA context is current"},
      {{{"FAKE_CUDA_ARCHITECTURE", "52"}}, "no kernels for this GPU, of compute capability 5.2"},
      {{{"FAKE_CUDA_ARCHITECTURE", "52"}}, "7.0, 7.5, 8.0, 9.0, 8.0 and newer (PTX), 6.0 and newer (PTX)"},
      {{{"FAKE_CUDA_FAIL", "cuModuleLoadData"}}, "loading the kernels for compute capability 8.0 on a GPU of 8.0 failed: "
                                                 "device kernel image is invalid (CUDA error 200)"},
      {{{"FAKE_CUDA_FAIL", "cuModuleLoadData"}, {"FAKE_CUDA_ARCHITECTURE", "100"}}, "loading the PTX"}};
  for (const auto& [settings, message] : cases) {
    InProcess(settings, [message = message] { CHECK_CONTAINS(LoadError(), message); });
  }
}

int Count(const char* name) {
  void* library = dlopen(std::getenv("TF_BLOCKSPARSE_LIBCUDA"), RTLD_NOW | RTLD_NOLOAD);
  return reinterpret_cast<int (*)(const char*)>(dlsym(library, "FakeCudaCount"))(name);
}

// A product, twice, from threads at once: the module is loaded once, and each function is looked up once.
void OneLoad() {
  Driver* driver = nullptr;
  CHECK_CONTAINS(Driver::Get(&driver) + ".", ".");
  const Case c = MakeCase(64, 24, 1, 8, 8, 3, 0.9);
  const cuda::ProductPattern pattern = cuda::MakeProductPattern(Index(c.w, true), 8);
  const std::vector<float> x = RandomIntegers(3 * 64, 7);
  std::vector<unsigned char> image(pattern.image.size());
  CHECK_EQUAL(driver->Copy(image.data(), pattern.image.data(), image.size(), nullptr).size(), size_t{0});
  const auto run = [&] {
    Module* module = nullptr;
    CHECK_EQUAL(driver->GetModule(&module).size(), size_t{0});
    cuda::KernelChoice choice = {};
    choice.batch = 3;
    cuda::ProductPlan plan;
    CHECK_EQUAL(PlanProduct(pattern, {module->architecture, module->multiprocessors}, false, choice, &plan).size(),
                size_t{0});
    std::vector<float> y(3 * 24);
    std::vector<float> partial(plan.partial_floats);
    const auto start = [&](int kernel, int64_t grid, const void* args) {
      return driver->Launch(module, kernel, grid, args, nullptr);
    };
    const std::string error = RunProduct(plan, start, image.data(), x.data(), c.w.blocks.data(), nullptr, 0, y.data(),
                                         partial.data());
    CHECK_TRUE(error.empty(), error);
    Compare("product through the driver", y, ReferenceProduct(c.w, x, 3));
  };
  std::thread first(run), second(run);
  first.join();
  second.join();
  CHECK_EQUAL(Count("cuModuleLoadData"), 1);
  CHECK_EQUAL(Count("cuModuleGetFunction"), 1);
  CHECK_EQUAL(Count("cuLaunchKernel"), 2);
  CHECK_EQUAL(Count("cuMemcpyHtoDAsync_v2"), 1);
}

// A kernel that the image lacks, and a launch that fails.
void LaunchErrors() {
  Driver* driver = nullptr;
  Module* module = nullptr;
  Driver::Get(&driver);
  driver->GetModule(&module);
  const cuda::KernelChoice tile = {cuda::Role::kProduct, cuda::Type::kFloat32, false, 80, 100, 4, 4};
  CHECK_CONTAINS(driver->Launch(module, cuda::ChooseKernel(tile), 1, nullptr, nullptr),
                 "finding product_f32_4x4 failed: named symbol not found (CUDA error 500)");
  setenv("FAKE_CUDA_FAIL", "cuLaunchKernel", 1);
  const cuda::KernelChoice few = {cuda::Role::kFewRows, cuda::Type::kFloat32, false, 80, 8, 4, 4};
  CHECK_CONTAINS(driver->Launch(module, cuda::ChooseKernel(few), 1, nullptr, nullptr),
                 "starting few_f32_8 failed: emulated failure (CUDA error 719)");
}

}  // namespace

int main() {
  if (std::getenv("TF_BLOCKSPARSE_LIBCUDA") == nullptr) {
    std::fprintf(stderr, "TF_BLOCKSPARSE_LIBCUDA has to name the emulated driver\n");
    return 1;
  }
  Images();
  Errors();
  InProcess({}, OneLoad);
  InProcess({}, LaunchErrors);
  return Finish();
}
