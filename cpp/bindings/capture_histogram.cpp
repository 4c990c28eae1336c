// The native bodies of SummaryWriter.add_histogram and add_histogram_raw.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <atomic>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "capture_support.h"
#include "default_bins.h"
#include "dlpack.h"
#include "histogram.h"
#include "tracelet/histogram/payload.h"

namespace tracelet::bindings {
namespace {

Signature<6> histogram_signature{"SummaryWriter.add_histogram",
                                 2,
                                 {"tag", "values", "global_step", "bins", "walltime", "max_bins"}};
Signature<10> raw_signature{"SummaryWriter.add_histogram_raw",
                            8,
                            {"tag", "min", "max", "num", "sum", "sum_squares", "bucket_limits",
                             "bucket_counts", "global_step", "walltime"}};

// Set once, when tracelet.capture is imported.
struct Helpers {
  // (values) -> float64 array
  PyObject* to_doubles = nullptr;
  // (tag, values, bins, max_bins) -> (ticket, bin count) or None
  PyObject* start_on_device = nullptr;
  // (ticket) of a record that could not be pushed
  PyObject* forget = nullptr;
  // (tag, num, nan_count, inf_count)
  PyObject* tell = nullptr;
};
Helpers helpers;
// The option histogram_threads; written at a run's start, read by calls.
std::atomic<int> threads_option{0};

// The payload at hand. Taken for a call and put back, so that a signal handler that logs while the
// call waits for room has another.
thread_local std::string spare_payload;

struct PayloadText {
  std::string bytes = std::exchange(spare_payload, {});

  ~PayloadText() {
    bytes.clear();
    spare_payload = std::move(bytes);
  }
  std::span<const std::byte> span() const { return std::as_bytes(std::span(bytes)); }
};

bool read_max_bins(const char* method, PyObject* tag, PyObject* argument, std::size_t* max_bins) {
  if (!is_given(argument)) return true;
  std::int64_t value;
  if (!read_step(argument, &value)) {
    return explain(method, tag, "max_bins must be a number, 1 or more", argument);
  }
  if (value < 1) {
    PyErr_Format(PyExc_ValueError, "max_bins must be 1 or more, not %s",
                 describe(argument).c_str());
    return name_call(method, tag);
  }
  *max_bins = static_cast<std::size_t>(value);
  return true;
}

// Counts what is not finite in the run that the histogram went to, and tells it. False with a
// Python exception set.
bool account(RunRing& run, PyObject* tag, const Moments& moments) {
  const std::uint64_t others = moments.nan_count + moments.inf_count;
  if (others == 0 && moments.num > 0) [[likely]]
    return true;
  run.file->counters().not_finite_values.fetch_add(others, std::memory_order_relaxed);
  return nb::steal(enter_python([&] {
           return PyObject_CallFunction(helpers.tell, "OKKK", tag, moments.num, moments.nan_count,
                                        moments.inf_count);
         }))
      .is_valid();
}

// Where a histogram goes: to the active run, under a SummaryWriter's name.
struct ToWriter {
  Producer& producer;
  PyObject* self;

  std::size_t limit_bytes() const { return producer.payload_limit_bytes(); }
  Pushed push(PyObject* tag, Point& point, const PayloadText& payload,
              std::shared_ptr<RunRing>* run) const {
    return producer.push(self, tag, point, payload.span(), run);
  }
};

// To a run that need not be the active one.
struct ToRun {
  const std::shared_ptr<RunRing>& own;
  TextNames names;

