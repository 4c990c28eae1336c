// Python objects read as numbers, the common ones without a conversion call.
#pragma once

#include <Python.h>

#include <cstdint>

namespace tracelet::bindings {

// Reads floats, numpy scalars and one-element CPU tensors where they lie. False,
// without an exception, for all else.
bool read_scalar_in_place(PyObject* object, double* value);

// Reads int, bool, one-element arrays and tensors, and whatever float() takes, by a call of theirs;
// that of a tensor on a device waits for the device. False with a Python exception set; it does not
// know the tag yet.
bool read_scalar_by_call(PyObject* object, double* value);

// Whether it is an array of a class derived from numpy's with a __float__ of its own: one of
// numpy.ma, whose masked elements have memory like the others.
bool is_array_of_its_own_kind(PyObject* object);

// Whether it is a tensor with one element that lies on a device.
bool is_scalar_on_device(PyObject* object);

// Reads an int, a numpy integer, and whatever int() takes. False with a Python exception set.
bool read_step_slow(PyObject* object, std::int64_t* step);

// Looks up numpy's scalar types and checks that their memory is laid out as read_scalar_slow reads
// it; types for which it is not keep the slower way. Called once, when the module is loaded.
void learn_numpy_types();

// An int that fits one machine word without a call. False for larger ones.
inline bool read_small_int(PyObject* object, std::int64_t* value) {
  auto* number = reinterpret_cast<PyLongObject*>(object);
#if PY_VERSION_HEX >= 0x030C0000
  if (!PyUnstable_Long_IsCompact(number)) return false;
  *value = PyUnstable_Long_CompactValue(number);
  return true;
#else
  const Py_ssize_t size = Py_SIZE(number);
  if (size < -1 || size > 1) return false;
  *value = static_cast<std::int64_t>(size) * static_cast<std::int64_t>(number->ob_digit[0]);
  return true;
#endif
}

// An exact float, or an exact int that fits one machine word.
inline bool read_common_scalar(PyObject* object, double* value) {
  if (PyFloat_CheckExact(object)) [[likely]] {
    *value = PyFloat_AS_DOUBLE(object);
    return true;
  }
  std::int64_t small;
  if (PyLong_CheckExact(object) && read_small_int(object, &small)) {
    *value = static_cast<double>(small);
    return true;
  }
  return false;
}

// Any of these. False with a Python exception set.
inline bool read_scalar(PyObject* object, double* value) {
  return read_common_scalar(object, value) || read_scalar_in_place(object, value) ||
         read_scalar_by_call(object, value);
}

inline bool read_step(PyObject* object, std::int64_t* step) {
  if (PyLong_CheckExact(object) && read_small_int(object, step)) [[likely]]
    return true;
  return read_step_slow(object, step);
}

}  // namespace tracelet::bindings
