// tracelet._core: the native half, as Python sees it. Each concept registers itself.
#include "bindings.h"

NB_MODULE(_core, m) {
  // A run that is not stopped lives until the process ends: that is no leak.
  nanobind::set_leak_warnings(false);
  m.doc() = "Tracelet's native core: the ring, the capture of SummaryWriter calls, the encoders.";
  tracelet::bindings::register_ring(m);
  tracelet::bindings::register_capture(m);
  tracelet::bindings::register_encoders(m);
  tracelet::bindings::register_fold(m);
}
