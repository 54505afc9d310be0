// Recurrent layers as loops of launches, on the emulator: forward against plain loops of double, backward against what the
// CPU's kernels make of the same, which are tested against the loops. Nothing here runs on a GPU.
#include <memory>

#include "tests/cc/check.h"
#include "tests/cc/cuda_products.h"
#include "tests/cc/sample.h"
#include "tests/cc/sequence_problem.h"
#include "tf_blocksparse/custom_ops/cc/cuda/kernel_table.h"
#include "tf_blocksparse/custom_ops/cc/cuda/sequence.h"
#include "tf_blocksparse/custom_ops/cc/kernels/isa.h"

namespace {

using namespace blocksparse;
using namespace blocksparse_test;
using cuda::Role;

constexpr ThreadOrder kThreadOrders[] = {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kShuffled};

// A matrix as the device has it.
struct OnDevice {
  OnDevice(const BsrMatrix& w, bool by_column)
      : pattern(cuda::MakeProductPattern(Index(w, by_column), 8)), blocks(w.blocks, cuda::Type::kFloat32, true) {}
  cuda::DeviceMatrix matrix() {
    return {&pattern, pattern.image.data(), static_cast<const float*>(blocks.data())};
  }
  cuda::ProductPattern pattern;
  DeviceBuffer blocks;
};

struct Matrices {
  Matrices(const SequenceProblem& p, const Sequence& s, bool by_column)
      : kernel(p.kernel(), true), recurrent(p.recurrent(), by_column) {
    all.kernel = kernel.matrix();
    all.recurrent = recurrent.matrix();
    if (s.candidate == nullptr) return;
    candidate = std::make_unique<OnDevice>(p.candidate(), by_column);
    all.candidate = candidate->matrix();
  }
  OnDevice kernel, recurrent;
  std::unique_ptr<OnDevice> candidate;
  cuda::DeviceMatrices all;
};

cuda::KernelChoice Exact() {
  cuda::KernelChoice choice = {};
  choice.type = cuda::Type::kFloat32;
  return choice;
}

std::unique_ptr<SequenceArrays> Forward(SequenceProblem& p, const Sequence& s, const Emulation& emulation, bool save) {
  auto out = std::make_unique<SequenceArrays>(s, emulation.aligned);
  const std::vector<float> x = p.Arrange(p.x);
  const std::vector<char> mask = p.Arrange(p.mask);
  const bool lstm = s.cell == Cell::kLstm;
  const bool both = p.bias.size() > static_cast<size_t>(s.gates() * s.units());
  SequenceInputs inputs = {};
  inputs.x = x.data();
  inputs.h = p.h.data();
  inputs.c = lstm ? p.cell.data() : nullptr;
  inputs.bias = p.bias.empty() ? nullptr : p.bias.data();
  inputs.recurrent_bias = both ? p.bias.data() + s.gates() * s.units() : nullptr;
  inputs.mask = Mask(mask);
  const SequenceOutputs outputs = {out->output.data(), out->h.data(), lstm ? out->c.data() : nullptr,
                                   save ? out->gates.data() : nullptr, save ? out->states.data() : nullptr,
                                   save && lstm ? out->cells.data() : nullptr};
  const Matrices matrices(p, s, true);
  cuda::DeviceSequencePlan plan;
  std::string error =
      PlanDeviceSequence(s, matrices.all, inputs.mask != nullptr, emulation.device, Exact(), &plan);
  Buffer scratch(plan.scratch_floats(), true);
  if (error.empty()) {
    error = RunDeviceSequence(plan, Starter(emulation), matrices.all, inputs, outputs, scratch.data());
  }
  CHECK_TRUE(error.empty(), error);
  return out;
}

struct Grads {
  Grads(const Sequence& s)
      : sums(s.batch * s.time * s.gates() * s.units()), dprojected(sums, true), drecurrent(sums, true),
        dh(s.batch * s.units(), true), dc(s.batch * s.units(), true) {}
  int64_t sums;
  Buffer dprojected, drecurrent, dh, dc;
};

// By the CPU, and by the emulated GPU, of what was saved.
void CheckBackward(const std::string& what, SequenceProblem& p, const Sequence& s, const SequenceArrays& forward,
                   const Emulation& emulation) {
  const int64_t states = s.batch * s.units();
  const std::vector<float> doutput = RandomFloats(s.return_sequences ? s.batch * s.time * s.units() : states, 11);
  const std::vector<float> dh = RandomFloats(states, 12), dc = RandomFloats(states, 13);
  const std::vector<float> gates = forward.gates.values(), saved = forward.states.values(),
                           cells = forward.cells.values();
  const std::vector<char> mask = p.Arrange(p.mask);
  const bool lstm = s.cell == Cell::kLstm;
  const bool two = s.cell == Cell::kGru && s.candidate == nullptr;
  const SequenceGradInputs inputs = {doutput.data(), dh.data(), lstm ? dc.data() : nullptr, gates.data(), saved.data(),
                                     lstm ? cells.data() : nullptr, lstm ? p.cell.data() : nullptr,
                                     p.recurrent().blocks.data(),
                                     s.candidate ? p.candidate().blocks.data() : nullptr, Mask(mask)};
  Grads expected(s), got(s);
  const auto outputs = [&](Grads& to) {
    return SequenceGradOutputs{to.dprojected.data(), two ? to.drecurrent.data() : nullptr, to.dh.data(),
                               lstm ? to.dc.data() : nullptr};
  };
  const SequenceGradPlan cpu = PlanSequenceGrad(s, 1);
  Buffer workspace(cpu.workspace_floats, true);
  RunSequenceGrad(cpu, inputs, outputs(expected), workspace.data(), [](int64_t, const TeamTask& task) {
    Barrier barrier(1);
    task(0, 1, &barrier);
  });
  const Matrices matrices(p, s, false);
  cuda::DeviceSequencePlan plan;
  std::string error =
      PlanDeviceSequenceGrad(s, matrices.all, inputs.mask != nullptr, emulation.device, Exact(), &plan);
  Buffer scratch(plan.scratch_floats(), true);
  if (error.empty()) {
    error = RunDeviceSequenceGrad(plan, Starter(emulation), matrices.all, inputs, outputs(got), scratch.data());
  }
  CHECK_TRUE(error.empty(), error);
  const auto compare = [&](const char* name, const Buffer& a, const Buffer& b) {
    const std::vector<float> values = b.values();
    Compare(what + name, a.values(), std::vector<double>(values.begin(), values.end()), 2e-5);
  };
  compare(" dprojected", got.dprojected, expected.dprojected);
  if (two) compare(" drecurrent", got.drecurrent, expected.drecurrent);
  compare(" dh", got.dh, expected.dh);
  if (lstm) compare(" dc", got.dc, expected.dc);
}

void Check(const SequenceCase& c, const Emulation& emulation) {
  const KernelTable& table = *SupportedTables()[0];
  SequenceProblem p(c);
  const Sequence s = p.Make(table, true);
  const std::unique_ptr<SequenceArrays> out = Forward(p, s, emulation, true);
  CheckForward(c.name, p, s, *out, true);
  const std::unique_ptr<SequenceArrays> unsaved = Forward(p, s, emulation, false);
  CHECK_TRUE(unsaved->output.values() == out->output.values(), c.name + " is the same when nothing is saved");
  SequenceProblem back(c);
  CheckBackward(c.name, back, back.Make(table, false), *out, emulation);
}

void AllCells() {
  Sample sample("cuda sequence");
  uint32_t n = 0;
  for (const CellCase cell : {CellCase::kRnn, CellCase::kGru, CellCase::kGruReset, CellCase::kLstm}) {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{4, 4}, {16, 16}, {5, 3}, {1, 16}}) {
      for (const int64_t batch : {1, 5, 20}) {
        ++n;
        if (!sample.Takes()) continue;
        SequenceCase c = {};
        c.cell = cell;
        c.batch = batch;
        c.time = 1 + n % 5;
        c.in = 5 + 7 * (n % 5);
        c.units = n % 3 == 0 ? 32 : 3 + 11 * (n % 4);
        c.height = height;
        c.width = width;
        c.density = n % 7 == 0 ? 0.0 : n % 2 == 0 ? 0.3 : 1.0;
        c.time_major = n % 2 == 1;
        c.go_backwards = n % 3 == 1;
        c.return_sequences = n % 5 != 0;
        c.mask = n % 4 < 2;
        c.zero_output_for_mask = n % 8 < 2;
        c.bias = n % 3 != 2;
        c.activation = n % 11 == 0 ? Activation::kSigmoid : n % 13 == 0 ? Activation::kRelu : Activation::kTanh;
        c.name = "case " + std::to_string(n) + " cell " + std::to_string(static_cast<int>(cell)) + " blocks " +
                 std::to_string(height) + "x" + std::to_string(width) + " batch " + std::to_string(batch);
        Emulation emulation = {};
        emulation.order = kThreadOrders[n % 3];
        emulation.device.multiprocessors = 8;
        emulation.aligned = n % 4 != 0;
        Check(c, emulation);
      }
    }
  }
}

void EveryKernelRan() {
  const std::vector<cuda::KernelInfo>& table = cuda::KernelTable();
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].role < Role::kMaskFlags) continue;
    for (const ThreadOrder order : kThreadOrders) {
      CHECK_TRUE(Ran().count({static_cast<int>(i), order}) == 1,
                 std::string(table[i].name) + " did not run in order " + std::to_string(static_cast<int>(order)));
    }
  }
}

}  // namespace

int main() {
  AllCells();
  if (Sample("all").all()) EveryKernelRan();
  return Finish();
}
