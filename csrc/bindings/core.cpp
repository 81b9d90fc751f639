// The Python face of the schedule core: names, types and docstrings, no logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "../schedule/apply.h"
#include "../schedule/curve.h"
#include "../schedule/plan.h"
#include "conv.h"

namespace py = pybind11;

namespace pyphase {
namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Steps = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

// One scalar curve as Python hands it over: (shape, start, end, param, knots, from, to).
using Form = std::tuple<int, double, double, double, std::vector<double>, double, double>;

Curve to_curve(const Form &form, std::vector<std::vector<double>> &knots) {
  knots.push_back(std::get<4>(form));
  return {static_cast<Shape>(std::get<0>(form)),
          std::get<1>(form),
          std::get<2>(form),
          std::get<3>(form),
          knots.back().data(),
          static_cast<std::int64_t>(knots.back().size()),
          std::get<5>(form),
          std::get<6>(form)};
}

double evaluate(const Form &form, double fraction) {
  std::vector<std::vector<double>> knots;
  return at(to_curve(form, knots), fraction, 1.0 - fraction);
}

// `phases` holds, for each phase, its curves of this track: none, one, or one a group.
Track make_track(const std::vector<std::vector<Form>> &phases) {
  Track track;
  for (const auto &forms : phases) {
    track.first.push_back(static_cast<std::int64_t>(track.curves.size()));
    track.width.push_back(static_cast<std::int64_t>(forms.size()));
    for (const Form &form : forms) {
      track.curves.push_back(to_curve(form, track.knots));
    }
  }
  return track;
}

Doubles table(const Plan &plan, std::size_t track, std::int64_t begin, std::int64_t end) {
  Doubles out({end - begin, plan.num_groups()});
  double *data = out.mutable_data();
  const py::gil_scoped_release release;
  plan.fill_table(plan.tracks().at(track), begin, end, data);
  return out;
}

Doubles gather(const Plan &plan, std::size_t track, const Steps &steps) {
  Doubles out({static_cast<std::int64_t>(steps.size()), plan.num_groups()});
  double *data = out.mutable_data();
  const std::int64_t *wanted = steps.data();
  const std::int64_t count = steps.size();
  const py::gil_scoped_release release;
  plan.gather(plan.tracks().at(track), wanted, count, data);
  return out;
}

std::vector<double> values(const Plan &plan, std::size_t track, std::int64_t step) {
  const Track &curves = plan.tracks().at(track);
  const std::size_t phase = plan.phase_at(step);
  const Fractions at_step = plan.fractions(phase, step);
  std::vector<double> out(static_cast<std::size_t>(curves.width[phase]));
  for (std::size_t group = 0; group < out.size(); ++group) {
    const Curve *curve = curves.curve(phase, static_cast<std::int64_t>(group));
    out[group] = at(*curve, at_step.f, at_step.g);
  }
  return out;
}

py::object writer(
    std::shared_ptr<const Plan> plan,
    const std::vector<std::tuple<std::size_t, py::str, Py_ssize_t, std::vector<double>>> &slots) {
  std::vector<Slot> targets;
  for (const auto &[track, key, element, own] : slots) {
    targets.push_back({track, key, 0, element, own});
  }
  return make_writer(std::move(plan), std::move(targets));
}

}  // namespace
}  // namespace pyphase

PYBIND11_MODULE(_core, m) {
  using namespace pyphase;
  m.doc() =
      "Schedules: curves in closed form, compiled plans, the writing of param groups. Factorized "
      "convolutions on the CPU.";
  bind_conv(m);
  m.def("phase_ends", &phase_ends, py::arg("lengths"),
        "Step at which each phase ends: its cumulative length in steps, rounded up.");
  m.def("evaluate", &evaluate, py::arg("form"), py::arg("fraction"),
        "Value of a curve, given as (shape, start, end, param, knots, from, to), at a fraction in "
        "[0, 1].");
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan", "Phases and tracks, compiled to steps.")
      .def(py::init([](std::vector<std::int64_t> ends, std::int64_t num_groups,
                       const std::vector<std::vector<std::vector<Form>>> &tracks) {
             std::vector<Track> compiled;
             compiled.reserve(tracks.size());
             for (const auto &track : tracks) {
               compiled.push_back(make_track(track));
             }
             return std::make_shared<Plan>(std::move(ends), num_groups, std::move(compiled));
           }),
           py::arg("ends"), py::arg("num_groups"), py::arg("tracks"))
      .def_property_readonly("total_steps", &Plan::total_steps)
      .def_property_readonly("num_groups", &Plan::num_groups)
      .def("phase_at", &Plan::phase_at, py::arg("step"), "Index of the phase that holds `step`.")
      .def("values", &values, py::arg("track"), py::arg("step"),
           "Values of a track at a step: none, one for all groups, or one a group.")
      .def("table", &table, py::arg("track"), py::arg("begin"), py::arg("end"),
           "Values of steps [begin, end), float64 (end - begin, groups); NaN where unset.")
      .def("gather", &gather, py::arg("track"), py::arg("steps"),
           "Values at any steps, float64 (len(steps), groups); NaN where unset.")
      .def("writer", &writer, py::arg("slots"),
           "Function write(groups, step) for slots (track, key, element or -1, own values).");
}