  std::size_t limit_bytes() const { return own->file->payloads().size_bytes(); }
  Pushed push(PyObject* /*tag*/, Point& point, const PayloadText& payload,
              std::shared_ptr<RunRing>* run) const {
    if (run != nullptr) *run = own;
    return push_into(*own, names, point, payload.span());
  }
};

// `run` gets the run that the histogram went to.
template <typename To>
Pushed push_payload(const To& to, PyObject* tag, Point& point, const PayloadText& payload,
                    std::shared_ptr<RunRing>* run) {
  const std::size_t limit_bytes = to.limit_bytes();
  if (limit_bytes == 0) return Pushed::kNoRun;
  if (payload.bytes.size() > limit_bytes) {
    PyErr_Format(
        PyExc_ValueError,
        "the histogram takes %zu bytes, more than the %zu of the option payload_bytes: use "
        "fewer bins or raise it",
        payload.bytes.size(), limit_bytes);
    return Pushed::kError;
  }
  return to.push(tag, point, payload, run);
}

// A tensor on a device is counted there; its record waits for the result. `is_started` is false
// when the tensor has to be copied instead.
template <typename To>
Pushed add_from_device(const To& to, PyObject* tag, PyObject* values, PyObject* bins,
                       PyObject* max_bins, Point& point, bool* is_started) {
  const nb::object started = nb::steal(enter_python([&] {
    return PyObject_CallFunctionObjArgs(helpers.start_on_device, tag, values, bins ? bins : Py_None,
                                        max_bins ? max_bins : Py_None, nullptr);
  }));
  if (!started.is_valid()) return Pushed::kError;
  *is_started = !started.is_none();
  if (!*is_started) return Pushed::kYes;
  unsigned long long ticket;
  unsigned long long bin_count;
  if (!PyArg_ParseTuple(started.ptr(), "KK", &ticket, &bin_count)) return Pushed::kError;
  PayloadText payload;
  append_parked_histogram_payload(ticket, static_cast<std::size_t>(bin_count), payload.bytes);
  point.flags = static_cast<std::uint16_t>(point.flags | kAwaitsDevice);
  const Pushed pushed = push_payload(to, tag, point, payload, nullptr);
  if (pushed == Pushed::kYes) return pushed;
  const nb::error_scope raised;
  const nb::object told = nb::steal(
      enter_python([ticket] { return PyObject_CallFunction(helpers.forget, "K", ticket); }));
  if (!told.is_valid()) PyErr_Clear();
  return pushed;
}

// An error is given the call's name and the tag.
Pushed named(Pushed pushed, const char* method, PyObject* tag) {
  if (pushed == Pushed::kError) name_call(method, tag);
  return pushed;
}

// Counts the values and pushes the point, which has its step and time.
template <typename To>
Pushed add_values(const To& to, const char* method, PyObject* tag, PyObject* values, PyObject* bins,
                  PyObject* max_bins_given, Point& point) {
  std::size_t max_bins = 0;
  if (!read_max_bins(method, tag, max_bins_given, &max_bins)) return Pushed::kError;
  point.kind = RecordKind::kHistogram;
  if (is_on_device(values)) {
    bool is_started = false;
    const Pushed pushed =
        add_from_device(to, tag, values, bins, max_bins_given, point, &is_started);
    if (is_started || pushed == Pushed::kError) return named(pushed, method, tag);
  }
  const int threads = threads_option.load(std::memory_order_relaxed);
  ArrayArgument array;
  Bins chosen;
  if (!array.read(values) || !chosen.choose(values, array.view(), bins, nullptr, threads)) {
    return named(Pushed::kError, method, tag);
  }
  count_values(array.view(), chosen.edges(), threads);
  const HistogramCounter& counter = thread_counter();
  const Moments moments = counter.moments();
  PayloadText payload;
  append_histogram_payload(moments, chosen.edges(), counter.counts(), max_bins, payload.bytes,
                           counter.occupied_bins());
  std::shared_ptr<RunRing> run;
  const Pushed pushed = push_payload(to, tag, point, payload, &run);
  if (pushed == Pushed::kError || run == nullptr) return named(pushed, method, tag);
  return account(*run, tag, moments) ? pushed : Pushed::kError;
}

// The handle's: for its own run, active or not.
void log_histogram_into(const std::shared_ptr<RunRing>& run, nb::str name, nb::handle values,
                        nb::handle step, nb::handle bins, std::string_view writer) {
  const char* method = "log_histogram";
  if (is_given(step.ptr()) && !PyLong_CheckExact(step.ptr()) && !is_index(step.ptr())) {
    if (PyErr_Occurred() == nullptr) {
      PyErr_Format(PyExc_TypeError, "step must be an int, not %s", describe(step.ptr()).c_str());
    }
    name_call(method, name.ptr());
    throw nb::python_error();
  }
  Point point;
  const bool is_read =
      read_step_and_time(method, name.ptr(), step.ptr(), nullptr, Producer::current(), point);
  if (!is_read) throw nb::python_error();
  const ToRun to{run, {writer, nb::cast<std::string_view>(name)}};
  if (add_values(to, method, name.ptr(), values.ptr(), bins.ptr(), nullptr, point) ==
      Pushed::kError) {
    throw nb::python_error();
  }
}

PyObject* add_histogram(PyObject* self, PyObject* const* args, Py_ssize_t count,
                        PyObject* keywords) {
  Producer& producer = Producer::current();
  if (!producer.has_run()) {
    return call_original(Method::kAddHistogram, self, args, count, keywords);
  }
  return guarded(Method::kAddHistogram, self, args, count, keywords, [&] {
    const char* method = histogram_signature.method;
    std::array<PyObject*, 6> bound{};
    if (!histogram_signature.bind(args, count, keywords, bound)) return Pushed::kError;
    auto [tag, values, step, bins, wall_time, max_bins_given] = bound;
    nb::object own_bins;
    if (is_tensorflow(bins)) {
      if (!read_default_bins(self, &own_bins)) return Pushed::kError;
      if (own_bins.is_valid()) bins = own_bins.ptr();
    }
    Point point;
    if (!read_step_and_time(method, tag, step, wall_time, producer, point)) return Pushed::kError;
    return add_values(ToWriter{producer, self}, method, tag, values, bins, max_bins_given, point);
  });
}

bool read_doubles(PyObject* object, std::vector<double>& values) {
  const nb::object array =
      nb::steal(enter_python([object] { return PyObject_CallOneArg(helpers.to_doubles, object); }));
  if (!array.is_valid()) return false;
  Py_buffer buffer;
  if (PyObject_GetBuffer(array.ptr(), &buffer, PyBUF_C_CONTIGUOUS) != 0) return false;
  values.resize(static_cast<std::size_t>(buffer.len) / sizeof(double));
  if (buffer.len > 0) std::memcpy(values.data(), buffer.buf, static_cast<std::size_t>(buffer.len));
  PyBuffer_Release(&buffer);
  return true;
}

PyObject* add_histogram_raw(PyObject* self, PyObject* const* args, Py_ssize_t count,
                            PyObject* keywords) {
  Producer& producer = Producer::current();
  if (!producer.has_run()) {
    return call_original(Method::kAddHistogramRaw, self, args, count, keywords);
  }
  return guarded(Method::kAddHistogramRaw, self, args, count, keywords, [&] {
    const char* method = raw_signature.method;
    std::array<PyObject*, 10> bound{};
    if (!raw_signature.bind(args, count, keywords, bound)) return Pushed::kError;
    const auto [tag, min, max, num, sum, sum_squares, limits_given, counts_given, step, wall_time] =
        bound;
    Point point;
    point.kind = RecordKind::kHistogram;
    if (!read_step_and_time(method, tag, step, wall_time, producer, point)) {
      return Pushed::kError;
    }
    HistogramHeader header{};
    const std::array<std::pair<PyObject*, double*>, 5> numbers = {
        {{min, &header.min},
         {max, &header.max},
         {num, &header.num},
         {sum, &header.sum},
         {sum_squares, &header.sum_squares}}};
    for (const auto& [given, number] : numbers) {
      if (PyUnicode_Check(given) || PyBytes_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "must be real number");
        explain(method, tag, "min, max, num, sum and sum_squares must be numbers", given);
        return Pushed::kError;
      }
      if (!read_scalar(given, number)) {
        explain(method, tag, "min, max, num, sum and sum_squares must be numbers", given);
        return Pushed::kError;
      }
    }
    std::vector<double> limits;
    std::vector<double> counts;
    if (!read_doubles(limits_given, limits) || !read_doubles(counts_given, counts)) {
      return named(Pushed::kError, method, tag);
    }
    if (limits.size() != counts.size()) {
      PyErr_SetString(PyExc_ValueError,
                      "len(bucket_limits) != len(bucket_counts), see the document.");
      return Pushed::kError;
    }
    PayloadText payload;
    append_raw_histogram_payload(header, limits, counts, payload.bytes);
    return named(push_payload(ToWriter{producer, self}, tag, point, payload, nullptr), method, tag);
  });
}

PyMethodDef add_histogram_def = {
    "add_histogram", as_method(add_histogram), METH_FASTCALL | METH_KEYWORDS,
    "add_histogram($self, tag, values, global_step=None, bins='tensorflow', walltime=None, "
    "max_bins=None)\n--\n\n"
    "Add histogram to summary (native, installed by tracelet).\n\n"
    "values is a tensor, an array or anything with the buffer protocol, of any shape and any real\n"
    "dtype, and is read in place; what is changed in it afterwards does not matter. bins is\n"
    "'tensorflow', a number, numpy's name of a rule, or edges; max_bins merges them to about so\n"
    "many. NaN and infinities are counted and left out, with one warning a tag. Raises TypeError "
    "or\n"
    "ValueError that names the tag. Thread-safe."};
PyMethodDef add_histogram_raw_def = {
    "add_histogram_raw", as_method(add_histogram_raw), METH_FASTCALL | METH_KEYWORDS,
    "add_histogram_raw($self, tag, min, max, num, sum, sum_squares, bucket_limits, bucket_counts, "
    "global_step=None, walltime=None)\n--\n\n"
    "Add histogram with raw data (native, installed by tracelet): bucket_limits holds the right\n"
    "edge of each bucket, bucket_counts how many values it has. Raises TypeError or ValueError "
    "that\n"
    "names the tag. Thread-safe."};

void set_helpers(nb::handle to_doubles, nb::handle start_on_device, nb::handle forget,
                 nb::handle tell) {
  helpers = {to_doubles.inc_ref().ptr(), start_on_device.inc_ref().ptr(), forget.inc_ref().ptr(),
             tell.inc_ref().ptr()};
}

// The payload of counts that were made elsewhere; `counts` and `edges` are float64 buffers.
nb::bytes encode_counts(nb::handle counts, nb::handle edges, double min, double max, double sum,
                        double sum_squares, std::uint64_t num, std::uint64_t nan_count,
                        std::uint64_t inf_count, std::size_t max_bins) {
  std::vector<double> values;
  std::vector<double> limits;
  if (!read_doubles(counts.ptr(), values) || !read_doubles(edges.ptr(), limits)) {
    throw nb::python_error();
  }
  std::vector<std::uint64_t> whole(values.size());
  for (std::size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<std::uint64_t>(values[i]);
  const Moments moments{min, max, sum, sum_squares, num, nan_count, inf_count};
  const auto standard = BinEdges::tensorflow().edges();
  std::string payload;
  if (std::equal(limits.begin(), limits.end(), standard.begin(), standard.end())) {
    append_histogram_payload(moments, BinEdges::tensorflow(), whole, max_bins, payload);
  } else {
    append_histogram_payload(moments, BinEdges(std::move(limits)), whole, max_bins, payload);
  }
  return nb::bytes(payload.data(), payload.size());
}

}  // namespace

nb::object make_add_histogram(PyTypeObject* type) {
  return nb::steal(PyDescr_NewMethod(type, &add_histogram_def));
}
nb::object make_add_histogram_raw(PyTypeObject* type) {
  return nb::steal(PyDescr_NewMethod(type, &add_histogram_raw_def));
}

void register_capture_histogram(nb::module_& m) {
  histogram_signature.intern();
  raw_signature.intern();
  m.def("set_histogram_helpers", &set_helpers, nb::arg("to_doubles"), nb::arg("start_on_device"),
        nb::arg("forget"), nb::arg("tell"),
        "Sets the functions that add_histogram calls: (values) to a float64 array; (tag, values, "
        "bins, "
        "max_bins) of a tensor on a device to (ticket, number of bins), or None to have it copied; "
        "(ticket) of one that will not be asked for; "
        "(tag, num, nan_count, inf_count) when some values are not finite, or there are none.");
  m.def(
      "set_histogram_threads", [](int threads) { threads_option.store(threads); },
      nb::arg("threads"), "How many threads add_histogram may use; 0: it chooses.");
  m.def("log_histogram_into", &log_histogram_into, nb::arg("ring"), nb::arg("name"),
        nb::arg("values").none(), nb::arg("step").none(), nb::arg("bins").none(), nb::arg("writer"),
        "Counts the values of an experiment's handle into its run, active or not; `writer` is the "
        "log folder that the point goes to, or empty.");
  m.def("encode_counts", &encode_counts, nb::arg("counts"), nb::arg("edges"), nb::arg("min"),
        nb::arg("max"), nb::arg("sum"), nb::arg("sum_squares"), nb::arg("num"),
        nb::arg("nan_count"), nb::arg("inf_count"), nb::arg("max_bins"),
        "The payload of a histogram that was counted elsewhere; `max_bins` 0: all bins.");
  m.def("treat_cpu_as_device", &treat_cpu_as_device, nb::arg("is_device"),
        "For tests: tensors on the CPU are counted as those of another device are.");
}

}  // namespace tracelet::bindings
