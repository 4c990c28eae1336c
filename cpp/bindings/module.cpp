// tracelet._core: the native half, as Python sees it. Each concept registers itself.
#include <exception>
#include <system_error>

#include "bindings.h"

namespace tracelet::bindings {
void register_run_push(nb::module_& m);
}

namespace {

// A failure of the operating system is an OSError with its errno, as from Python's own calls.
void raise_os_error(const std::exception_ptr& error, void*) {
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& failure) {
    const nanobind::object arguments = nanobind::make_tuple(failure.code().value(), failure.what());
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
}

}  // namespace

NB_MODULE(_core, m) {
  // A run that is not stopped lives until the process ends: that is no leak.
  nanobind::set_leak_warnings(false);
  m.doc() =
      "Tracelet's native core: the ring, the capture of SummaryWriter calls, "
      "histograms, the encoders.";
  nanobind::register_exception_translator(raise_os_error);
  tracelet::bindings::register_ring(m);
  tracelet::bindings::register_payloads(m);
  tracelet::bindings::register_run_push(m);
  tracelet::bindings::register_histogram(m);
  tracelet::bindings::register_capture(m);
  tracelet::bindings::register_stored(m);
  tracelet::bindings::register_encoders(m);
  tracelet::bindings::register_event_reader(m);
  tracelet::bindings::register_fold(m);
  tracelet::bindings::register_timelines(m);
}
