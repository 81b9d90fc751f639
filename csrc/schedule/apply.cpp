#include "apply.h"

#include <utility>

namespace py = pybind11;

namespace pyphase {
namespace {

constexpr const char *kCapsule = "pyphase.writer";

struct Writer {
  std::shared_ptr<const Plan> plan;
  std::vector<Slot> slots;
  std::size_t phase = 0;  // of the last call: steps mostly come in order
  bool fresh = true;      // nothing written yet
  py::str fill{"fill_"};
};

bool is_number(PyObject *object) { return PyFloat_CheckExact(object) || PyLong_CheckExact(object); }

// A tensor, or anything else that is filled in place rather than replaced.
bool is_filled(PyObject *object, PyObject *fill_name) {
  return !is_number(object) && PyObject_HasAttr(object, fill_name) != 0;
}

bool fill(PyObject *tensor, PyObject *value, PyObject *fill_name) {
  const auto result = py::reinterpret_steal<py::object>(
      PyObject_CallMethodObjArgs(tensor, fill_name, value, nullptr));
  return static_cast<bool>(result);
}

bool write_entry(PyObject *group, PyObject *key, PyObject *value, PyObject *fill_name) {
  PyObject *current = PyDict_GetItemWithError(group, key);
  if (current != nullptr && is_filled(current, fill_name)) {
    return fill(current, value, fill_name);
  }
  return PyErr_Occurred() == nullptr && PyDict_SetItem(group, key, value) == 0;
}

bool write_element(PyObject *group, PyObject *key, Py_ssize_t element, PyObject *value,
                   PyObject *fill_name) {
  PyObject *current = PyDict_GetItemWithError(group, key);
  if (current == nullptr || !PyTuple_Check(current) || element >= PyTuple_GET_SIZE(current)) {
    PyErr_Format(PyExc_TypeError, "param_groups[...][%R] must be a tuple of at least %zd values",
                 key, element + 1);
    return false;
  }
  PyObject *old = PyTuple_GET_ITEM(current, element);
  if (is_filled(old, fill_name)) {
    return fill(old, value, fill_name);
  }
  const Py_ssize_t size = PyTuple_GET_SIZE(current);
  const py::object tuple = py::reinterpret_steal<py::object>(PyTuple_New(size));
  if (!tuple) {
    return false;
  }
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject *item = i == element ? value : PyTuple_GET_ITEM(current, i);
    Py_INCREF(item);
    PyTuple_SET_ITEM(tuple.ptr(), i, item);
  }
  return PyDict_SetItem(group, key, tuple.ptr()) == 0;
}

bool write_slot(const Slot &slot, PyObject *group, PyObject *value, PyObject *fill_name) {
  if (!PyDict_Check(group)) {
    PyErr_SetString(PyExc_TypeError, "param_groups must be a list of dicts");
    return false;
  }
  return slot.element < 0 ? write_entry(group, slot.key.ptr(), value, fill_name)
                          : write_element(group, slot.key.ptr(), slot.element, value, fill_name);
}

bool write_curves(const Writer &writer, const Slot &slot, PyObject *groups, Fractions at_step) {
  const Track &track = writer.plan->tracks()[slot.track];
  const bool shared = track.width[writer.phase] == 1;
  py::object value;
  for (Py_ssize_t g = 0; g < PyList_GET_SIZE(groups); ++g) {
    if (g == 0 || !shared) {
      value = py::reinterpret_steal<py::object>(
          PyFloat_FromDouble(at(*track.curve(writer.phase, g), at_step.f, at_step.g)));
    }
    if (!value || !write_slot(slot, PyList_GET_ITEM(groups, g), value.ptr(), writer.fill.ptr())) {
      return false;
    }
  }
  return true;
}

bool write_own(const Writer &writer, const Slot &slot, PyObject *groups) {
  for (Py_ssize_t g = 0; g < PyList_GET_SIZE(groups); ++g) {
    if (!write_slot(slot, PyList_GET_ITEM(groups, g), slot.own[static_cast<std::size_t>(g)].ptr(),
                    writer.fill.ptr())) {
      return false;
    }
  }
  return true;
}

bool write(Writer &writer, PyObject *groups, std::int64_t step) {
  const Plan &plan = *writer.plan;
  bool entered = writer.fresh;
  if (entered || step < plan.begin(writer.phase) || step >= plan.end(writer.phase)) {
    const std::size_t phase = plan.phase_at(step);
    entered = entered || phase != writer.phase;
    writer.phase = phase;
    writer.fresh = false;
  }
  const Fractions at_step = plan.fractions(writer.phase, step);
  for (const Slot &slot : writer.slots) {
    const bool is_set = plan.tracks()[slot.track].width[writer.phase] != 0;
    if (is_set ? !write_curves(writer, slot, groups, at_step)
               : entered && !write_own(writer, slot, groups)) {
      writer.fresh = true;
      return false;
    }
  }
  return true;
}

PyObject *call_write(PyObject *capsule, PyObject *const *arguments, Py_ssize_t count) {
  auto *writer = static_cast<Writer *>(PyCapsule_GetPointer(capsule, kCapsule));
  if (writer == nullptr) {
    return nullptr;
  }
  if (count != 2 || !PyList_Check(arguments[0])) {
    PyErr_SetString(PyExc_TypeError, "write(groups, step): groups must be a list of dicts");
    return nullptr;
  }
  const std::int64_t step = PyLong_AsLongLong(arguments[1]);
  if (step == -1 && PyErr_Occurred() != nullptr) {
    return nullptr;
  }
  if (PyList_GET_SIZE(arguments[0]) != writer->plan->num_groups() || step < 0) {
    PyErr_Format(PyExc_ValueError,
                 "the plan was bound to %lld parameter groups and takes steps from 0, but the "
                 "optimizer has %zd groups and the step is %lld",
                 static_cast<long long>(writer->plan->num_groups()), PyList_GET_SIZE(arguments[0]),
                 static_cast<long long>(step));
    return nullptr;
  }
  if (!write(*writer, arguments[0], step)) {
    return nullptr;
  }
  Py_RETURN_NONE;
}

void delete_writer(PyObject *capsule) {
  delete static_cast<Writer *>(PyCapsule_GetPointer(capsule, kCapsule));
}

PyMethodDef write_method = {
    "write", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_write)), METH_FASTCALL,
    "write(groups, step): set the values of `step` in every parameter group."};

}  // namespace

py::object make_writer(std::shared_ptr<const Plan> plan, std::vector<Slot> slots) {
  for (Slot &slot : slots) {
    PyObject *key = slot.key.release().ptr();
    PyUnicode_InternInPlace(&key);
    slot.key = py::reinterpret_steal<py::str>(key);
  }
  auto writer = std::make_unique<Writer>();
  writer->plan = std::move(plan);
  writer->slots = std::move(slots);
  const auto capsule =
      py::reinterpret_steal<py::object>(PyCapsule_New(writer.get(), kCapsule, delete_writer));
  if (!capsule) {
    throw py::error_already_set();
  }
  static_cast<void>(writer.release());  // the capsule owns it now
  auto function =
      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&write_method, capsule.ptr(), nullptr));
  if (!function) {
    throw py::error_already_set();
  }
  return function;
}

}  // namespace pyphase
