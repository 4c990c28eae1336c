// DLPack 1.x, the part that is read here, and torch's exchange API for it.
// https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h
#pragma once

#include <Python.h>

#include <cstdint>

namespace tracelet::bindings {

struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for a dense tensor in C order
  std::uint64_t byte_offset;
};
enum DLTypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
inline constexpr std::int32_t kDLCPU = 1;

// Gives the DLPack exchange API of torch (DLPackExchangeAPI, capsule "dlpack_exchange_api"), by
// which a tensor's memory is found without a conversion, and the exact types it is used for.
// Borrowed: torch keeps them alive. False with a Python exception set.
bool learn_torch(PyObject* tensor_type, PyObject* parameter_type, PyObject* exchange_api);

// Whether the tensor's memory is to be read here; for the tests on machines without another device
// the CPU can be made to count as one.
bool is_on_cpu(const DLTensor& tensor);
void treat_cpu_as_device(bool is_device);

// Where the elements of a torch tensor lie, of exactly the types learnt. False, without an
// exception, for all else. What is pointed to belongs to the tensor.
bool read_torch_tensor(PyObject* object, DLTensor* tensor);

}  // namespace tracelet::bindings
