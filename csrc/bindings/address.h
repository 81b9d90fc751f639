// Tensors as Python hands them over: addresses, so that one build serves every version of torch.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../conv/problem.h"

namespace pyphase {

using Address = std::optional<std::uintptr_t>;
using Addresses = std::vector<Address>;

inline void *pointer(const Address &address) {
  return reinterpret_cast<void *>(address.value_or(0));  // NOLINT(performance-no-int-to-ptr)
}

inline void *required(const Address &address, const char *name) {
  return address.value_or(0)
             ? pointer(address)
             : throw pybind11::value_error(std::string(name) + " is a null address");
}

inline conv::PairData pair_data(Address x, Address w1, Address w2, Address b1, Address b2) {
  return {required(x, "x"), required(w1, "w1"), required(w2, "w2"), pointer(b1), pointer(b2)};
}

inline conv::Gradients gradients(Address x, Address w1, Address w2, Address b1, Address b2) {
  return {pointer(x), pointer(w1), pointer(w2), pointer(b1), pointer(b2)};
}

// Each list of addresses must have an entry for each strip.
inline void check_length(const conv::Strips &strips, const Addresses &list) {
  if (list.size() != strips.pairs.size()) {
    throw pybind11::value_error("expected " + std::to_string(strips.pairs.size()) +
                                " addresses, one for each strip, got " +
                                std::to_string(list.size()));
  }
}

inline std::vector<conv::PairData> strips_data(const conv::Strips &strips, Address x,
                                               const Addresses &w1, const Addresses &w2,
                                               const Addresses &b1, const Addresses &b2) {
  for (const Addresses *list : {&w1, &w2, &b1, &b2}) {
    check_length(strips, *list);
  }
  std::vector<conv::PairData> data;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    data.push_back(pair_data(x, w1[i], w2[i], b1[i], b2[i]));
  }
  return data;
}

inline std::vector<conv::Gradients> strips_gradients(const conv::Strips &strips, Address x,
                                                     const Addresses &w1, const Addresses &w2,
                                                     const Addresses &b1, const Addresses &b2) {
  for (const Addresses *list : {&w1, &w2, &b1, &b2}) {
    check_length(strips, *list);
  }
  std::vector<conv::Gradients> grad;
  for (std::size_t i = 0; i < strips.pairs.size(); ++i) {
    grad.push_back(gradients(x, w1[i], w2[i], b1[i], b2[i]));
  }
  return grad;
}

// A pair as Python states it, checked.
inline conv::Pair stated_pair(const conv::Shape &input_shape, const conv::Shape &weight1_shape,
                              const conv::Shape &weight2_shape, std::array<std::int64_t, 2> stride,
                              const conv::Shape &padding, std::array<std::int64_t, 2> dilation,
                              std::array<std::int64_t, 2> groups, std::string activation,
                              std::string dtype, bool channels_last) {
  return conv::make_pair({input_shape, weight1_shape, weight2_shape, stride, dilation, groups,
                          padding, std::move(activation), std::move(dtype), channels_last});
}

}  // namespace pyphase
