#include "apply.h"

#include <algorithm>
#include <utility>

namespace py = pybind11;

namespace pyphase {
namespace {

constexpr const char *kCapsule = "pyphase.writer";

// Where one slot's values of a step come from: one for all groups, or an array with one a group.
struct Source {
  Slot *slot;
  double shared;
  const Curve *curves;
  const double *own;
  py::object number;  // the float that was set last
};

struct Writer {
  std::shared_ptr<const Plan> plan;
  std::vector<Slot> slots;
  std::size_t phase = 0;        // of the last call: steps mostly come in order
  bool fresh = true;            // nothing written yet
  std::vector<Source> sources;  // of the step being written
  bool busy = false;            // a tensor's fill_ is Python code that could call back
  py::str fill{"fill_"};
};

// A float that nothing but its container refers to can be overwritten, which is faster than a new
// float and a new dictionary entry. One that somebody else may have kept is replaced. (Without the
// GIL a count of one proves nothing.)
//
// But torch.compile takes a dictionary in which no entry was set for one with unchanged values, and
// goes on with the old ones: each step sets one entry of each group anew (write_group).
inline bool overwrite(PyObject *number, double value) {
#ifdef Py_GIL_DISABLED
  return false;
#else
  if (!PyFloat_CheckExact(number) || Py_REFCNT(number) != 1) {
    return false;
  }
  reinterpret_cast<PyFloatObject *>(number)->ob_fval = value;
  return true;
#endif
}

// A tensor, or anything else that is filled in place rather than replaced.
bool is_filled(PyObject *object, PyObject *fill_name) {
  const bool is_number = PyFloat_CheckExact(object) || PyLong_CheckExact(object);
  return !is_number && PyObject_HasAttr(object, fill_name) != 0;
}

bool fill(PyObject *tensor, const py::object &value, PyObject *fill_name) {
  const auto result = py::reinterpret_steal<py::object>(
      PyObject_CallMethodObjArgs(tensor, fill_name, value.ptr(), nullptr));
  return static_cast<bool>(result);
}

// group[key] = value
bool write_entry(PyObject *group, PyObject *key, PyObject *current, const py::object &value,
                 PyObject *fill_name) {
  if (current != nullptr && is_filled(current, fill_name)) {
    return fill(current, value, fill_name);
  }
  return PyDict_SetItem(group, key, value.ptr()) == 0;
}

// group[key] = (..., value, ...)
bool write_element(PyObject *group, const Slot &slot, PyObject *tuple, const py::object &value,
                   PyObject *fill_name) {
  PyObject *old = PyTuple_GET_ITEM(tuple, slot.element);
  if (is_filled(old, fill_name)) {
    return fill(old, value, fill_name);
  }
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  const auto replaced = py::reinterpret_steal<py::object>(PyTuple_New(size));
  for (Py_ssize_t i = 0; replaced && i < size; ++i) {
    PyObject *item = i == slot.element ? value.ptr() : PyTuple_GET_ITEM(tuple, i);
    Py_INCREF(item);
    PyTuple_SET_ITEM(replaced.ptr(), i, item);
  }
  return replaced && PyDict_SetItem(group, slot.key.ptr(), replaced.ptr()) == 0;
}

bool is_key(PyObject *key, const Slot &slot) {
  return key == slot.key.ptr() ||
         (PyUnicode_Check(key) && PyUnicode_Compare(key, slot.key.ptr()) == 0);
}

// group[key], or null: borrowed; remembers the position.
[[gnu::noinline]] PyObject *search(PyObject *group, Slot &slot) {
  PyObject *key = nullptr;
  PyObject *value = nullptr;
  Py_ssize_t next = 0;
  for (Py_ssize_t position = 0; PyDict_Next(group, &next, &key, &value); position = next) {
    if (is_key(key, slot)) {
      slot.position = position;
      return value;
    }
  }
  return nullptr;
}

// The groups of an optimizer have their keys in the same order: the key is first looked for at its
// last position, without hashing.
inline PyObject *find(PyObject *group, Slot &slot) {
  PyObject *key = nullptr;
  PyObject *value = nullptr;
  Py_ssize_t position = slot.position;
  const bool found = PyDict_Next(group, &position, &key, &value) && key == slot.key.ptr();
  return found ? value : search(group, slot);
}

// Everything but the overwriting of a float.
[[gnu::noinline]] bool replace(Slot &slot, PyObject *group, PyObject *current, double value,
                               PyObject *fill_name) {
  const auto number = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
  if (!number) {
    return false;
  }
  if (slot.element < 0) {
    return write_entry(group, slot.key.ptr(), current, number, fill_name);
  }
  if (current == nullptr || !PyTuple_Check(current) || slot.element >= PyTuple_GET_SIZE(current)) {
    PyErr_Format(PyExc_TypeError, "param_groups[...][%R] must be a tuple of at least %zd values",
                 slot.key.ptr(), slot.element + 1);
    return false;
  }
  return write_element(group, slot, current, number, fill_name);
}

// group[key] = value, as a new entry; groups with the same value share the float.
inline bool set_entry(Source &source, PyObject *group, double value) {
  const bool is_shared = source.curves == nullptr && source.own == nullptr;
  if (!is_shared || !source.number) {
    source.number = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
  }
  return source.number && PyDict_SetItem(group, source.slot->key.ptr(), source.number.ptr()) == 0;
}

inline bool overwrite_or_replace(Slot &slot, PyObject *group, PyObject *current, double value,
                                 PyObject *fill_name) {
  PyObject *number = current;
  if (slot.element >= 0) {
    const bool is_own = current != nullptr && PyTuple_CheckExact(current) &&
                        Py_REFCNT(current) == 1 && slot.element < PyTuple_GET_SIZE(current);
    number = is_own ? PyTuple_GET_ITEM(current, slot.element) : nullptr;
  }
  return (number != nullptr && overwrite(number, value)) ||
         replace(slot, group, current, value, fill_name);
}

inline bool write_group(Writer &writer, PyObject *group, std::size_t g, Fractions at_step) {
  if (!PyDict_Check(group)) {
    PyErr_SetString(PyExc_TypeError, "param_groups must be a list of dicts");
    return false;
  }
  bool is_set = false;  // one entry of this group, in this step
  for (Source &source : writer.sources) {
    double value = source.shared;
    if (source.curves != nullptr) {
      value = at(source.curves[g], at_step.f, at_step.g);
    } else if (source.own != nullptr) {
      value = source.own[g];
    }
    Slot &slot = *source.slot;
    PyObject *current = find(group, slot);
    const bool sets = !is_set && current != nullptr &&
                      (slot.element < 0 ? PyFloat_CheckExact(current) : PyTuple_Check(current));
    const bool written =
        !sets              ? overwrite_or_replace(slot, group, current, value, writer.fill.ptr())
        : slot.element < 0 ? set_entry(source, group, value)
                           : replace(slot, group, current, value, writer.fill.ptr());
    if (!written) {
      return false;
    }
    is_set = is_set || sets;
  }
  return true;
}

// Starts loading the dictionaries that come next: with many groups, a step waits for memory more
// than it computes. First the object, two groups later the table that it points to.
inline void prefetch(PyObject *groups, Py_ssize_t g) {
  const Py_ssize_t size = PyList_GET_SIZE(groups);
  if (g + 4 < size) {
    __builtin_prefetch(PyList_GET_ITEM(groups, g + 4));
  }
  if (g + 2 < size && PyDict_Check(PyList_GET_ITEM(groups, g + 2))) {
    const auto *dict = reinterpret_cast<PyDictObject *>(PyList_GET_ITEM(groups, g + 2));
    const auto *table = reinterpret_cast<const char *>(dict->ma_keys);
    __builtin_prefetch(table);
    __builtin_prefetch(table + 64);
  }
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
  const auto count = static_cast<Py_ssize_t>(plan.num_groups());
  writer.sources.clear();
  for (Slot &slot : writer.slots) {
    const Track &track = plan.tracks()[slot.track];
    const Curve *first = track.curve(writer.phase, 0);
    if (first == nullptr && entered) {
      writer.sources.push_back({&slot, 0.0, nullptr, slot.own.data(), {}});
    } else if (first != nullptr && track.width[writer.phase] > 1) {
      writer.sources.push_back({&slot, 0.0, first, nullptr, {}});
    } else if (first != nullptr) {
      writer.sources.push_back({&slot, at(*first, at_step.f, at_step.g), nullptr, nullptr, {}});
    }
  }
  for (Py_ssize_t g = 0; g < std::min(PyList_GET_SIZE(groups), count); ++g) {
    prefetch(groups, g);
    // Held: a tensor's fill_ is Python code, which could drop the group from the list.
    const auto group = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(groups, g));
    if (!write_group(writer, group.ptr(), static_cast<std::size_t>(g), at_step)) {
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
  if (writer->busy) {
    PyErr_SetString(PyExc_RuntimeError, "write() was called from inside itself");
    return nullptr;
  }
  writer->busy = true;
  const bool written = write(*writer, arguments[0], step);
  writer->busy = false;
  if (!written) {
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
    if (slot.track >= plan->tracks().size() ||
        slot.own.size() != static_cast<std::size_t>(plan->num_groups())) {
      throw py::value_error("a slot must name a track, and an own value for each group");
    }
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
