// The Python face of the CUDA kernels: names, types and docstrings, no logic. Nothing here waits
// for the device or allocates: tensors, workspace and stream come as numbers.
#include "../conv/cuda/device.h"
#include "../conv/cuda/run.h"
#include "address.h"

namespace py = pybind11;

namespace pyphase {
namespace {

using conv::Gradients;
using conv::Pair;
using conv::PairData;
using conv::Strips;
using conv::cuda::Device;
using conv::cuda::Launch;
using conv::cuda::Pass;
using conv::cuda::Passes;
using conv::cuda::PlannedPair;
using conv::cuda::PlannedStrips;
using conv::cuda::Where;

Where where(int device, Address workspace, std::uintptr_t stream) {
  return {device, pointer(workspace), pointer(stream)};
}

void pair_forward(const PlannedPair &planned, Address x, Address w1, Address w2, Address b1,
                  Address b2, Address y, int device, Address workspace, std::uintptr_t stream) {
  const PairData data = pair_data(x, w1, w2, b1, b2);
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::cuda::forward(planned, data, out, where(device, workspace, stream));
}

void pair_backward(const PlannedPair &planned, Address x, Address w1, Address w2, Address b1,
                   Address grad_y, Address grad_x, Address grad_w1, Address grad_w2,
                   Address grad_b1, Address grad_b2, int device, Address workspace,
                   std::uintptr_t stream) {
  const PairData data = pair_data(x, w1, w2, b1, {});
  const void *from = required(grad_y, "grad_y");
  const Gradients grad = gradients(grad_x, grad_w1, grad_w2, grad_b1, grad_b2);
  const py::gil_scoped_release release;
  conv::cuda::backward(planned, data, from, grad, where(device, workspace, stream));
}

void strips_forward(const PlannedStrips &planned, Address x, const Addresses &w1,
                    const Addresses &w2, const Addresses &b1, const Addresses &b2, Address y,
                    int device, Address workspace, std::uintptr_t stream) {
  const std::vector<PairData> data = strips_data(planned.strips, x, w1, w2, b1, b2);
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::cuda::forward(planned, data, out, where(device, workspace, stream));
}

void strips_backward(const PlannedStrips &planned, Address x, const Addresses &w1,
                     const Addresses &w2, const Addresses &b1, Address grad_y, Address grad_x,
                     const Addresses &grad_w1, const Addresses &grad_w2, const Addresses &grad_b1,
                     const Addresses &grad_b2, int device, Address workspace,
                     std::uintptr_t stream) {
  const Strips &strips = planned.strips;
  const std::vector<PairData> data = strips_data(strips, x, w1, w2, b1, Addresses(b1.size()));
  const std::vector<Gradients> grad =
      strips_gradients(strips, grad_x, grad_w1, grad_w2, grad_b1, grad_b2);
  const void *from = required(grad_y, "grad_y");
  const py::gil_scoped_release release;
  conv::cuda::backward(planned, data, from, grad, where(device, workspace, stream));
}

Device make_device(int capability, int sms, int threads_per_sm, int registers_per_sm,
                   int shared_per_sm, int shared_per_block, std::int64_t l2, double bandwidth,
                   double clock) {
  const conv::cuda::ClockRates rates = conv::cuda::clock_rates(capability);
  const double peak = clock * sms;
  return {capability,
          sms,
          threads_per_sm,
          registers_per_sm,
          shared_per_sm,
          shared_per_block,
          l2,
          bandwidth,
          peak * rates.fma,
          peak * rates.tensor,
          peak * rates.tensor_best};
}

template <class Planned>
const Pass &pass_of(const Planned &planned, bool backward) {
  return backward ? planned.passes.backward : planned.passes.forward;
}

// What both kinds of planned problems tell of themselves.
template <class Planned>
void describe(py::class_<Planned> &planned) {
  planned
      .def_property_readonly(
          "kernel", [](const Planned &p) { return p.passes.kernel; },
          "The family that serves a pass of it: depthwise, dense, strips, or none ('').")
      .def(
          "covers", [](const Planned &p, bool backward) { return pass_of(p, backward).covered(); },
          py::arg("backward"), "Whether a kernel serves the pass.")
      .def(
          "wins", [](const Planned &p, bool backward) { return pass_of(p, backward).wins(); },
          py::arg("backward"),
          "Whether the kernel's floor is below that of torch's convolutions on this device.")
      .def(
          "floors",
          [](const Planned &p, bool backward) {
            const Pass &pass = pass_of(p, backward);
            return std::pair(pass.native, pass.torch);
          },
          py::arg("backward"), "Seconds predicted for the kernel and for torch, at their floors.")
      .def(
          "workspace",
          [](const Planned &p, bool backward) { return pass_of(p, backward).plan.workspace; },
          py::arg("backward"), "Bytes of memory that a call needs besides its tensors.")
      .def(
          "work",
          [](const Planned &p, bool backward) {
            const conv::cuda::Plan &plan = pass_of(p, backward).plan;
            return std::tuple(plan.bytes, plan.flops, plan.tensor_cores);
          },
          py::arg("backward"),
          "Bytes moved, operations done (two a multiply-add), and whether by tensor cores.")
      .def(
          "launches",
          [](const Planned &p, bool backward) {
            py::list found;
            for (const Launch &launch : pass_of(p, backward).plan.launches) {
              found.append(py::make_tuple(launch.kernel, launch.grid, launch.block, launch.shared,
                                          launch.choice));
            }
            return found;
          },
          py::arg("backward"), "(kernel, grid, block, shared bytes, choices) of each launch.");
}

}  // namespace
}  // namespace pyphase

