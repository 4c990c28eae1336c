// tracelet._core: the native half, as Python sees it. Each concept registers itself.
#include <exception>
#include <system_error>

#include "bindings.h"

namespace tracelet::bindings {
void register_run_push(nb::module_& m);
void register_log_metrics(nb::module_& m);
}  // namespace tracelet::bindings

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

namespace {

// The module as it was made first. A process may import it again (a test runner or a notebook that
// drops modules from sys.modules): types and enums are registered once in a process, so a later
// module gets the first one's attributes.
PyObject* first_attributes = nullptr;

}  // namespace

NB_MODULE(_core, m) {
  if (first_attributes != nullptr) {
    if (PyDict_Merge(PyModule_GetDict(m.ptr()), first_attributes, /*override=*/0) != 0) {
      throw nanobind::python_error();
    }
    return;
  }
  // A run that is not stopped lives until the process ends: that is no leak.
  nanobind::set_leak_warnings(false);
  m.doc() =
      "Tracelet's native core: the ring, the capture of SummaryWriter calls, "
      "histograms, the encoders.";
  nanobind::register_exception_translator(raise_os_error);
  tracelet::bindings::register_ring(m);
  tracelet::bindings::register_payloads(m);
  tracelet::bindings::register_run_push(m);
  tracelet::bindings::register_log_metrics(m);
  tracelet::bindings::register_histogram(m);
  tracelet::bindings::register_capture(m);
  tracelet::bindings::register_stored(m);
  tracelet::bindings::register_encoders(m);
  tracelet::bindings::register_event_reader(m);
  tracelet::bindings::register_fold(m);
  tracelet::bindings::register_series_summary(m);
  tracelet::bindings::register_timelines(m);
  m.def(
      "shared",
      [] {
        static PyObject* const shared = PyDict_New();
        return nanobind::typed<nanobind::dict, nanobind::str, nanobind::object>(
            nanobind::borrow<nanobind::dict>(shared));
      },
      "A dict that outlives a second import of the package.");
  first_attributes = PyDict_Copy(PyModule_GetDict(m.ptr()));
}
