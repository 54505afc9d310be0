#include "tests/cc/cuda_dynamic.h"

#include <numeric>

#include "tf_blocksparse/custom_ops/cc/cuda/dynamic.h"

namespace blocksparse_test {

using namespace blocksparse;
using cuda::Type;

namespace {

float* Floats(DeviceBuffer& buffer) { return static_cast<float*>(buffer.data()); }

// Ids in memory that ends where it ends.
class DeviceIds {
 public:
  explicit DeviceIds(const std::vector<int32_t>& ids) : ids_(new int32_t[ids.size()]) {
    std::copy(ids.begin(), ids.end(), ids_);
  }
  ~DeviceIds() { delete[] ids_; }
  DeviceIds(const DeviceIds&) = delete;
  DeviceIds& operator=(const DeviceIds&) = delete;
  const int32_t* data() const { return ids_; }

 private:
  int32_t* ids_;
};

}  // namespace

std::vector<float> EmulatedDynamic(const Emulation& emulation, const DynamicProblem& p, bool transposed,
                                   const Ending& ending) {
  const bool aligned = emulation.aligned;
  DeviceIds ids(p.ids);
  DeviceBuffer gates(p.gates, Type::kFloat32, aligned), blocks(p.blocks, Type::kFloat32, aligned);
  DeviceBuffer x(transposed ? p.dz : p.x, Type::kFloat32, aligned);
  DeviceBuffer bias(ending.bias == nullptr ? std::vector<float>() : *ending.bias, Type::kFloat32, aligned);
  const Axis& lines = transposed ? p.grid.rows : p.grid.columns;
  DeviceBuffer y(p.batch * lines.features, Type::kFloat32, aligned);
  cuda::DynamicPlan plan;
  std::string error = PlanDynamic(p.grid, emulation.device, transposed, p.batch, p.count, &plan);
  DeviceBuffer scratch(plan.scratch_floats, Type::kFloat32, true);
  if (error.empty()) {
    error = RunDynamic(plan, Starter(emulation), {ids.data(), Floats(gates), p.count}, Floats(x), Floats(blocks),
                       ending.bias == nullptr ? nullptr : Floats(bias), ending.activation, Floats(y), Floats(scratch));
  }
  CHECK_TRUE(error.empty(), error);
  return y.values();
}

std::vector<float> EmulatedDynamicGates(const Emulation& emulation, const DynamicProblem& p) {
  const bool aligned = emulation.aligned;
  DeviceIds ids(p.ids);
  DeviceBuffer blocks(p.blocks, Type::kFloat32, aligned), x(p.x, Type::kFloat32, aligned);
  DeviceBuffer dy(p.dz, Type::kFloat32, aligned), dgates(p.batch * p.count, Type::kFloat32, aligned);
  if (p.batch * p.count == 0) return {};
  const std::string error = RunDynamicGates(p.grid, emulation.device, Starter(emulation), {ids.data(), nullptr, p.count},
                                            p.batch, Floats(x), Floats(dy), Floats(blocks), Floats(dgates));
  CHECK_TRUE(error.empty(), error);
  return dgates.values();
}

std::vector<float> EmulatedDynamicGrad(const Emulation& emulation, const DynamicProblem& p) {
  const bool aligned = emulation.aligned;
  DeviceIds ids(p.ids);
  DeviceBuffer gates(p.gates, Type::kFloat32, aligned), x(p.x, Type::kFloat32, aligned);
  DeviceBuffer dy(p.dz, Type::kFloat32, aligned);
  DeviceBuffer dblocks(static_cast<int64_t>(p.blocks.size()), Type::kFloat32, aligned);
  cuda::DynamicGradPlan plan;
  std::string error = PlanDynamicGrad(p.grid, emulation.device, p.batch, p.count, &plan);
  DeviceBuffer scratch(plan.scratch_floats, Type::kFloat32, true);
  if (error.empty()) {
    error = RunDynamicGrad(plan, Starter(emulation), {ids.data(), Floats(gates), p.count}, Floats(x), Floats(dy),
                           Floats(dblocks), Floats(scratch));
  }
  CHECK_TRUE(error.empty(), error);
  return dblocks.values();
}

Chosen EmulatedChoice(const Emulation& emulation, const std::vector<float>& scores, int64_t batch, int64_t count,
                      float epsilon) {
  DeviceBuffer given(scores, Type::kFloat32, emulation.aligned);
  DeviceIds ids(std::vector<int32_t>(batch * count, -1));
  DeviceBuffer gates(batch * count, Type::kFloat32, emulation.aligned);
  cuda::ChooseArgs args = {};
  args.scores = Floats(given);
  args.ids = const_cast<int32_t*>(ids.data());
  args.gates = Floats(gates);
  args.blocks = static_cast<int>(scores.size() / batch);
  args.count = static_cast<int>(count);
  args.epsilon = epsilon;
  const std::string error = RunChooseBlocks(emulation.device, Starter(emulation), batch, args);
  CHECK_TRUE(error.empty(), error);
  return {{ids.data(), ids.data() + batch * count}, gates.values()};
}

void CheckDynamic(const Emulation& emulation, const DynamicProblem& p) {
  const std::string what = p.name + " multiprocessors " + std::to_string(emulation.device.multiprocessors) + " order " +
                           std::to_string(static_cast<int>(emulation.order));
  const Gradients expected = ExpectedGradients(p);
  Compare(what + " y", EmulatedDynamic(emulation, p, false), ExpectedProduct(p));
  Compare(what + " dx", EmulatedDynamic(emulation, p, true), expected.dx);
  Compare(what + " dgates", EmulatedDynamicGates(emulation, p), expected.dgates);
  Compare(what + " dblocks", EmulatedDynamicGrad(emulation, p), expected.dblocks);
}

void CheckChoice(const Emulation& emulation, const std::vector<float>& scores, int64_t batch, int64_t count) {
  constexpr float kEpsilon = 1e-3f;
  const Chosen chosen = EmulatedChoice(emulation, scores, batch, count, kEpsilon);
  const int64_t n = static_cast<int64_t>(scores.size()) / batch;
  std::vector<double> gates;
  for (int64_t b = 0; b < batch; ++b) {
    const auto gate = [&](int64_t i) { return std::max(scores[b * n + i], 0.0f); };
    std::vector<int32_t> ids(n);
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t i, int32_t j) { return gate(i) > gate(j); });
    std::sort(ids.begin(), ids.begin() + count);
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      CHECK_EQUAL(chosen.ids[b * count + k], ids[k]);
      sum += gate(ids[k]);
    }
    const double divisor = std::max(static_cast<float>(sum / static_cast<double>(n)), kEpsilon);
    for (int64_t k = 0; k < count; ++k) gates.push_back(gate(ids[k]) / divisor);
  }
  Compare("gates of " + std::to_string(count) + " of " + std::to_string(n), chosen.gates, gates, 1e-4);
}

}  // namespace blocksparse_test
