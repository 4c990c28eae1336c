// The bins of a histogram for which a call gives none: the writer's `default_bins`.
#pragma once

#include "bindings.h"

namespace tracelet::bindings {

// What stands for them: null for TensorBoard's. False with a Python exception set.
bool read_default_bins(PyObject* writer, nb::object* bins);

}  // namespace tracelet::bindings
