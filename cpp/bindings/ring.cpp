// Ring, Lease: the ring file of a run and the leased views of its records.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <chrono>
#include <string_view>
#include <utility>

#include "bindings.h"
#include "tracelet/crc32c.h"
#include "tracelet/platform.h"

namespace tracelet::bindings {
namespace {

thread_local std::int64_t cpu_without_gil_ns = 0;

std::chrono::nanoseconds to_ns(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

// The committed records from the ring's tail on, exported as a read-only buffer until released.
struct Lease {
  std::shared_ptr<RunRing> run;
  RecordSpan records;
  // Buffers out: numpy arrays and their slices hold one between them. Any thread may let go of one;
  // relaxed: it publishes nothing. By atomic_ref, so that a lease can be moved before it is shared.
  std::int64_t exports = 0;
  bool released = false;

  std::atomic_ref<std::int64_t> export_count() { return std::atomic_ref(exports); }

  std::int64_t end_lease() {
    if (!std::exchange(released, true)) {
      run->file->payloads().give_back(records);
      run->file->ring().give_back(records.size);
      run->file->payloads().reclaim(run->file->ring());
    }
    return export_count().load(std::memory_order_relaxed);
  }
};

int lease_get_buffer(PyObject* self, Py_buffer* view, int flags) {
  auto* lease = nb::inst_ptr<Lease>(self);
  if (lease->released) {
    PyErr_SetString(PyExc_BufferError,
                    "this lease has ended and its part of the ring is in use again: copy the "
                    "records you need while you hold the lease");
    view->obj = nullptr;
    return -1;
  }
  const auto size_bytes = static_cast<Py_ssize_t>(lease->records.size * sizeof(Record));
  if (PyBuffer_FillInfo(view, self, const_cast<Record*>(lease->records.data), size_bytes,
                        /*readonly=*/1, flags) != 0) {
    return -1;
  }
  lease->export_count().fetch_add(1, std::memory_order_relaxed);
  return 0;
}

void lease_release_buffer(PyObject* self, Py_buffer*) {
  nb::inst_ptr<Lease>(self)->export_count().fetch_sub(1, std::memory_order_relaxed);
}

PyType_Slot lease_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(lease_get_buffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(lease_release_buffer)},
    {0, nullptr},
};

struct LatePoints {
  std::shared_ptr<std::atomic<std::uint64_t>> points;
};

Lease lease(const std::shared_ptr<RunRing>& run, std::size_t limit) {
  ReleasedGil released;
  return {run, run->file->ring().committed(limit)};
}

}  // namespace

PayloadBuffer::PayloadBuffer(nb::handle object) {
  if (object.is_none()) return;
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) throw nb::python_error();
}
PayloadBuffer::~PayloadBuffer() {
  if (view_.obj != nullptr) PyBuffer_Release(&view_);
}

RecordBuffer::RecordBuffer(nb::handle object) {
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) throw nb::python_error();
  if (view_.len % static_cast<Py_ssize_t>(sizeof(Record)) != 0) {
    PyBuffer_Release(&view_);
    throw nb::value_error("records must be a contiguous buffer of whole 64-byte records");
  }
}

ReleasedGil::ReleasedGil() : start_ns_(thread_cpu_time_ns()) {}
ReleasedGil::~ReleasedGil() { cpu_without_gil_ns += thread_cpu_time_ns() - start_ns_; }
std::int64_t thread_cpu_without_gil_ns() { return cpu_without_gil_ns; }

