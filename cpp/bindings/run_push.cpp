// Points of an experiment's handle for its own run, which is not always the active one: in a block
// inside another, the outer handle goes on logging to the outer run.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>

#include <chrono>
#include <memory>
#include <span>
#include <string_view>

#include "bindings.h"
#include "capture_support.h"

namespace tracelet::bindings {
namespace {

// Waits for room without the GIL, as long as the run allows. False when the point was dropped and
// counted. The caller owns the run. Throws python_error when a signal handler raised.
template <typename TryPush, typename Wait>
bool push_or_wait(RunRing& run, TryPush try_push, Wait wait) {
  using std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kSlice(50);  // signals are seen this often
  const auto deadline = steady_clock::now() + std::chrono::nanoseconds(run.full_ring_timeout_ns);
  while (!try_push()) {
    auto& counters = run.file->counters();
    if (run.file->ring().is_closed()) {
      counters.run_ended.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    if (run.consumer_is_stuck.load(std::memory_order_relaxed) || steady_clock::now() >= deadline) {
      run.consumer_is_stuck.store(true, std::memory_order_relaxed);
      counters.ring_full.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    {
      const nb::gil_scoped_release released;
      wait(kSlice);
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
  run.consumer_is_stuck.store(false, std::memory_order_relaxed);
  return true;
}

// False when the table of tags is full: the point is counted.
bool intern(RunRing& run, std::string_view writer, std::string_view tag, Point& point) {
  TagTable& table = run.file->tags();
  point.writer_id = writer.empty() ? kNoWriter : table.intern(writer);
  point.tag_id = table.intern(tag);
  if (point.tag_id != 0 && (point.writer_id != kNoWriter || writer.empty())) return true;
  run.file->counters().tag_table_full.fetch_add(1, std::memory_order_relaxed);
  return false;
}

void log_metric_into(const std::shared_ptr<RunRing>& run, nb::handle name, nb::handle value,
                     nb::handle step, std::string_view writer) {
  const char* method = "log_metric";
  if (!PyUnicode_Check(name.ptr())) {
    PyErr_Format(PyExc_TypeError, "tag must be a str, not %.200s", Py_TYPE(name.ptr())->tp_name);
    throw nb::python_error();
  }
  Point point;
  const bool is_read =
      read_step_and_time(method, name.ptr(), step.ptr(), nullptr, Producer::current(), point) &&
      read_value(method, name.ptr(), value.ptr(), point);
  if (!is_read) throw nb::python_error();
  bool is_pushed = false;
  try {
    Ring& ring = run->file->ring();
    is_pushed = intern(*run, writer, nb::cast<std::string_view>(name), point) &&
                push_or_wait(
                    *run, [&] { return ring.try_push(point); },
                    [&](std::chrono::nanoseconds time) { ring.wait_for_room(time); });
  } catch (...) {
    forget_parked(point);
    throw;
  }
  if (!is_pushed) forget_parked(point);
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
  Ring& ring = run->file->ring();
  auto& payloads = run->file->payloads();
  return intern(*run, writer, tag, point) &&
         push_or_wait(
             *run, [&] { return payloads.try_push(ring, point, bytes); },
             [&](std::chrono::nanoseconds time) {
               payloads.wait_for_room(ring, bytes.size(), time);
             });
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
