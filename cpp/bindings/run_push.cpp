// Points of an experiment's handle for its own run, which is not always the active one: in a block
// inside another, the outer handle goes on logging to the outer run.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>

#include <memory>
#include <span>
#include <string_view>

#include "bindings.h"
#include "capture_support.h"

namespace tracelet::bindings {
namespace {

bool is_pushed(Pushed pushed) {
  if (pushed == Pushed::kError) throw nb::python_error();
  return pushed == Pushed::kYes;
}

// The run is owned by the call: what reads the value may end it.
void log_metric_into(const std::shared_ptr<RunRing>& run, nb::handle name, nb::handle value,
                     nb::handle step, std::string_view writer) {
  const char* method = "log_metric";
  check_metric(method, name.ptr(), value.ptr(), step.ptr());
  if (!PyUnicode_Check(name.ptr())) {
    PyErr_Format(PyExc_TypeError, "tag must be a str, not %.200s", Py_TYPE(name.ptr())->tp_name);
    throw nb::python_error();
  }
  const auto tag = nb::cast<std::string_view>(name);
  Point point;
  const bool is_read =
      read_step_and_time(method, name.ptr(), step.ptr(), nullptr, Producer::current(), point) &&
      read_value(method, name.ptr(), value.ptr(), point);
  if (!is_read) throw nb::python_error();
  is_pushed(settled(point, push_into(*run, {writer, tag}, point)));
}

bool push_event_into(const std::shared_ptr<RunRing>& run, std::string_view writer,
                     std::string_view tag, nb::bytes payload, std::int64_t step, double wall_time_s,
                     bool is_path) {
  Point point;
  point.kind = RecordKind::kEvent;
  point.step = step;
  point.wall_time_s = wall_time_s;
  if (is_path) point.flags = kPayloadInFile;
  const std::span bytes{reinterpret_cast<const std::byte*>(payload.c_str()), payload.size()};
  return is_pushed(push_into(*run, {writer, tag}, point, bytes));
}

}  // namespace

void register_run_push(nb::module_& m) {
  m.def("log_metric_into", &log_metric_into, nb::arg("ring"), nb::arg("name").none(),
        nb::arg("value").none(), nb::arg("step").none(), nb::arg("writer"),
        "log_metric for a run that is not the active one; `writer` is the log folder that the "
        "point goes to, or empty.");
  m.def("push_event_into", &push_event_into, nb::arg("ring"), nb::arg("writer"), nb::arg("tag"),
        nb::arg("payload"), nb::arg("step"), nb::arg("wall_time"), nb::arg("is_path"),
        "push_event for a run, active or not. False when the event was dropped and counted.");
}

}  // namespace tracelet::bindings
