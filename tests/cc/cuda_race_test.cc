// Every CUDA kernel that shares memory between threads, on tiny products, under ThreadSanitizer: the threads of a block
// are threads of the system, and two accesses that no barrier orders are an error.
//
// Then the same without one of the barriers, for each in turn: that is to be noticed, or the barrier is one too many.
//
//   cuda_race_test                    # all of it
//   cuda_race_test CASE FILE LINE     # one case without the barrier there
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>

#include "tests/cc/check.h"
#include "tests/cc/cuda_dynamic.h"
#include "tests/cc/cuda_emulator.h"
#include "tests/cc/cuda_products.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;
using cuda::Role;
using cuda_emulator::Site;

struct RaceCase {
  std::string name;
  std::function<void()> run;
};

std::vector<RaceCase> cases;

// Two slices of a sum and more, so that each piece of shared memory is written again after it was read.
void AddProducts(const Numeric& numeric, int64_t height, int64_t width, int64_t in, int64_t out, int64_t batch) {
  const std::string name = std::string(numeric.name) + " " + std::to_string(height) + "x" + std::to_string(width);
  cases.push_back({name, [=] {
                     Emulation emulation = {};
                     emulation.numeric = numeric;
                     emulation.device.architecture = 80;
                     CheckEmulated(emulation, MakeCase(in, out, 1, height, width, batch, 1.0));
                   }});
}

// One of the products with chosen blocks, by the kernel that it is for.
void AddDynamic(Role role, int64_t height, int64_t width, int64_t in, int64_t out, int64_t batch, double share) {
  const std::string name = "chosen blocks of " + std::to_string(height) + "x" + std::to_string(width);
  cases.push_back({name, [=] {
                     const DynamicProblem p = MakeDynamicProblem(in, out, height, width, batch, share);
                     const Gradients expected = ExpectedGradients(p);
                     if (role == Role::kDynamicProduct) {
                       Compare(name + " y", EmulatedDynamic(Emulation(), p, false), ExpectedProduct(p));
                     } else if (role == Role::kDynamicGates) {
                       Compare(name + " dgates", EmulatedDynamicGates(Emulation(), p), expected.dgates);
                     } else {
                       Compare(name + " dblocks", EmulatedDynamicGrad(Emulation(), p), expected.dblocks);
                     }
                   }});
}

void MakeCases() {
  for (const Numeric& numeric : Numerics()) {
    // Slices of the batch are 64 rows for blocks of 16 and 32 of 16-bit numbers.
    const int64_t batch = numeric.type == cuda::Type::kFloat32 ? 40 : 70;
    AddProducts(numeric, 16, 16, 48, 16, batch);
    AddProducts(numeric, 32, 32, 64, 32, batch);
    AddProducts(numeric, 64, 64, 64, 64, 40);
    if (numeric.tf32) continue;
    AddProducts(numeric, 5, 3, 20, 18, 20);
    AddProducts(numeric, 8, 8, 24, 16, 1);
    AddProducts(numeric, 8, 8, 24, 16, 3);
  }
  const Numeric& f32 = Numerics()[0];
  AddProducts(f32, 4, 4, 24, 20, 40);
  AddProducts(f32, 8, 8, 24, 24, 40);
  AddProducts(f32, 12, 2, 24, 20, 40);
  AddProducts(f32, 1, 16, 18, 32, 40);
  // More blocks in a line than there are threads, more examples, and more of them that chose a block than a slice has.
  AddDynamic(Role::kDynamicProduct, 2, 2, 300, 2, 1, 0.9);
  AddDynamic(Role::kDynamicProduct, 2, 2, 300, 2, 3, 0.9);
  AddDynamic(Role::kDynamicGates, 4, 4, 8, 4, 2, 1.0);
  AddDynamic(Role::kDynamicGrad, 4, 4, 4, 4, 140, 0.7);
  AddDynamic(Role::kDynamicGrad, 16, 16, 16, 16, 140, 1.0);
  AddDynamic(Role::kDynamicGrad, 64, 64, 64, 64, 140, 1.0);
  cases.push_back({"the choice", [] { CheckChoice(Emulation(), RandomIntegers(600, 3), 1, 300); }});
}

// Runs each case: all barriers that it has reached, and the seconds that it took.
std::map<Site, std::vector<std::pair<double, size_t>>> RunAll() {
  std::map<Site, std::vector<std::pair<double, size_t>>> users;
  for (size_t i = 0; i < cases.size(); ++i) {
    cuda_emulator::reached.clear();
    const auto start = std::chrono::steady_clock::now();
    cases[i].run();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    for (const Site& site : cuda_emulator::reached) users[site].push_back({taken.count(), i});
  }
  return users;
}

// Whether a process that runs the case without the barrier fails: by a race that is reported, or a wrong result.
bool IsNoticed(const char* self, size_t number, const Site& site) {
  const std::string command = std::string("'") + self + "' " + std::to_string(number) + " '" + site.first + "' " +
                              std::to_string(site.second) + " 2>&1";
  FILE* output = popen(command.c_str(), "r");
  if (output == nullptr) return false;
  char part[4096];
  while (std::fread(part, 1, sizeof(part), output) > 0) {
  }
  return pclose(output) != 0;
}

// In the fastest of the cases that reach it, of which one is to show it; ThreadSanitizer does not see every race.
void WithoutEachBarrier(const char* self, std::map<Site, std::vector<std::pair<double, size_t>>> users) {
  constexpr size_t kCases = 3, kTimes = 3;
  for (auto& [site, found] : users) {
    std::sort(found.begin(), found.end());
    const size_t tried = std::min(kCases, found.size());
    bool noticed = false;
    for (size_t i = 0; i < kTimes * tried && !noticed; ++i) noticed = IsNoticed(self, found[i % tried].second, site);
    CHECK_TRUE(noticed, "nothing is noticed without the barrier at " + site.first + ":" + std::to_string(site.second));
  }
  CHECK_TRUE(users.size() >= 20, "only " + std::to_string(users.size()) + " barriers were found");
}

bool Shares(Role role) {
  const Role none[] = {Role::kCombine,        Role::kGradCombine, Role::kChoiceClear, Role::kChoiceScatter,
                       Role::kDynamicCombine, Role::kMaskFlags,   Role::kAdd,         Role::kCellStep,
                       Role::kCellGrad};
  return std::find(std::begin(none), std::end(none), role) == std::end(none);
}

void EveryKernelRan() {
  const std::vector<cuda::KernelInfo>& table = cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    CHECK_TRUE(!Shares(table[i].role) || Ran().count({static_cast<int>(i), ThreadOrder::kForward}) == 1,
               std::string(table[i].name) + " did not run");
  }
}

}  // namespace

int main(int argc, char** argv) {
  MakeCases();
  if (argc == 4) {
    cuda_emulator::left_out = {argv[2], std::atoi(argv[3])};
    cases.at(std::atoi(argv[1])).run();
    return Finish();
  }
  const auto users = RunAll();
  EveryKernelRan();
  WithoutEachBarrier(argv[0], users);
  return Finish();
}
