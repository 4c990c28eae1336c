#include "scalar_value.h"

#include <nanobind/nanobind.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#include "dlpack.h"
#include "python_calls.h"

namespace nb = nanobind;

namespace tracelet::bindings {
namespace {

double half_to_double(std::uint16_t half) {
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  double magnitude;
  if (exponent == 0x1fU) {
    magnitude = fraction != 0 ? __builtin_nan("") : __builtin_inf();
  } else if (exponent == 0) {
    magnitude = static_cast<double>(fraction) * 0x1p-24;
  } else {
    const std::uint64_t bits = std::uint64_t{exponent + 1023 - 15} << 52 | std::uint64_t{fraction}
                                                                               << 42;
    magnitude = std::bit_cast<double>(bits);
  }
  return (half & 0x8000U) != 0 ? -magnitude : magnitude;
}

template <typename T>
double read_as(const void* data) {
  T element;
  std::memcpy(&element, data, sizeof(T));
  return static_cast<double>(element);
}

// An element of a DLPack dtype. False for dtypes that are left to the slower way.
bool read_element(DLDataType dtype, const void* data, double* value) {
  switch (dtype.code << 8 | dtype.bits) {
    case kFloat << 8 | 32:
      *value = read_as<float>(data);
      return true;
    case kFloat << 8 | 64:
      *value = read_as<double>(data);
      return true;
    case kInt << 8 | 64:
      *value = read_as<std::int64_t>(data);
      return true;
    case kInt << 8 | 32:
      *value = read_as<std::int32_t>(data);
      return true;
    case kInt << 8 | 16:
      *value = read_as<std::int16_t>(data);
      return true;
    case kInt << 8 | 8:
      *value = read_as<std::int8_t>(data);
      return true;
    case kUInt << 8 | 64:
      *value = read_as<std::uint64_t>(data);
      return true;
    case kUInt << 8 | 32:
      *value = read_as<std::uint32_t>(data);
      return true;
    case kUInt << 8 | 16:
      *value = read_as<std::uint16_t>(data);
      return true;
    case kBool << 8 | 8:
    case kUInt << 8 | 8:
      *value = read_as<std::uint8_t>(data);
      return true;
    case kFloat << 8 | 16: {
      std::uint16_t half;
      std::memcpy(&half, data, sizeof(half));
      *value = half_to_double(half);
      return true;
    }
    case kBfloat << 8 | 16: {
      std::uint16_t brain;
      std::memcpy(&brain, data, sizeof(brain));
      *value = static_cast<double>(std::bit_cast<float>(std::uint32_t{brain} << 16));
      return true;
    }
    default:
      return false;
  }
}

// A numpy scalar type whose value lies right behind the object header, as numpy's public
// arrayscalars.h declares it (Py*ScalarObject: PyObject_HEAD, obval).
struct NumpyType {
  PyTypeObject* type;
  DLDataType dtype;
};
std::array<NumpyType, 12> numpy_types;
std::size_t numpy_type_count = 0;
PyTypeObject* numpy_float64 = nullptr;
PyTypeObject* numpy_array = nullptr;

unaryfunc float_of(const PyTypeObject* type) {
  return type->tp_as_number == nullptr ? nullptr : type->tp_as_number->nb_float;
}

// Whether float() of it is what a float holds: a subclass may have a __float__ of its own.
bool is_read_as_float(PyObject* object) {
  if (!PyFloat_Check(object)) return false;
  const unaryfunc converts = float_of(Py_TYPE(object));
  return converts == float_of(&PyFloat_Type) || converts == float_of(numpy_float64);
}

const void* numpy_value(PyObject* object) {
  return reinterpret_cast<const char*>(object) + sizeof(PyObject);
}

bool read_numpy_scalar(PyObject* object, double* value) {
  for (std::size_t i = 0; i < numpy_type_count; ++i) {
    if (Py_TYPE(object) == numpy_types[i].type) {
      return read_element(numpy_types[i].dtype, numpy_value(object), value);
    }
  }
  return false;
}

bool has_one_element(const DLTensor& tensor) {
  for (std::int32_t i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] != 1) return false;
  }
  return true;
}

