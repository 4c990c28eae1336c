#include "dlpack.h"

namespace tracelet::bindings {
namespace {

struct DLPackExchangeAPI {
  std::uint32_t major;
  std::uint32_t minor;
  DLPackExchangeAPI* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* py_object, DLTensor* out);
  void* current_work_stream;
};
constexpr std::uint32_t kDLPackMajor = 1;

PyTypeObject* torch_tensor = nullptr;
PyTypeObject* torch_parameter = nullptr;
const DLPackExchangeAPI* torch_api = nullptr;
bool is_cpu_a_device = false;  // written by tests

}  // namespace

bool learn_torch(PyObject* tensor_type, PyObject* parameter_type, PyObject* exchange_api) {
  auto* api =
      static_cast<DLPackExchangeAPI*>(PyCapsule_GetPointer(exchange_api, "dlpack_exchange_api"));
  if (api == nullptr) return false;
  while (api != nullptr && api->major != kDLPackMajor) api = api->previous;
  torch_tensor = reinterpret_cast<PyTypeObject*>(tensor_type);
  torch_parameter = reinterpret_cast<PyTypeObject*>(parameter_type);
  torch_api = api;
  return true;
}

bool is_on_cpu(const DLTensor& tensor) {
  return tensor.device.device_type == kDLCPU && !is_cpu_a_device;
}

void treat_cpu_as_device(bool is_device) { is_cpu_a_device = is_device; }

bool read_torch_tensor(PyObject* object, DLTensor* tensor) {
  if (torch_api == nullptr) return false;
  if (Py_TYPE(object) != torch_tensor && Py_TYPE(object) != torch_parameter) return false;
  if (torch_api->dltensor_from_py_object_no_sync(object, tensor) == 0) return true;
  PyErr_Clear();
  return false;
}

}  // namespace tracelet::bindings
