#include "capture_support.h"

#include <vector>

namespace tracelet::bindings {
namespace {

struct Originals {
  PyTypeObject* type;
  std::array<PyObject*, kMethodCount> functions;
};
std::vector<Originals> originals;

PyObject* park_scalar = nullptr;
// Set once, when tracelet.capture is imported.
PyObject* wrong_type = PyExc_TypeError;
PyObject* wrong_value = PyExc_ValueError;
PyObject* odd_teller = nullptr;
PyObject* forget_ticket = nullptr;

}  // namespace

void set_originals(PyTypeObject* type, const std::array<PyObject*, kMethodCount>& functions) {
  std::erase_if(originals, [&](const Originals& each) { return each.type == type; });
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  for (PyObject* function : functions) Py_XINCREF(function);
  originals.push_back({type, functions});
}

PyObject* call_original(Method method, PyObject* self, PyObject* const* args, Py_ssize_t count,
                        PyObject* keywords) {
  for (const Originals& each : originals) {
    if (!PyObject_TypeCheck(self, each.type)) continue;
    const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    std::vector<PyObject*> all{self};
    all.insert(all.end(), args, args + count + keyword_count);
    return PyObject_Vectorcall(each.functions[static_cast<std::size_t>(method)], all.data(),
                               all.size() - static_cast<std::size_t>(keyword_count), keywords);
  }
  PyErr_SetString(PyExc_RuntimeError, "no tracelet run is active");
  return nullptr;
}

// Replaces the current exception by one that names the call and the tag, keeping it as the cause.
// MemoryError, KeyboardInterrupt and the like pass as they are.
bool explain(const char* method, PyObject* tag, const char* problem, PyObject* object) {
  PyObject* kind;
  if (PyErr_ExceptionMatches(PyExc_OverflowError) || PyErr_ExceptionMatches(PyExc_ValueError)) {
    kind = PyUnicode_Check(object) ? wrong_type : wrong_value;
  } else if (PyErr_ExceptionMatches(PyExc_TypeError) ||
             PyErr_ExceptionMatches(PyExc_RuntimeError)) {
    kind = wrong_type;
  } else {
    return false;
  }
  nb::python_error cause;
  nb::raise_from(cause, kind, "%s(%s): %s, not %s of type %s", method,
                 nb::repr(nb::handle(tag)).c_str(), problem,
                 std::string(nb::repr(nb::handle(object)).c_str()).substr(0, 100).c_str(),
                 Py_TYPE(object)->tp_name);
}

bool read_value_slow(const char* method, PyObject* tag, PyObject* object, Point& point) {
  if (read_scalar_in_place(object, &point.value)) return true;
  if (park_scalar != nullptr && is_scalar_on_device(object)) {
    const nb::object ticket = nb::steal(PyObject_CallOneArg(park_scalar, object));
    if (!ticket.is_valid()) return name_call(method, tag);
    if (!ticket.is_none()) {
      point.value = PyLong_AsDouble(ticket.ptr());
      point.flags = static_cast<std::uint16_t>(point.flags | kAwaitsDevice);
      return true;
    }
  }
  if (read_scalar_by_call(object, &point.value)) {
    const bool is_text = PyUnicode_Check(object) || PyBytes_Check(object);
    return !is_text || tell_of_odd(method, tag, "scalar_value", object);
  }
  return explain(method, tag, "the value must be a number or hold exactly one", object);
}

void set_argument_errors(nb::handle type_error, nb::handle value_error) {
  wrong_type = type_error.inc_ref().ptr();
  wrong_value = value_error.inc_ref().ptr();
}

void set_odd_teller(nb::handle teller) { odd_teller = teller.inc_ref().ptr(); }

bool tell_of_odd(const char* method, PyObject* tag, const char* argument, PyObject* given) {
  if (odd_teller == nullptr) return true;
  return nb::steal(PyObject_CallFunction(odd_teller, "sOsO", method, tag, argument, given))
      .is_valid();
}

bool read_other_step(const char* method, PyObject* tag, PyObject* step, Point& point) {
  if (!read_step_slow(step, &point.step)) {
    return explain(method, tag, "global_step must be an integer within 64 bits", step);
  }
  if (PyLong_Check(step)) return true;
  if (nb::steal(PyNumber_Index(step)).is_valid()) return true;
  PyErr_Clear();
  return tell_of_odd(method, tag, "global_step", step);
}

bool read_wall_time(const char* method, PyObject* tag, PyObject* wall_time, Point& point) {
  bool is_read = false;
  if (PyUnicode_Check(wall_time)) {  // which float() would take, and torch does not
    PyErr_SetString(PyExc_TypeError, "must be real number, not str");
  } else {
    is_read = read_scalar(wall_time, &point.wall_time_s);
  }
  if (!is_read) {
    return explain(method, tag, "walltime must be seconds since the epoch", wall_time);
  }
  if (std::isfinite(point.wall_time_s)) return true;
  PyErr_Format(PyExc_ValueError, "%s(%R): walltime must be finite, not %R", method, tag, wall_time);
  return false;
}

void forget_parked(const Point& point) {
  if ((point.flags & kAwaitsDevice) == 0) return;
  const nb::error_scope raised;
  const auto ticket = static_cast<unsigned long long>(point.value);
  if (!nb::steal(PyObject_CallFunction(forget_ticket, "K", ticket)).is_valid()) PyErr_Clear();
}

void set_parking(nb::handle park, nb::handle forget) {
  park_scalar = park.inc_ref().ptr();
  forget_ticket = forget.inc_ref().ptr();
}

bool push_slow(Producer& producer, const Point& point) {
  if (point.tag_id == 0) {
    producer.run().file->counters().tag_table_full.fetch_add(1, std::memory_order_relaxed);
    forget_parked(point);
    return true;
  }
  const bool is_done = producer.push_to_full_ring(point);
  if (!is_done || producer.has_dropped()) forget_parked(point);
  return is_done;
}

bool name_call(const char* method, PyObject* tag) {
  PyObject* kind = PyErr_ExceptionMatches(PyExc_TypeError)    ? wrong_type
                   : PyErr_ExceptionMatches(PyExc_ValueError) ? wrong_value
                                                              : nullptr;
  if (kind == nullptr) return false;
  nb::python_error cause;
  nb::raise_from(cause, kind, "%s(%s): %s", method, nb::repr(nb::handle(tag)).c_str(),
                 nb::str(cause.value()).c_str());
}

}  // namespace tracelet::bindings
