// A Python argument read in place: numpy arrays, torch CPU tensors, anything with the buffer
// protocol; what else can be made an array goes through Python.
#pragma once

#include <optional>

#include "bindings.h"
#include "tracelet/histogram/array_view.h"

namespace tracelet::bindings {

// Sets the function that makes an array of other values: (array, is_bfloat16), the array one that
// the buffer protocol reads, of 16-bit integers for bfloat16. It raises TypeError or ValueError.
void set_array_converter(PyObject* converter);

// Holds the memory for as long as it lives: the object's buffer, or a tensor's storage, which
// `parameter.data = other` takes away from a tensor that is held itself.
class ArrayArgument {
 public:
  ArrayArgument() = default;
  ~ArrayArgument() {
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
  }
  ArrayArgument(const ArrayArgument&) = delete;
  ArrayArgument& operator=(const ArrayArgument&) = delete;

  // False with a Python exception set.
  bool read(PyObject* values);
  const ArrayView& view() const { return *view_; }

 private:
  bool read_tensor(PyObject* values);
  bool read_buffer(PyObject* values, bool is_bfloat16);

  Py_buffer buffer_{};
  nb::object storage_;
  nb::object converted_;
  std::optional<ArrayView> view_;
};

// Whether it is a torch tensor on another device than the CPU.
bool is_on_device(PyObject* values);

}  // namespace tracelet::bindings
