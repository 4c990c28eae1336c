// What the native bodies of SummaryWriter's methods share: binding arguments, reading steps and
// times, errors that name the tag, pushing.
#pragma once

#include <array>
#include <cmath>
#include <string>

#include "bindings.h"
#include "producer.h"
#include "scalar_value.h"

namespace tracelet::bindings {

// The parameters of a method, in order, `self` apart. Names are interned when the module loads.
template <std::size_t N>
struct Signature {
  const char* method;
  std::size_t required;
  std::array<const char*, N> names;
  std::array<PyObject*, N> interned{};

  void intern() {
    for (std::size_t i = 0; i < N; ++i) interned[i] = PyUnicode_InternFromString(names[i]);
  }

  // Puts the arguments into `values`, null where one was not given. False with TypeError set.
  bool bind(PyObject* const* args, Py_ssize_t count, PyObject* keywords,
            std::array<PyObject*, N>& values) const {
    if (static_cast<std::size_t>(count) > N) [[unlikely]] {
      PyErr_Format(PyExc_TypeError,
                   "%s() takes from %zu to %zu positional arguments but %zd were given", method,
                   required + 1, N + 1, count + 1);
      return false;
    }
    for (Py_ssize_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = args[i];
    const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < keyword_count; ++i) {
      PyObject* name = PyTuple_GET_ITEM(keywords, i);
      const std::size_t index = find(name);
      if (index == N) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method, name);
        return false;
      }
      if (values[index] != nullptr) {
        PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", method, name);
        return false;
      }
      values[index] = args[count + i];
    }
    for (std::size_t i = 0; i < required; ++i) {
      if (values[i] == nullptr) [[unlikely]] {
        PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", method, names[i]);
        return false;
      }
    }
    return true;
  }

 private:
  std::size_t find(PyObject* name) const {
    for (std::size_t i = 0; i < N; ++i) {
      if (interned[i] == name) return i;
    }
    for (std::size_t i = 0; i < N; ++i) {
      if (PyUnicode_Compare(interned[i], name) == 0) return i;
    }
    return N;
  }
};

// The methods of SummaryWriter that have native bodies.
enum class Method { kAddScalar, kAddScalars, kAddHistogram, kAddHistogramRaw };
inline constexpr std::size_t kMethodCount = 4;

// Calls what was in the class before: for calls that reach ours without a run, by a bound method
// kept from before stop_logging.
PyObject* call_original(Method method, PyObject* self, PyObject* const* args, Py_ssize_t count,
                        PyObject* keywords);
// Remembers the functions of a class, by method. Kept for good, as the class itself is.
void set_originals(PyTypeObject* type, const std::array<PyObject*, kMethodCount>& functions);

// An argument in an error message: numbers and strings as they are, of all else what it is, never
// what it holds. repr(tensor) runs code of torch's, which fails for some (storage of size 0) in
// ways that end the process.
std::string describe(PyObject* object);
// Replaces the current exception by one that names the call and the tag, keeping it as the cause.
// MemoryError, KeyboardInterrupt and the like pass as they are. Returns false, or throws.
bool explain(const char* method, PyObject* tag, const char* problem, PyObject* object);
// Puts the call and the tag before the words of a TypeError or ValueError. Returns false, or
// throws.
bool name_call(const char* method, PyObject* tag);

// Runs the body of a method. Where no run is active any more when the point is to be pushed, or the
// writer is not ours, the call is the original's. nanobind's raise_from throws; CPython wants null
// and the error indicator.
template <typename Body>
PyObject* guarded(Method method, PyObject* self, PyObject* const* args, Py_ssize_t count,
                  PyObject* keywords, Body body) noexcept {
  try {
    const Pushed pushed = enter_python(body);
    if (pushed <= Pushed::kDropped) [[likely]]
      Py_RETURN_NONE;
    if (pushed == Pushed::kError) return nullptr;
    return call_original(method, self, args, count, keywords);
  } catch (nb::python_error& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

inline bool is_given(PyObject* argument) { return argument != nullptr && argument != Py_None; }

// Reads the value of a point. A tensor on a device is parked: the point then has its ticket for a
// value and the flag kAwaitsDevice, and is to be pushed or given to forget_parked. False with a
// Python exception set.
bool read_value_slow(const char* method, PyObject* tag, PyObject* object, Point& point);
inline bool read_value(const char* method, PyObject* tag, PyObject* object, Point& point) {
  if (read_common_scalar(object, &point.value)) [[likely]]
    return true;
  return read_value_slow(method, tag, object, point);
}
// For a point that will not be in the ring: nobody will ask for its value. Keeps the exception.
void forget_parked(const Point& point);
// (tensor) to a ticket, or None to have it read by item(); (ticket) of one that is not asked for.
void set_parking(nb::handle park, nb::handle forget);

// What is raised for an argument of a wrong type and of a wrong value: types that are also those
// that torch's own writer raises.
void set_argument_errors(nb::handle wrong_type, nb::handle wrong_value);
// The function that is told (method, tag, argument, given) of what is taken only because torch
// takes it: a step that is no int, a value that is a text.
void set_odd_teller(nb::handle teller);
// False with a Python exception set.
bool tell_of_odd(const char* method, PyObject* tag, const char* argument, PyObject* given);
// Whether __index__ gives an int. False with an exception set only where that is none that a
// program handles: KeyboardInterrupt, say.
bool is_index(PyObject* object);
// The handle's own method takes numbers alone, where SummaryWriter's do as torch's do. Throws.
void check_metric(const char* method, PyObject* name, PyObject* value, PyObject* step);
// Any step that is no small int. False with a Python exception set.
bool read_other_step(const char* method, PyObject* tag, PyObject* step, Point& point);
bool read_wall_time(const char* method, PyObject* tag, PyObject* wall_time, Point& point);

inline bool read_step_and_time(const char* method, PyObject* tag, PyObject* step,
                               PyObject* wall_time, Producer& producer, Point& point) {
  if (is_given(step)) [[likely]] {
    const bool is_read = PyLong_CheckExact(step) && read_small_int(step, &point.step);
    if (!is_read && !read_other_step(method, tag, step, point)) return false;
  } else {
    point.flags = static_cast<std::uint16_t>(point.flags | kNoStep);
  }
  if (!is_given(wall_time)) [[likely]] {
    point.wall_time_s = producer.now_s();
    return true;
  }
  return read_wall_time(method, tag, wall_time, point);
}

// After a push: a parked value whose point is not in the ring is forgotten.
inline Pushed settled(const Point& point, Pushed pushed) {
  if (pushed == Pushed::kYes) [[likely]]
    return Pushed::kYes;
  forget_parked(point);
  return pushed;
}

template <typename Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

// The method descriptors, bound to the class.
nb::object make_add_histogram(PyTypeObject* type);
nb::object make_add_histogram_raw(PyTypeObject* type);
void register_capture_histogram(nb::module_& m);
void register_capture_event(nb::module_& m);

}  // namespace tracelet::bindings
