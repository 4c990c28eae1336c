// What the binding files share: the run that Python holds, records as buffers, GIL notes.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "python_calls.h"
#include "tracelet/logged_run.h"
#include "tracelet/record.h"

namespace nb = nanobind;

namespace tracelet::bindings {

// As Python holds it: `_core.Ring`.
using RunRing = LoggedRun;

// Borrowed records out of any object with the buffer protocol: a lease's view, a journal block, a
// folded batch. Holds the buffer for as long as it lives.
class RecordBuffer {
 public:
  explicit RecordBuffer(nb::handle object);
  ~RecordBuffer() { PyBuffer_Release(&view_); }
  RecordBuffer(const RecordBuffer&) = delete;
  RecordBuffer& operator=(const RecordBuffer&) = delete;

  RecordSpan span() const {
    return {static_cast<const Record*>(view_.buf),
            static_cast<std::size_t>(view_.len) / sizeof(Record)};
  }

 private:
  Py_buffer view_;
};

// The payloads of records, out of any object with the buffer protocol; none for None.
class PayloadBuffer {
 public:
  explicit PayloadBuffer(nb::handle object);
  ~PayloadBuffer();
  PayloadBuffer(const PayloadBuffer&) = delete;
  PayloadBuffer& operator=(const PayloadBuffer&) = delete;

  PayloadSpan span() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

// The CPU time this thread spent without the GIL inside tracelet's calls, for the GIL's share.
class ReleasedGil {
 public:
  ReleasedGil();
  ~ReleasedGil();

 private:
  const WithoutGil released_;
  std::int64_t start_ns_;
};
std::int64_t thread_cpu_without_gil_ns();

// In the child of a fork: what other threads had in use is theirs no more.
void forget_views_of_other_threads();

void register_ring(nb::module_& m);
void register_capture(nb::module_& m);
void register_encoders(nb::module_& m);
void register_event_reader(nb::module_& m);
void register_fold(nb::module_& m);
void register_histogram(nb::module_& m);
void register_payloads(nb::module_& m);
void register_series_summary(nb::module_& m);
void register_stored(nb::module_& m);
void register_timelines(nb::module_& m);

}  // namespace tracelet::bindings