bool read_cpu_tensor(PyObject* object, double* value) {
  DLTensor tensor;
  if (!read_torch_tensor(object, &tensor)) return false;
  if (!is_on_cpu(tensor) || tensor.dtype.lanes != 1 || !has_one_element(tensor)) return false;
  const char* data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  // torch marks x.conj().imag as lazily negated and DLPack does not tell. Its elements lie in the
  // second half of a complex number, so never at a multiple of 16 bytes: others go the slower way.
  if (tensor.data == nullptr || reinterpret_cast<std::uintptr_t>(data) % 16 != 0) return false;
  return read_element(tensor.dtype, data, value);
}

}  // namespace

bool read_scalar_in_place(PyObject* object, double* value) {
  if (is_read_as_float(object)) {
    *value = PyFloat_AS_DOUBLE(object);
    return true;
  }
  return read_numpy_scalar(object, value) || read_cpu_tensor(object, value);
}

bool is_array_of_its_own_kind(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  return type != numpy_array && PyObject_TypeCheck(object, numpy_array) &&
         float_of(type) != float_of(numpy_array);
}

bool is_scalar_on_device(PyObject* object) {
  DLTensor tensor;
  return read_torch_tensor(object, &tensor) && !is_on_cpu(tensor) && has_one_element(tensor);
}

bool read_scalar_by_call(PyObject* object, double* value) {
  if (PyLong_Check(object)) {
    *value = PyLong_AsDouble(object);
    return *value != -1.0 || PyErr_Occurred() == nullptr;
  }
  const bool has_own = is_array_of_its_own_kind(object);  // item() knows no mask
  const nb::object item = has_own ? nb::object() : nb::steal(enter_python([object] {
    return PyObject_GetAttrString(object, "item");
  }));
  nb::object number;
  if (has_own) {
    number = nb::borrow(object);
  } else if (item.is_valid()) {
    number = nb::steal(enter_python([&] { return PyObject_CallNoArgs(item.ptr()); }));
    if (!number.is_valid()) return false;
  } else if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
    return false;  // KeyboardInterrupt, say
  } else {
    PyErr_Clear();
    number = nb::borrow(object);
  }
  number = nb::steal(enter_python([&] { return PyNumber_Float(number.ptr()); }));
  if (!number.is_valid()) return false;
  *value = PyFloat_AS_DOUBLE(number.ptr());
  return true;
}

bool read_step_slow(PyObject* object, std::int64_t* step) {
  const nb::object number = nb::steal(enter_python([object] { return PyNumber_Long(object); }));
  if (!number.is_valid()) return false;
  *step = PyLong_AsLongLong(number.ptr());
  return *step != -1 || PyErr_Occurred() == nullptr;
}

void learn_numpy_types() {
  constexpr std::array<std::pair<const char*, DLDataType>, 12> kTypes = {{
      {"float32", {kFloat, 32, 1}},
      {"int64", {kInt, 64, 1}},
      {"float16", {kFloat, 16, 1}},
      {"int32", {kInt, 32, 1}},
      {"uint8", {kUInt, 8, 1}},
      {"uint64", {kUInt, 64, 1}},
      {"uint32", {kUInt, 32, 1}},
      {"int16", {kInt, 16, 1}},
      {"uint16", {kUInt, 16, 1}},
      {"int8", {kInt, 8, 1}},
      {"bool_", {kBool, 8, 1}},
      {"float64", {kFloat, 64, 1}},
  }};
  const nb::module_ numpy = nb::module_::import_("numpy");
  numpy_float64 =
      reinterpret_cast<PyTypeObject*>(nb::object(numpy.attr("float64")).release().ptr());
  numpy_array = reinterpret_cast<PyTypeObject*>(nb::object(numpy.attr("ndarray")).release().ptr());
  for (const auto& [name, dtype] : kTypes) {
    const nb::object type = numpy.attr(name);
    const nb::object one = type(1);
    double value = 0;
    if (read_element(dtype, numpy_value(one.ptr()), &value) && value == 1.0) {
      numpy_types[numpy_type_count++] = {reinterpret_cast<PyTypeObject*>(type.ptr()), dtype};
    }
  }
}

}  // namespace tracelet::bindings