void register_ring(nb::module_& m) {
  m.attr("RECORD_SIZE_BYTES") = sizeof(Record);
  m.attr("RECORD_VERSION") = kRecordVersion;
  m.attr("NO_WRITER") = kNoWriter;

  nb::class_<Lease>(m, "Lease", nb::type_slots(lease_slots),
                    "Records on loan from the ring: a read-only buffer, good until release().\n\n"
                    "`numpy.frombuffer(lease, dtype=tracelet.RECORD_DTYPE)` is a view without a "
                    "copy. A released lease raises BufferError.")
      .def("__len__", [](const Lease& self) { return self.records.size; })
      .def_prop_ro(
          "exports",
          [](Lease& self) { return self.export_count().load(std::memory_order_relaxed); },
          "How many buffers of this lease are in use.")
      .def("release", &Lease::end_lease,
           "Gives the records' space back to the ring. Returns how many buffers were still in use; "
           "their memory stays mapped, but what it holds changes from now on.");

  nb::class_<RunRing>(m, "Ring",
                      "The ring of a run in a memory-mapped file: any number of producers, in any "
                      "thread and in forked children, and one consumer thread.")
      .def_static(
          "create",
          [](const std::string& path, std::uint64_t capacity, double full_ring_timeout_s,
             std::uint64_t payload_bytes) {
            auto run = std::make_shared<RunRing>();
            run->file = RingFile::create(path, capacity, payload_bytes);
            run->full_ring_timeout_ns = to_ns(full_ring_timeout_s).count();
            return run;
          },
          nb::arg("path"), nb::arg("capacity"), nb::arg("full_ring_timeout_s"),
          nb::arg("payload_bytes") = RingFile::kLeastPayloadBytes,
          "Creates the file, mode 0600, all space reserved; `capacity` is a power of two. An empty "
          "path is anonymous memory, for benchmarks. "
          "Raises OSError when it exists or the file system is full, ValueError for the capacity.")
      .def_static(
          "open",
          [](const std::string& path) {
            auto run = std::make_shared<RunRing>();
            run->file = RingFile::open(path);
            return run;
          },
          nb::arg("path"), "Maps the ring file of another process, dead or alive.")
      .def_static(
          "attach",
          [](const std::string& path, double full_ring_timeout_s) {
            auto file = RingFile::open(path);
            auto run = std::make_shared<RunRing>(file->owner_pid());
            run->file = std::move(file);
            run->full_ring_timeout_ns = to_ns(full_ring_timeout_s).count();
            return run;
          },
          nb::arg("path"), nb::arg("full_ring_timeout_s"),
          "Maps the ring of another process, to log into it. From the first point on the file is "
          "held: nobody takes it for one without producers. Raises OSError, RuntimeError for a "
          "file that is none of ours.")
      .def_prop_ro("path", [](const RunRing& self) { return self.file->path(); })
      .def_prop_ro(
          "id", [](const RunRing& self) { return self.file->id(); },
          "What tells this ring from every other, wherever its file lies; empty for one of an "
          "older "
          "version.")
      .def_prop_ro("capacity", [](const RunRing& self) { return self.file->ring().capacity(); })
      .def_prop_ro(
          "head", [](const RunRing& self) { return self.file->ring().head(); },
          "How many points were accepted so far.")
      .def_prop_ro(
          "tail", [](const RunRing& self) { return self.file->ring().tail(); },
          "How many points were taken out so far.")
      .def_prop_ro(
          "dropped",
          [](const RunRing& self) {
            const RunCounters& counters = self.file->counters();
            nb::dict dropped;
            dropped["ring full"] = counters.ring_full.load();
            dropped["tag table full"] = counters.tag_table_full.load();
            dropped["no disk space"] = counters.no_disk_space.load();
            dropped["run ended"] = counters.run_ended.load();
            return dropped;
          },
          nb::sig("def dropped(self) -> dict[str, int]"),
          "Points that found no place, by reason, of all processes that log into the run, but for "
          "late_points.")
      .def(
          "count_event_without_room",
          [](RunRing& self) {
            self.file->counters().no_disk_space.fetch_add(1, std::memory_order_relaxed);
          },
          "Counts an event that there is no room for on disk.")
      .def_prop_ro(
          "late_points", [](const RunRing& self) { return LatePoints{self.late_points}; },
          "The points of this process that came when the run had ended.")
      .def_prop_ro(
          "not_finite_values",
          [](const RunRing& self) { return self.file->counters().not_finite_values.load(); })
      .def(
          "add_not_finite_values",
          [](RunRing& self, std::uint64_t count) {
            self.file->counters().not_finite_values.fetch_add(count);
          },
          nb::arg("count"))
      .def(
          "close", [](RunRing& self) { self.file->ring().close(); },
          "Takes no more points, of no process: they are counted as dropped, \"run ended\". Any "
          "thread.")
      .def_prop_ro("is_closed", [](const RunRing& self) { return self.file->ring().is_closed(); })
      .def("lease", &lease, nb::arg("limit"),
           "The oldest records, at most `limit`, as far as they lie in one piece. Consumer only.")
      .def_prop_ro(
          "skipped", [](const RunRing& self) { return self.file->ring().skipped(); },
          "How many records of kind 0 were put in the place of points whose producer had died.")
      .def(
          "skip_dead",
          [](RunRing& self, bool owner_is_dead) {
            ReleasedGil released;
            return self.file->skip_dead(owner_is_dead);
          },
          nb::arg("owner_is_dead") = false,
          "When the oldest record is claimed and not written, and the process that claimed it is "
          "dead, puts one of kind 0 in its place. False otherwise. With `owner_is_dead`, who made "
          "the ring is, even where another process has its pid now. Consumer only.")
      .def(
          "wait_for_records",
          [](RunRing& self, double timeout_s) {
            ReleasedGil released;
            self.file->ring().wait_for_records(to_ns(timeout_s));
          },
          nb::arg("timeout_s"),
          "Sleeps until the ring is half full, wake() or the timeout. Consumer only.")
      .def(
          "wake", [](RunRing& self) { self.file->ring().wake(); },
          "Ends the consumer's wait. Any thread.")
      .def(
          "intern",
          [](RunRing& self, const std::string& text) { return self.file->tags().intern(text); },
          nb::arg("text"),
          "The id of a string (a tag or a log folder), 0 when the table is full. Any thread.")
      .def(
          "text",
          [](RunRing& self, std::uint32_t id) {
            const std::string_view text = self.file->tags().text(id);
            return nb::str(text.data(), text.size());
          },
          nb::arg("id"), "The string of an id, empty for an unknown one. Any thread.")
      .def("text_count", [](RunRing& self) { return self.file->tags().size(); })
      .def("after_fork_in_child", [](RunRing& self) {
        self.file->tags().after_fork_in_child();
        self.let_go();
        forget_views_of_other_threads();
      });

  nb::class_<LatePoints>(m, "LatePoints",
                         "How many points came after a run's end. It outlives the ring.")
      .def_prop_ro("count", [](const LatePoints& self) { return self.points->load(); });

  m.def(
      "crc32c",
      [](nb::handle data, std::uint32_t before) {
        Py_buffer view;
        if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) {
          throw nb::python_error();
        }
        std::uint32_t crc;
        {
          ReleasedGil released;
          crc = crc32c(view.buf, static_cast<std::size_t>(view.len), before);
        }
        PyBuffer_Release(&view);
        return crc;
      },
      nb::arg("data"), nb::arg("before") = 0,
      "CRC-32C of a buffer; `before` is that of the bytes before it.");
  m.def("thread_cpu_without_gil_ns", &thread_cpu_without_gil_ns,
        "CPU time the calling thread has spent inside tracelet with the GIL released, in ns.");
}

}  // namespace tracelet::bindings
