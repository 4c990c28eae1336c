#include "capture_support.h"

#include <mutex>
#include <vector>

#include "dlpack.h"

namespace tracelet::bindings {
namespace {

struct Originals {
  PyTypeObject* type;
  std::array<PyObject*, kMethodCount> functions;
};
// Written when a class is patched, read by calls without a run; under the mutex, for Pythons
// without a GIL. In it nothing enters Python.
std::mutex originals_mutex;
std::vector<Originals> originals;

PyObject* park_scalar = nullptr;
// Set once, when tracelet.capture is imported.
PyObject* wrong_type = PyExc_TypeError;
PyObject* wrong_value = PyExc_ValueError;
PyObject* odd_teller = nullptr;
PyObject* forget_ticket = nullptr;

}  // namespace

void set_originals(PyTypeObject* type, const std::array<PyObject*, kMethodCount>& functions) {
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  for (PyObject* function : functions) Py_XINCREF(function);
  const std::lock_guard lock(originals_mutex);
  std::erase_if(originals, [&](const Originals& each) { return each.type == type; });
  originals.push_back({type, functions});
}

PyObject* call_original(Method method, PyObject* self, PyObject* const* args, Py_ssize_t count,
                        PyObject* keywords) {
  PyObject* function = nullptr;
  {
    const std::lock_guard lock(originals_mutex);
    for (const Originals& each : originals) {
      if (!PyObject_TypeCheck(self, each.type)) continue;
      function = each.functions[static_cast<std::size_t>(method)];
      break;
    }
  }
  if (function == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "no tracelet run is active");
    return nullptr;
  }
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  std::vector<PyObject*> all{self};
  all.insert(all.end(), args, args + count + keyword_count);
  return enter_python([&] {
    return PyObject_Vectorcall(function, all.data(),
                               all.size() - static_cast<std::size_t>(keyword_count), keywords);
  });
}

namespace {

// Lets go of an error in what is asked for a message alone. Of Ctrl-C and the like it does not:
// those go on in the place of the error that the message is for. Throws nb::python_error then.
void drop_error() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw nb::python_error();
  PyErr_Clear();
}