PYBIND11_MODULE(PYPHASE_CUDA_MODULE, m) {
  using namespace pyphase;
  m.doc() = "Factorized convolutions on CUDA devices.";
  m.attr("ARCHITECTURES") = PYPHASE_CUDA_ARCHITECTURES;
  m.attr("COMPILER") = PYPHASE_CUDA_COMPILER;
  m.def("device_count", &conv::cuda::device_count, "CUDA devices; 0 without a driver.");
  m.def("query_device", &conv::cuda::query_device, py::arg("index"), "Properties of a device.");

  py::class_<Device>(m, "Device", "A GPU as the planner sees it.", py::module_local())
      .def(py::init(&make_device), py::kw_only(), py::arg("capability"), py::arg("sms"),
           py::arg("threads_per_sm"), py::arg("registers_per_sm"), py::arg("shared_per_sm"),
           py::arg("shared_per_block"), py::arg("l2"), py::arg("bandwidth"), py::arg("clock"))
      .def_readonly("capability", &Device::capability, "10 * major + minor.")
      .def_readonly("sms", &Device::sms, "Streaming multiprocessors.")
      .def_readonly("threads_per_sm", &Device::threads_per_sm)
      .def_readonly("registers_per_sm", &Device::registers_per_sm)
      .def_readonly("shared_per_sm", &Device::shared_per_sm, "Bytes.")
      .def_readonly("shared_per_block", &Device::shared_per_block, "Bytes one block may ask for.")
      .def_readonly("l2", &Device::l2, "Bytes.")
      .def_readonly("bandwidth", &Device::bandwidth, "Bytes a second, of the memory.")
      .def_readonly("fma", &Device::fma, "float32 operations a second.")
      .def_readonly("tensor", &Device::tensor, "Operations a second of mma.sync on bfloat16.")
      .def_readonly("tensor_best", &Device::tensor_best, "The same of the fastest instructions.");

  // All are this module's own: another one may hold the same kernels, and _core has a class of
  // Pair.
  py::class_<Pair>(m, "Pair", "A 1xk and a kx1 convolution as one problem.", py::module_local())
      .def(py::init(&stated_pair), py::kw_only(), py::arg("input_shape"), py::arg("weight1_shape"),
           py::arg("weight2_shape"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
           py::arg("groups"), py::arg("activation"), py::arg("dtype"), py::arg("channels_last"));

  py::class_<PlannedPair> pair(m, "PlannedPair", "A pair, planned for a device.",
                               py::module_local());
  pair.def(py::init([](const Pair &stated, const Device &device, bool tf32) {
             return PlannedPair{stated, conv::cuda::plan(stated, device, tf32)};
           }),
           py::arg("pair"), py::arg("device"), py::arg("tf32"));
  describe(pair);
  pair.def("forward", &pair_forward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("b2"), py::arg("y"), py::arg("device"), py::arg("workspace"), py::arg("stream"),
           "Queue what fills y, given addresses of dense tensors on the device.")
      .def("backward", &pair_backward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("grad_y"), py::arg("grad_x"), py::arg("grad_w1"), py::arg("grad_w2"),
           py::arg("grad_b1"), py::arg("grad_b2"), py::arg("device"), py::arg("workspace"),
           py::arg("stream"), "Queue what fills the gradients that have an address.");

  py::class_<PlannedStrips> strips(m, "PlannedStrips",
                                   "A sum of depthwise pairs over one image, planned for a device.",
                                   py::module_local());
  strips.def(py::init([](const std::vector<Pair> &pairs, bool residual, const Device &device) {
               const Strips sum = conv::make_strips(pairs, residual);
               return PlannedStrips{sum, conv::cuda::plan(sum, device)};
             }),
             py::arg("pairs"), py::arg("residual"), py::arg("device"));
  describe(strips);
  strips
      .def("forward", &strips_forward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("b2"), py::arg("y"), py::arg("device"), py::arg("workspace"), py::arg("stream"),
           "Queue what fills y, given addresses of dense tensors on the device.")
      .def("backward", &strips_backward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("grad_y"), py::arg("grad_x"), py::arg("grad_w1"), py::arg("grad_w2"),
           py::arg("grad_b1"), py::arg("grad_b2"), py::arg("device"), py::arg("workspace"),
           py::arg("stream"), "Queue what fills the gradients that have an address.");
}
