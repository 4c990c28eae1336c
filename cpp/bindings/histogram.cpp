// The native half of tracelet.histogram.
#include "histogram.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "tracelet/histogram/payload.h"

namespace tracelet::bindings {
namespace {

PyObject* edge_finder = nullptr;  // written once, when tracelet is imported

// Letting go of the GIL costs 0.1 us; taking it back may cost the interpreter's switch interval,
// 5 ms, when another thread computes. From here on a count takes 20 us and more.
constexpr std::size_t kLeastElementsWithoutGil = 32'768;

template <typename Body>
void without_gil(std::size_t element_count, Body body) {
  if (element_count < kLeastElementsWithoutGil) return body();
  const WithoutGil released;
  body();
}

template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T> values) {
  auto* owned = new std::vector<T>(std::move(values));
  const nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {owned->data(), {owned->size()}, owner};
}

using Array = nb::ndarray<nb::numpy, double, nb::ndim<1>>;
using CountArray = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;
using Result = std::tuple<CountArray, Array, double, double, double, double, std::uint64_t,
                          std::uint64_t, std::uint64_t>;

Result histogram(nb::handle values, nb::handle bins, nb::handle range, int threads) {
  ArrayArgument array;
  Bins chosen;
  if (!array.read(values.ptr()) ||
      !chosen.choose(values.ptr(), array.view(), bins.ptr(), range.ptr(), threads)) {
    throw nb::python_error();
  }
  count_values(array.view(), chosen.edges(), threads);
  const Moments& moments = thread_counter().moments();
  const auto counts = thread_counter().counts();
  const auto edges = chosen.edges().edges();
  return {to_numpy(std::vector<std::int64_t>(counts.begin(), counts.end())),
          to_numpy(std::vector<double>(edges.begin(), edges.end())),
          moments.min,
          moments.max,
          moments.sum,
          moments.sum_squares,
          moments.num,
          moments.nan_count,
          moments.inf_count};
}

using Read =
    std::tuple<Array, Array, double, double, double, double, double, std::uint64_t, std::uint64_t>;

Read read_histogram(nb::handle payload) {
  const PayloadBuffer buffer(payload);
  const PayloadSpan bytes = buffer.span();
  HistogramBuckets buckets;
  if (!buckets.read({bytes.data, bytes.size})) {
    throw nb::value_error("these bytes are no histogram, or one that was not completed");
  }
  const HistogramHeader& header = buckets.header;
  return {to_numpy(std::move(buckets.limits)),
          to_numpy(std::move(buckets.counts)),
          header.min,
          header.max,
          header.sum,
          header.sum_squares,
          header.num,
          header.nan_count,
          header.inf_count};
}

// By its type: asking the object would run its code.
bool has_length(PyObject* object) {
  const PyTypeObject* type = Py_TYPE(object);
  return (type->tp_as_sequence != nullptr && type->tp_as_sequence->sq_length != nullptr) ||
         (type->tp_as_mapping != nullptr && type->tp_as_mapping->mp_length != nullptr);
}

// A number of bins: an int, or what has one, as an array without dimensions. Null for all else,
// with an exception only where that is no Exception.
nb::object whole_number(PyObject* bins) {
  if (!PyIndex_Check(bins) || PyBool_Check(bins)) return {};
  if (!has_length(bins)) return nb::borrow(bins);
  const nb::object dimensions =
      nb::steal(enter_python([bins] { return PyObject_GetAttrString(bins, "ndim"); }));
  nb::object number;
  if (dimensions.is_valid() && PyLong_Check(dimensions.ptr()) &&
      PyObject_Not(dimensions.ptr()) == 1) {
    number = nb::steal(enter_python([bins] { return PyNumber_Index(bins); }));
  }
  // The edge finder has more to say, but to Ctrl-C.
  if (PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
  return number;
}

}  // namespace

bool is_tensorflow(PyObject* bins) {
  return bins == nullptr ||
         (PyUnicode_Check(bins) && PyUnicode_CompareWithASCIIString(bins, "tensorflow") == 0);
}

void set_edge_finder(PyObject* finder) {
  Py_XINCREF(finder);
  Py_XDECREF(std::exchange(edge_finder, finder));
}

HistogramCounter& thread_counter() {
  thread_local HistogramCounter counter;
  return counter;
}

void count_values(const ArrayView& view, const BinEdges& edges, int threads) {
  without_gil(view.element_count(), [&] { thread_counter().count(view, edges, threads); });
}

bool Bins::choose(PyObject* values, const ArrayView& view, PyObject* bins, PyObject* range,
                  int threads) {
  if (is_tensorflow(bins)) return true;
  const nb::object number = whole_number(bins);
  if (PyErr_Occurred() != nullptr) return false;
  try {
    return number.is_valid() ? divide(view, number.ptr(), range, threads)
                             : find(values, bins, range);
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return false;
  }
}

bool Bins::find(PyObject* values, PyObject* bins, PyObject* range) {
  const nb::object found = nb::steal(enter_python([&] {
    return PyObject_CallFunctionObjArgs(edge_finder, values, bins,
                                        range == nullptr ? Py_None : range, nullptr);
  }));
  if (!found.is_valid()) return false;
  Py_buffer buffer;
  if (PyObject_GetBuffer(found.ptr(), &buffer, PyBUF_C_CONTIGUOUS) != 0) return false;
  const auto* first = static_cast<const double*>(buffer.buf);
  std::vector<double> edges(first, first + buffer.len / static_cast<Py_ssize_t>(sizeof(double)));
  PyBuffer_Release(&buffer);
  const auto standard = BinEdges::tensorflow().edges();
  if (std::equal(edges.begin(), edges.end(), standard.begin(), standard.end())) return true;
  own_.emplace(std::move(edges));
  return true;
}

bool Bins::divide(const ArrayView& view, PyObject* bins, PyObject* range, int threads) {
  // The nearest one for larger numbers.
  const Py_ssize_t count = enter_python([bins] { return PyNumber_AsSsize_t(bins, nullptr); });
  if (count == -1 && PyErr_Occurred() != nullptr) return false;
  constexpr Py_ssize_t kMostBins = 1 << 24;
  if (count < 1 || count > kMostBins) {
    PyErr_Format(PyExc_ValueError, "bins: there must be 1 to %zd, not %zd", kMostBins, count);
    return false;
  }
  double first;
  double last;
  if (range != nullptr && range != Py_None) {
    const nb::object pair = nb::steal(enter_python([range] { return PySequence_Tuple(range); }));
    if (!pair.is_valid() || !PyArg_ParseTuple(pair.ptr(), "dd", &first, &last)) {
      if (!PyErr_ExceptionMatches(PyExc_Exception)) return false;
      PyErr_Clear();
      PyErr_Format(PyExc_TypeError, "range must be two numbers, (lower, upper), not a %.200s",
                   Py_TYPE(range)->tp_name);
      return false;
    }
  } else {
    without_gil(view.element_count(), [&] { thread_counter().measure(view, threads); });
    const Moments& moments = thread_counter().moments();
    first = moments.num == 0 ? 0.0 : moments.min;
    last = moments.num == 0 ? 1.0 : moments.max;
  }
  own_.emplace(BinEdges::uniform(first, last, static_cast<std::size_t>(count)));
  return true;
}

void register_histogram(nb::module_& m) {
  m.def(
      "set_array_helpers",
      [](nb::handle converter, nb::handle finder) {
        set_array_converter(converter.ptr());
        set_edge_finder(finder.ptr());
      },
      nb::arg("converter"), nb::arg("edge_finder"),
      "Sets the function that makes (array, is_bfloat16) of values that can't be read in place, "
      "and "
      "the one that makes a float64 array of edges of (values, bins, range).");
  m.def("histogram", &histogram, nb::arg("values").none(), nb::arg("bins").none(),
        nb::arg("range").none(), nb::arg("threads"),
        "(counts, bin_edges, min, max, sum, sum_squares, num, nan_count, inf_count).");
  m.def("read_histogram", &read_histogram, nb::arg("payload"),
        "(limits, counts, min, max, sum, sum_squares, num, nan_count, inf_count) of a payload.");
  m.def(
      "tensorflow_edges",
      [] {
        const auto edges = BinEdges::tensorflow().edges();
        return to_numpy(std::vector<double>(edges.begin(), edges.end()));
      },
      "TensorBoard's edges.");
  m.def(
      "kernel_names",
      [] {
        nb::list names;
        for (const KernelSet* kernels : available_kernels()) names.append(kernels->name);
        return names;
      },
      nb::sig("def kernel_names() -> list[str]"),
      "The instruction sets this processor has loops for, the one in use first.");
}

}  // namespace tracelet::bindings