// By a look that other errors than AttributeError end, too: PyObject_HasAttrString swallows all.
bool is_array_type(PyTypeObject* type) {
  const nb::object found = nb::steal(enter_python(
      [type] { return PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__array__"); }));
  if (!found.is_valid()) drop_error();
  return found.is_valid();
}

// ", shape (2, 3)" and the like, for an array or a tensor; empty for what has none.
void append_attribute(PyObject* object, const char* name, std::string& text) {
  const nb::object value =
      nb::steal(enter_python([&] { return PyObject_GetAttrString(object, name); }));
  const nb::object words = value.is_valid()
                               ? nb::steal(enter_python([&] { return PyObject_Str(value.ptr()); }))
                               : nb::object();
  const char* bytes = words.is_valid() ? PyUnicode_AsUTF8(words.ptr()) : nullptr;
  if (bytes == nullptr) {
    drop_error();
    return;
  }
  text.append(text.back() == '(' ? "" : ", ").append(name).append(" ").append(bytes);
}

}  // namespace

std::string describe(PyObject* object) {
  const bool is_plain = object == Py_None || PyBool_Check(object) || PyFloat_CheckExact(object) ||
                        PyLong_CheckExact(object) || PyUnicode_CheckExact(object);
  if (is_plain) {
    const nb::object words = nb::steal(PyObject_Repr(object));
    const char* bytes = words.is_valid() ? PyUnicode_AsUTF8(words.ptr()) : nullptr;
    if (bytes != nullptr) return std::string(bytes).substr(0, 200);
    PyErr_Clear();  // an int of too many digits, a lone surrogate
  }
  std::string text("a ");
  text.append(Py_TYPE(object)->tp_name);
  if (is_plain || PyType_Check(object)) return text;
  DLTensor tensor;
  const bool is_array = read_torch_tensor(object, &tensor) || PyObject_CheckBuffer(object) ||
                        is_array_type(Py_TYPE(object));
  if (!is_array) return text;
  const std::size_t bare = text.size();
  text.append(" (");
  append_attribute(object, "dtype", text);
  append_attribute(object, "shape", text);
  if (text.back() == '(') return text.substr(0, bare);
  return text + ")";
}

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
  nb::raise_from(cause, kind, "%s(%s): %s, not %s of type %s", method, describe(tag).c_str(),
                 problem, describe(object).c_str(), Py_TYPE(object)->tp_name);
}

bool read_value_slow(const char* method, PyObject* tag, PyObject* object, Point& point) {
  if (read_scalar_in_place(object, &point.value)) return true;
  if (park_scalar != nullptr && is_scalar_on_device(object)) {
    const nb::object ticket =
        nb::steal(enter_python([object] { return PyObject_CallOneArg(park_scalar, object); }));
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
  return nb::steal(enter_python([&] {
           return PyObject_CallFunction(odd_teller, "sOsO", method, tag, argument, given);
         }))
      .is_valid();
}

bool is_index(PyObject* object) {
  if (nb::steal(enter_python([object] { return PyNumber_Index(object); })).is_valid()) return true;
  if (PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
  return false;
}

void check_metric(const char* method, PyObject* name, PyObject* value, PyObject* step) {
  if (is_given(step) && !PyLong_CheckExact(step) && !is_index(step)) {
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    throw nb::type_error((std::string(method) + "(" + describe(name) +
                          "): step must be an int, not of type " + Py_TYPE(step)->tp_name)
                             .c_str());
  }
  if (PyFloat_CheckExact(value) || PyLong_CheckExact(value)) [[likely]]
    return;
  if (PyUnicode_Check(value) || PyBytes_Check(value) || PyDict_Check(value)) {
    throw nb::type_error((std::string(method) + "(" + describe(name) +
                          "): the value must be a number, not of type " + Py_TYPE(value)->tp_name +
                          (PyDict_Check(value) ? ": log({...}) takes a flat dict" : ""))
                             .c_str());
  }
}

bool read_other_step(const char* method, PyObject* tag, PyObject* step, Point& point) {
  if (!read_step_slow(step, &point.step)) {
    return explain(method, tag, "global_step must be an integer within 64 bits", step);
  }
  if (PyLong_Check(step)) return true;
  if (is_index(step)) return true;
  return PyErr_Occurred() == nullptr && tell_of_odd(method, tag, "global_step", step);
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
  PyErr_Format(PyExc_ValueError, "%s(%s): walltime must be finite, not %s", method,
               describe(tag).c_str(), describe(wall_time).c_str());
  return false;
}

void forget_parked(const Point& point) {
  if ((point.flags & kAwaitsDevice) == 0) return;
  const nb::error_scope raised;
  const auto ticket = static_cast<unsigned long long>(point.value);
  const nb::object told = nb::steal(
      enter_python([ticket] { return PyObject_CallFunction(forget_ticket, "K", ticket); }));
  if (!told.is_valid()) PyErr_Clear();
}

void set_parking(nb::handle park, nb::handle forget) {
  park_scalar = park.inc_ref().ptr();
  forget_ticket = forget.inc_ref().ptr();
}

bool name_call(const char* method, PyObject* tag) {
  PyObject* kind = PyErr_ExceptionMatches(PyExc_TypeError)    ? wrong_type
                   : PyErr_ExceptionMatches(PyExc_ValueError) ? wrong_value
                                                              : nullptr;
  if (kind == nullptr) return false;
  nb::python_error cause;
  nb::raise_from(cause, kind, "%s(%s): %s", method, describe(tag).c_str(),
                 nb::str(cause.value()).c_str());
}

}  // namespace tracelet::bindings
