#include "array_argument.h"

#include <array>
#include <bit>
#include <utility>

#include "dlpack.h"
#include "scalar_value.h"

namespace tracelet::bindings {
namespace {

PyObject* array_converter = nullptr;  // written once, when tracelet is imported

std::optional<ElementType> element_type(DLDataType type) {
  if (type.lanes != 1) return std::nullopt;
  switch (type.code << 8 | type.bits) {
    case kFloat << 8 | 16:
      return ElementType::kFloat16;
    case kFloat << 8 | 32:
      return ElementType::kFloat32;
    case kFloat << 8 | 64:
      return ElementType::kFloat64;
    case kBfloat << 8 | 16:
      return ElementType::kBfloat16;
    case kInt << 8 | 8:
      return ElementType::kInt8;
    case kInt << 8 | 16:
      return ElementType::kInt16;
    case kInt << 8 | 32:
      return ElementType::kInt32;
    case kInt << 8 | 64:
      return ElementType::kInt64;
    case kUInt << 8 | 8:
      return ElementType::kUInt8;
    case kUInt << 8 | 16:
      return ElementType::kUInt16;
    case kUInt << 8 | 32:
      return ElementType::kUInt32;
    case kUInt << 8 | 64:
      return ElementType::kUInt64;
    case kBool << 8 | 8:
      return ElementType::kBool;
    default:
      return std::nullopt;
  }
}

// An element's type by its struct format, one character in the machine's own byte order.
// https://docs.python.org/3/library/struct.html#format-characters
std::optional<ElementType> element_type(const char* format, Py_ssize_t size_bytes) {
  if (format == nullptr) return ElementType::kUInt8;
  if (*format == '@' || *format == '=' ||
      *format == (std::endian::native == std::endian::little ? '<' : '>')) {
    ++format;
  }
  if (format[0] == '\0' || format[1] != '\0') return std::nullopt;
  const auto bits = static_cast<std::uint8_t>(size_bytes * 8);
  switch (*format) {
    case '?':
      return element_type(DLDataType{kBool, bits, 1});
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
    case 'n':
      return element_type(DLDataType{kInt, bits, 1});
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
    case 'N':
      return element_type(DLDataType{kUInt, bits, 1});
    case 'e':
    case 'f':
    case 'd':
      return element_type(DLDataType{kFloat, bits, 1});
    default:
      return std::nullopt;
  }
}

// A method of a tensor; null, without an exception, where it fails.
nb::object call_method(PyObject* tensor, PyObject* name) {
  nb::object answer =
      nb::steal(enter_python([=] { return PyObject_CallMethodNoArgs(tensor, name); }));
  if (!answer.is_valid()) PyErr_Clear();
  return answer;
}

nb::object storage_of(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("untyped_storage");
  return call_method(tensor, name);
}

// torch negates x.conj().imag lazily, which DLPack does not tell. Such elements lie in the second
// halves of complex numbers: at no multiple of twice their size, or with even strides alone.
bool may_be_negated(const DLTensor& tensor) {
  const auto element_bytes = static_cast<std::uintptr_t>(tensor.dtype.bits / 8);
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset;
  if (tensor.dtype.code != kFloat || element_bytes == 0) return false;
  if (address % (2 * element_bytes) != 0) return true;
  for (std::int32_t i = 0; i < tensor.ndim; ++i) {
    const bool is_odd =
        tensor.strides == nullptr ? i + 1 == tensor.ndim : tensor.strides[i] % 2 != 0;
    if (tensor.shape[i] > 1 && is_odd) return false;
  }
  return true;
}

// Asked only where it may be: torch gives up the GIL for it, in a function that is noexcept, so
// that a daemon thread in it would end an exiting process with SIGABRT (see python_calls.h).
bool is_lazily_negated(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("is_neg");
  return call_method(tensor, name).ptr() != Py_False;
}

}  // namespace

void set_array_converter(PyObject* converter) {
  Py_XINCREF(converter);
  Py_XDECREF(std::exchange(array_converter, converter));
}

bool is_on_device(PyObject* values) {
  DLTensor tensor;
  return read_torch_tensor(values, &tensor) && !is_on_cpu(tensor);
}

bool ArrayArgument::read(PyObject* values) {
  if (read_tensor(values)) return true;
  if (!is_array_of_its_own_kind(values) && read_buffer(values, false)) return true;
  if (PyErr_Occurred() != nullptr) return false;
  converted_ =
      nb::steal(enter_python([values] { return PyObject_CallOneArg(array_converter, values); }));
  if (!converted_.is_valid()) return false;
  PyObject* array = PyTuple_GetItem(converted_.ptr(), 0);
  PyObject* is_bfloat16 = PyTuple_GetItem(converted_.ptr(), 1);
  if (array == nullptr || is_bfloat16 == nullptr) return false;
  if (read_buffer(array, is_bfloat16 == Py_True)) return true;
  if (PyErr_Occurred() == nullptr) {
    PyErr_Format(PyExc_TypeError, "an array of %R can't be read",
                 nb::handle(array).attr("dtype").ptr());
  }
  return false;
}

bool ArrayArgument::read_tensor(PyObject* values) {
  DLTensor tensor;
  if (!read_torch_tensor(values, &tensor) || tensor.device.device_type != kDLCPU) return false;
  // Another thread may give the tensor other memory while these two are asked for. From the last
  // look on nothing enters Python until the storage is held for good.
  bool is_negated;
  const void* seen;
  do {
    seen = tensor.data;
    is_negated = may_be_negated(tensor) && is_lazily_negated(values);
    storage_ = storage_of(values);
    if (!storage_.is_valid() || !read_torch_tensor(values, &tensor) ||
        tensor.device.device_type != kDLCPU) {
      return false;
    }
  } while (tensor.data != seen);
  const std::optional<ElementType> type = element_type(tensor.dtype);
  if (!type || tensor.ndim > static_cast<std::int32_t>(ArrayView::kMostDimensions) || is_negated) {
    return false;
  }
  std::array<Dimension, ArrayView::kMostDimensions> dimensions;
  const auto element_bytes = static_cast<std::int64_t>(size_bytes(*type));
  std::int64_t dense_stride = element_bytes;
  for (std::int32_t i = tensor.ndim; i-- > 0;) {
    const std::int64_t stride =
        tensor.strides == nullptr ? dense_stride : tensor.strides[i] * element_bytes;
    dimensions[static_cast<std::size_t>(i)] = {tensor.shape[i], stride};
    dense_stride *= tensor.shape[i];
  }
  const auto* data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  const auto ndim = static_cast<std::size_t>(tensor.ndim);
  view_.emplace(data, *type, std::span(dimensions.data(), ndim));
  return view_->element_count() == 0 || tensor.data != nullptr;
}

bool ArrayArgument::read_buffer(PyObject* values, bool is_bfloat16) {
  if (!PyObject_CheckBuffer(values)) return false;
  if (PyObject_GetBuffer(values, &buffer_, PyBUF_FULL_RO) != 0) {
    // numpy refuses some dtypes here: the converter has more to say, but to Ctrl-C.
    if (PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
    buffer_.obj = nullptr;
    return false;
  }
  std::optional<ElementType> type = element_type(buffer_.format, buffer_.itemsize);
  if (is_bfloat16) type = ElementType::kBfloat16;
  // numpy's datetime64 and timedelta64 scalars give neither, whatever is asked for; they are no
  // numbers, and the converter says so.
  const bool has_form = buffer_.ndim == 0 || (buffer_.shape && buffer_.strides);
  if (!type || !has_form || buffer_.suboffsets != nullptr) {
    PyBuffer_Release(&buffer_);
    return false;
  }
  std::array<Dimension, ArrayView::kMostDimensions> dimensions;
  const auto ndim = static_cast<std::size_t>(buffer_.ndim);
  for (std::size_t i = 0; i < ndim; ++i) dimensions[i] = {buffer_.shape[i], buffer_.strides[i]};
  view_.emplace(buffer_.buf, *type, std::span(dimensions.data(), ndim));
  return true;
}

}  // namespace tracelet::bindings
