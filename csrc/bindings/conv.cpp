// The Python face of the factorized convolutions: names, types and docstrings, no logic.
#include "conv.h"

#include "../conv/dispatch.h"
#include "../conv/pair.h"
#include "address.h"

namespace py = pybind11;

namespace pyphase {
namespace {

using conv::Pair;
using conv::PairData;
using conv::Route;
using conv::Strips;

const char *name_of(Route route) {
  return route == Route::depthwise ? "depthwise" : route == Route::dense ? "dense" : "";
}

std::array<std::int64_t, 4> output_shape(const Pair &pair) {
  return {pair.batch, pair.channels[2], pair.out_height, pair.out_width};
}

void pair_forward(const Pair &pair, Address x, Address w1, Address w2, Address b1, Address b2,
                  Address y) {
  const PairData data = pair_data(x, w1, w2, b1, b2);
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::forward(pair, data, out);
}

void pair_backward(const Pair &pair, Address x, Address w1, Address w2, Address b1, Address grad_y,
                   Address grad_x, Address grad_w1, Address grad_w2, Address grad_b1,
                   Address grad_b2) {
  const PairData data = pair_data(x, w1, w2, b1, {});
  const void *from = required(grad_y, "grad_y");
  const conv::Gradients grad = gradients(grad_x, grad_w1, grad_w2, grad_b1, grad_b2);
  const py::gil_scoped_release release;
  conv::backward(pair, data, from, grad);
}

void strips_forward(const Strips &strips, Address x, const Addresses &w1, const Addresses &w2,
                    const Addresses &b1, const Addresses &b2, Address y) {
  const std::vector<PairData> data = strips_data(strips, x, w1, w2, b1, b2);
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::forward(strips, data, out);
}

void strips_backward(const Strips &strips, Address x, const Addresses &w1, const Addresses &w2,
                     const Addresses &b1, Address grad_y, Address grad_x, const Addresses &grad_w1,
                     const Addresses &grad_w2, const Addresses &grad_b1, const Addresses &grad_b2) {
  const std::vector<PairData> data = strips_data(strips, x, w1, w2, b1, Addresses(b1.size()));
  std::vector<conv::Gradients> grad =
      strips_gradients(strips, grad_x, grad_w1, grad_w2, grad_b1, grad_b2);
  const void *from = required(grad_y, "grad_y");
  const py::gil_scoped_release release;
  conv::backward(strips, data, from, std::move(grad));
}

}  // namespace

void bind_conv(py::module_ &m) {
  m.def(
      "isa", [] { return std::string(conv::kernels().name); },
      "Instruction set of the convolution kernels in use; PYPHASE_ISA overrides the choice.");
  m.def("isas", &conv::instruction_sets, "Instruction sets that run on this machine.");
  py::class_<Pair>(m, "ConvPair",
                   "A 1xk and a kx1 convolution as one problem, checked at construction.")
      .def(py::init(&stated_pair), py::kw_only(), py::arg("input_shape"), py::arg("weight1_shape"),
           py::arg("weight2_shape"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
           py::arg("groups"), py::arg("activation"), py::arg("dtype"), py::arg("channels_last"))
      .def_property_readonly("output_shape", &output_shape, "(N, C, H, W) of the output.")
      .def_property_readonly(
          "kernel", [](const Pair &pair) { return name_of(conv::route(pair)); },
          "The native kernel that serves the problem: depthwise, dense, or none ('').")
      .def(
          "wins", [](const Pair &pair, bool backward) { return conv::wins(pair, backward); },
          py::arg("backward"),
          "Whether the native kernel is expected to be faster than torch's convolutions.")
      .def("forward", &pair_forward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("b2"), py::arg("y"), "Fill y, given addresses of dense tensors.")
      .def("backward", &pair_backward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("grad_y"), py::arg("grad_x"), py::arg("grad_w1"), py::arg("grad_w2"),
           py::arg("grad_b1"), py::arg("grad_b2"),
           "Fill the gradients that have an address, given those of dense tensors.");
  py::class_<Strips>(m, "ConvStrips",
                     "A sum of depthwise pairs over one image, with the image if `residual`.")
      .def(py::init(&conv::make_strips), py::kw_only(), py::arg("pairs"), py::arg("residual"))
      .def_property_readonly(
          "kernel", [](const Strips &strips) { return name_of(conv::route(strips)); },
          "The native kernel that serves the problem, or ''.")
      .def(
          "wins", [](const Strips &strips, bool) { return conv::wins(strips); },
          py::arg("backward"),
          "Whether the native kernel is expected to be faster than torch's convolutions.")
      .def("forward", &strips_forward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("b2"), py::arg("y"), "Fill y, given addresses of dense tensors.")
      .def("backward", &strips_backward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("grad_y"), py::arg("grad_x"), py::arg("grad_w1"), py::arg("grad_w2"),
           py::arg("grad_b1"), py::arg("grad_b2"),
           "Fill the gradients that have an address, given those of dense tensors.");
}

}  // namespace pyphase
