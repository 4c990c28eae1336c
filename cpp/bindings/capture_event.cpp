// Events that torch or tensorboardX built as protobufs: pushed as they are, or as the scalar or
// histogram that they hold.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings.h"
#include "capture_support.h"
#include "tracelet/histogram/payload.h"

namespace tracelet::bindings {
namespace {

Point point_at(RecordKind kind, std::int64_t step, double wall_time_s) {
  Point point;
  point.kind = kind;
  point.step = step;
  point.wall_time_s = wall_time_s;
  return point;
}

bool found_run(Pushed pushed) {
  if (pushed == Pushed::kError) throw nb::python_error();
  return pushed != Pushed::kNoRun;
}

// None without a run; whether the event is in the ring, or was dropped and counted.
std::optional<bool> push_event(std::string_view writer, std::string_view tag, nb::bytes payload,
                               std::int64_t step, double wall_time_s, bool is_path) {
  Point point = point_at(RecordKind::kEvent, step, wall_time_s);
  if (is_path) point.flags = kPayloadInFile;
  const Pushed pushed = Producer::current().push(
      {writer, tag}, point, {reinterpret_cast<const std::byte*>(payload.c_str()), payload.size()});
  if (!found_run(pushed)) return std::nullopt;
  return pushed == Pushed::kYes;
}

bool push_scalar(std::string_view writer, std::string_view tag, double value, std::int64_t step,
                 double wall_time_s) {
  Point point = point_at(RecordKind::kScalar, step, wall_time_s);
  point.value = value;
  return found_run(Producer::current().push({writer, tag}, point));
}

std::string histogram_payload(double min, double max, double num, double sum, double sum_squares,
                              const std::vector<double>& limits,
                              const std::vector<double>& counts) {
  if (limits.size() != counts.size()) throw nb::value_error("as many limits as counts are needed");
  HistogramHeader header{};
  header.min = min;
  header.max = max;
  header.num = num;
  header.sum = sum;
  header.sum_squares = sum_squares;
  std::string payload;
  append_raw_histogram_payload(header, limits, counts, payload);
  return payload;
}

bool push_histogram(std::string_view writer, std::string_view tag, double min, double max,
                    double num, double sum, double sum_squares, const std::vector<double>& limits,
                    const std::vector<double>& counts, std::int64_t step, double wall_time_s) {
  const std::string payload = histogram_payload(min, max, num, sum, sum_squares, limits, counts);
  Point point = point_at(RecordKind::kHistogram, step, wall_time_s);
  return found_run(
      Producer::current().push({writer, tag}, point, std::as_bytes(std::span(payload))));
}

bool count_event_without_room() {
  const std::shared_ptr<RunRing> run = Producer::current().share();
  if (run == nullptr) return false;
  run->file->counters().no_disk_space.fetch_add(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

void register_capture_event(nb::module_& m) {
  m.def("push_event", &push_event, nb::arg("writer"), nb::arg("tag"), nb::arg("payload"),
        nb::arg("step"), nb::arg("wall_time"), nb::arg("is_path"),
        "Pushes an Event protobuf's bytes, or the path of a file that holds them, waiting for room "
        "as long as the run allows. `writer` is a log folder and, after a NUL, the suffix of its "
        "file's name; empty for an event that goes to no file. False when it was dropped and "
        "counted; None when no run is active.");
  m.def("count_event_without_room", &count_event_without_room,
        "Counts an event that there is no room for on disk. False when no run is active.");
  m.def("push_scalar", &push_scalar, nb::arg("writer"), nb::arg("tag"), nb::arg("value"),
        nb::arg("step"), nb::arg("wall_time"),
        "Pushes the scalar that an Event holds. False when no run is active.");
  m.def("push_histogram", &push_histogram, nb::arg("writer"), nb::arg("tag"), nb::arg("min"),
        nb::arg("max"), nb::arg("num"), nb::arg("sum"), nb::arg("sum_squares"), nb::arg("limits"),
        nb::arg("counts"), nb::arg("step"), nb::arg("wall_time"),
        "Pushes the histogram that an Event holds. False when no run is active.");
  m.def(
      "histogram_payload",
      [](double min, double max, double num, double sum, double sum_squares,
         const std::vector<double>& limits, const std::vector<double>& counts) {
        const std::string payload =
            histogram_payload(min, max, num, sum, sum_squares, limits, counts);
        return nb::bytes(payload.data(), payload.size());
      },
      nb::arg("min"), nb::arg("max"), nb::arg("num"), nb::arg("sum"), nb::arg("sum_squares"),
      nb::arg("limits"), nb::arg("counts"),
      "The payload of the record of a histogram that an Event holds.");
}

}  // namespace tracelet::bindings
