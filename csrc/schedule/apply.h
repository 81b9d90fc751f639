// Writes the values of a plan into the parameter groups of a torch optimizer.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "plan.h"

namespace pyphase {

// Where a track goes: group[key], or one element of the tuple group[key].
struct Slot {
  std::size_t track = 0;
  pybind11::str key;
  Py_ssize_t position = 0;  // of the key in the dictionary, for PyDict_Next: a hint
  Py_ssize_t element = -1;  // -1: the whole entry
  std::vector<double> own;  // a group each: its value in phases that do not set the track
};

// write(groups, step) -> None, a builtin function that holds the plan and the slots.
//
// It is called once a step, so it uses CPython's own calling convention and dictionary functions:
// pybind11's dispatcher alone takes as long as writing several groups. A tensor keeps its identity
// and is filled in place.
pybind11::object make_writer(std::shared_ptr<const Plan> plan, std::vector<Slot> slots);

}  // namespace pyphase
