// Experiment.log: the entries of a mapping, each a point of the same step. All of them are read
// before the first is pushed: a value that is none costs the others nothing half done.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bindings.h"
#include "capture_support.h"

namespace tracelet::bindings {
namespace {

constexpr const char* kMethod = "log";

// The steps of calls that name none: each one more than the greatest that was named or counted.
class StepCounter {
 public:
  std::int64_t next() noexcept { return next_.fetch_add(1, std::memory_order_relaxed); }
  void follow(std::int64_t step) noexcept {
    std::int64_t next = next_.load(std::memory_order_relaxed);
    while (next <= step && step < INT64_MAX &&
           !next_.compare_exchange_weak(next, step + 1, std::memory_order_relaxed)) {
    }
  }

 private:
  // Written and read by each thread that logs through the handle, relaxed: it publishes nothing
  // but itself.
  std::atomic<std::int64_t> next_ = 0;
};

// What was read and not pushed yet. A value that waits on a device is forgotten with it.
class Entries {
 public:
  struct Entry {
    nb::object name;
    Point point;
  };

  Entries() = default;
  Entries(const Entries&) = delete;
  Entries& operator=(const Entries&) = delete;
  ~Entries() {
    for (std::size_t i = taken_; i < entries_.size(); ++i) forget_parked(entries_[i].point);
  }

  void reserve(std::size_t count) { entries_.reserve(count); }
  std::size_t size() const { return entries_.size(); }
  void add(nb::handle name, nb::handle value) {
    if (!PyUnicode_Check(name.ptr()) || PyUnicode_GET_LENGTH(name.ptr()) == 0) {
      throw nb::type_error(
          ("log: each name must be a str that is not empty, not " + describe(name.ptr())).c_str());
    }
    // Kept by the str: nothing that can go wrong with a name is left for the push.
    if (PyUnicode_AsUTF8AndSize(name.ptr(), nullptr) == nullptr) {
      PyErr_Clear();
      throw nb::value_error(
          ("log: the name " + describe(name.ptr()) + " can't be written as UTF-8").c_str());
    }
    check_metric(kMethod, name.ptr(), value.ptr(), nullptr);
    Point point;
    if (!read_value(kMethod, name.ptr(), value.ptr(), point)) throw nb::python_error();
    entries_.push_back({nb::borrow(name), point});
  }
  // From here on the point is the caller's.
  Entry& take() { return entries_[taken_++]; }

 private:
  std::vector<Entry> entries_;
  std::size_t taken_ = 0;
};

// A snapshot where user code may come between: what reads a value may change the mapping.
void read_entries(nb::handle metrics, Entries& entries) {
  const auto items = nb::steal(enter_python([&] { return PyMapping_Items(metrics.ptr()); }));
  if (!items.is_valid()) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw nb::python_error();
    PyErr_Clear();
    throw nb::type_error((std::string("log: metrics must be a mapping of names to numbers, not ") +
                          describe(metrics.ptr()) + "; log_metric(name, value, step) logs one")
                             .c_str());
  }
  const Py_ssize_t count = PyList_GET_SIZE(items.ptr());
  entries.reserve(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PyList_GET_ITEM(items.ptr(), i);
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
      throw nb::type_error("log: the mapping's items() must be pairs of a name and a number");
    }
    entries.add(PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1));
  }
}

// False for none given.
bool read_given_step(nb::handle step, std::int64_t* into) {
  if (!is_given(step.ptr())) return false;
  if (!PyLong_CheckExact(step.ptr()) && !is_index(step.ptr())) {
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    throw nb::type_error(
        (std::string("log: step must be an int, not of type ") + Py_TYPE(step.ptr())->tp_name)
            .c_str());
  }
  if (!read_step(step.ptr(), into)) {
    PyErr_Clear();
    throw nb::value_error("log: step must be an integer within 64 bits");
  }
  return true;
}

// `run` is null for the active one.
void log_metrics(const std::shared_ptr<RunRing>& run, nb::handle metrics, nb::handle step,
                 StepCounter& counter, nb::str writer) {
  Producer& producer = Producer::current();
  Entries entries;
  read_entries(metrics, entries);
  std::int64_t at_step = 0;
  if (read_given_step(step, &at_step)) {
    counter.follow(at_step);
  } else if (entries.size() != 0) {
    at_step = counter.next();
  }
  const double now_s = producer.now_s();
  const std::shared_ptr<RunRing> begun = run != nullptr ? run : producer.share();
  const auto folder = nb::cast<std::string_view>(writer);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    auto& [name, point] = entries.take();
    point.step = at_step;
    point.wall_time_s = now_s;
    const Pushed pushed = settled(
        point, run != nullptr ? push_into(*run, {folder, nb::cast<std::string_view>(name)}, point)
                              : producer.push_by_text(writer.ptr(), name.ptr(), point));
    if (pushed == Pushed::kError) throw nb::python_error();
    if (pushed != Pushed::kNoRun) continue;
    if (i == 0 || begun == nullptr) throw std::runtime_error("no tracelet run is active");
    count_after_end(*begun);
  }
}

}  // namespace

void register_log_metrics(nb::module_& m) {
  nb::class_<StepCounter>(
      m, "StepCounter", "Counts the steps of calls of Experiment.log that name none. Thread-safe.")
      .def(nb::init<>());
  m.def("log_metrics", &log_metrics, nb::arg("ring").none(), nb::arg("metrics").none(),
        nb::arg("step").none(), nb::arg("counter"), nb::arg("writer"),
        "Pushes a point for each entry; `ring` is None for the active run, `writer` the log folder "
        "that the points go to, or empty. Raises TypeError, ValueError; then none was pushed.");
}

}  // namespace tracelet::bindings
