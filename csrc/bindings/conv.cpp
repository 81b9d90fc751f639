// The Python face of the factorized convolutions: names, types and docstrings, no logic. Tensors
// come as addresses, so that one build serves every version of torch.
#include "conv.h"

#include <pybind11/stl.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "../conv/dispatch.h"
#include "../conv/pair.h"

namespace py = pybind11;

namespace pyphase {
namespace {

using conv::Pair;
using conv::PairData;
using conv::PairRequest;
using conv::Route;
using conv::Strips;

using Address = std::optional<std::uintptr_t>;
using Addresses = std::vector<Address>;

void *pointer(const Address &address) {
  return reinterpret_cast<void *>(address.value_or(0));  // NOLINT(performance-no-int-to-ptr)
}

void *required(const Address &address, const char *name) {
  return address.value_or(0) ? pointer(address)
                             : throw py::value_error(std::string(name) + " is a null address");
}

const char *name_of(Route route) {
  return route == Route::depthwise ? "depthwise" : route == Route::dense ? "dense" : "";
}

std::array<std::int64_t, 4> output_shape(const Pair &pair) {
  return {pair.batch, pair.channels[2], pair.out_height, pair.out_width};
}

void pair_forward(const Pair &pair, Address x, Address w1, Address w2, Address b1, Address b2,
                  Address y) {
  const PairData data{required(x, "x"), required(w1, "w1"), required(w2, "w2"), pointer(b1),
                      pointer(b2)};
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::forward(pair, data, out);
}

void pair_backward(const Pair &pair, Address x, Address w1, Address w2, Address b1, Address grad_y,
                   Address grad_x, Address grad_w1, Address grad_w2, Address grad_b1,
                   Address grad_b2) {
  const PairData data{required(x, "x"), required(w1, "w1"), required(w2, "w2"), pointer(b1),
                      nullptr};
  const void *from = required(grad_y, "grad_y");
  const conv::Gradients grad{pointer(grad_x), pointer(grad_w1), pointer(grad_w2), pointer(grad_b1),
                             pointer(grad_b2)};
  const py::gil_scoped_release release;
  conv::backward(pair, data, from, grad);
}

// Each list of addresses must have an entry for each strip.
void check_lengths(const Strips &strips, std::initializer_list<const Addresses *> lists) {
  for (const Addresses *list : lists) {
    if (list->size() != strips.pairs.size()) {
      throw py::value_error("expected " + std::to_string(strips.pairs.size()) +
                            " addresses, one for each strip, got " + std::to_string(list->size()));
    }
  }
}

void strips_forward(const Strips &strips, Address x, const Addresses &w1, const Addresses &w2,
                    const Addresses &b1, const Addresses &b2, Address y) {
  check_lengths(strips, {&w1, &w2, &b1, &b2});
  std::vector<PairData> data;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    data.push_back({required(x, "x"), required(w1[i], "w1"), required(w2[i], "w2"), pointer(b1[i]),
                    pointer(b2[i])});
  }
  void *out = required(y, "y");
  const py::gil_scoped_release release;
  conv::forward(strips, data, out);
}

void strips_backward(const Strips &strips, Address x, const Addresses &w1, const Addresses &w2,
                     const Addresses &b1, Address grad_y, Address grad_x, const Addresses &grad_w1,
                     const Addresses &grad_w2, const Addresses &grad_b1, const Addresses &grad_b2) {
  check_lengths(strips, {&w1, &w2, &b1, &grad_w1, &grad_w2, &grad_b1, &grad_b2});
  std::vector<PairData> data;
  std::vector<conv::Gradients> grad;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    data.push_back(
        {required(x, "x"), required(w1[i], "w1"), required(w2[i], "w2"), pointer(b1[i]), nullptr});
    grad.push_back({pointer(grad_x), pointer(grad_w1[i]), pointer(grad_w2[i]), pointer(grad_b1[i]),
                    pointer(grad_b2[i])});
  }
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
      .def(py::init([](const conv::Shape &input_shape, const conv::Shape &weight1_shape,
                       const conv::Shape &weight2_shape, std::array<std::int64_t, 2> stride,
                       const conv::Shape &padding, std::array<std::int64_t, 2> dilation,
                       std::array<std::int64_t, 2> groups, std::string activation,
                       std::string dtype, bool channels_last) {
             return conv::make_pair({input_shape, weight1_shape, weight2_shape, stride, dilation,
                                     groups, padding, std::move(activation), std::move(dtype),
                                     channels_last});
           }),
           py::kw_only(), py::arg("input_shape"), py::arg("weight1_shape"),
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
          "wins", [](const Strips &strips) { return conv::wins(strips); },
          "Whether the native kernel is expected to be faster than torch's convolutions.")
      .def("forward", &strips_forward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("b2"), py::arg("y"), "Fill y, given addresses of dense tensors.")
      .def("backward", &strips_backward, py::arg("x"), py::arg("w1"), py::arg("w2"), py::arg("b1"),
           py::arg("grad_y"), py::arg("grad_x"), py::arg("grad_w1"), py::arg("grad_w2"),
           py::arg("grad_b1"), py::arg("grad_b2"),
           "Fill the gradients that have an address, given those of dense tensors.");
}

}  // namespace pyphase
