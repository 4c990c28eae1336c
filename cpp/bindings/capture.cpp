// The native bodies of SummaryWriter.add_scalar and add_scalars, and Experiment.log_metric.
//
// They are installed as method descriptors made for the very class (PyDescr_NewMethod), which bind
// `self` and check it, and which CPython calls without building a tuple or a dict.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstdarg>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bindings.h"
#include "capture_support.h"
#include "dlpack.h"

namespace tracelet::bindings {
namespace {

Signature<6> add_scalar_signature{
    "SummaryWriter.add_scalar",
    2,
    {"tag", "scalar_value", "global_step", "walltime", "new_style", "double_precision"}};
Signature<4> add_scalars_signature{
    "SummaryWriter.add_scalars", 2, {"main_tag", "tag_scalar_dict", "global_step", "walltime"}};

// Writes the point into the ring; the arguments are bound, `flags` are those of the call's style.
Pushed add_point(Producer& producer, PyObject* self, PyObject* tag, PyObject* value, PyObject* step,
                 PyObject* wall_time, std::uint16_t flags) {
  const char* method = add_scalar_signature.method;
  Point point;
  if (!read_step_and_time(method, tag, step, wall_time, producer, point)) return Pushed::kError;
  if (!read_value(method, tag, value, point)) return Pushed::kError;
  point.flags = static_cast<std::uint16_t>(point.flags | flags);
  return settled(point, producer.push(self, tag, point));
}

Pushed add_point_with_options(Producer& producer, PyObject* self, PyObject* const* args,
                              Py_ssize_t count, PyObject* keywords) {
  std::array<PyObject*, 6> values{};
  if (!add_scalar_signature.bind(args, count, keywords, values)) return Pushed::kError;
  const auto [tag, value, step, wall_time, new_style, double_precision] = values;
  unsigned flags = 0;
  const std::array<std::pair<PyObject*, unsigned>, 2> options = {
      {{new_style, kNewStyle}, {double_precision, kDoublePrecision}}};
  for (const auto& [given, flag] : options) {
    if (given == nullptr) continue;
    PyObject* const option = given;
    const int is_true = enter_python([option] { return PyObject_IsTrue(option); });
    if (is_true < 0) return Pushed::kError;
    if (is_true == 1) flags |= flag;
  }
  return add_point(producer, self, tag, value, step, wall_time, static_cast<std::uint16_t>(flags));
}

PyObject* add_scalar(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  Producer& producer = Producer::current();
  if (!producer.has_run()) [[unlikely]] {
    return call_original(Method::kAddScalar, self, args, count, keywords);
  }
  // The two ways everyone writes it: add_scalar(tag, value, step) and (tag, value,
  // global_step=step).
  const bool is_plain = keywords == nullptr
                            ? count == 3
                            : count == 2 && PyTuple_GET_SIZE(keywords) == 1 &&
                                  PyTuple_GET_ITEM(keywords, 0) == add_scalar_signature.interned[2];
  return guarded(Method::kAddScalar, self, args, count, keywords, [&] {
    return is_plain ? add_point(producer, self, args[0], args[1], args[2], nullptr, 0)
                    : add_point_with_options(producer, self, args, count, keywords);
  });
}

std::string_view utf8(PyObject* text) {
  Py_ssize_t size_bytes;
  const char* bytes = PyUnicode_AsUTF8AndSize(text, &size_bytes);
  if (bytes == nullptr) throw nb::python_error();
  return {bytes, static_cast<std::size_t>(size_bytes)};
}

// torch gives each entry of the dict a writer of its own: LOGDIR/MAIN_TAG_ENTRY, "/" replaced in
// the main tag, which is the tag of its events; its file's name has the same suffix.
std::string entry_writer(std::string_view writer, std::string_view main_tag,
                         std::string_view entry) {
  const std::size_t mark = writer.find(kSuffixMark);
  std::string folder(writer.substr(0, mark));
  folder.push_back('/');
  const std::size_t start = folder.size();
  folder.append(main_tag);
  for (std::size_t i = start; i < folder.size(); ++i) {
    if (folder[i] == '/') folder[i] = '_';
  }
  folder.push_back('_');
  folder.append(entry);
  // No file system takes it, and what the drainer cannot open it would try for ever.
  if (folder.find('\0') != std::string::npos) {
    PyErr_SetString(PyExc_ValueError, "embedded null byte");
    throw nb::python_error();
  }
  if (mark != std::string_view::npos) folder.append(writer.substr(mark));
  return folder;
}

PyObject* entry_lister = nullptr;  // set once, when tracelet.capture is imported

// Sees to it that a writer's `all_writers` has an entry's folder. What was seen to is known until a
// writer dies or is closed, or another run begins.
bool enlist(PyObject* self, PyObject* main_tag, PyObject* entry, const std::string& folder) {
  thread_local std::unordered_set<std::uint64_t> seen;
  thread_local std::uint64_t generation = 0;
  constexpr std::size_t kMost = 1 << 16;
  const std::uint64_t now = detail::view_generation.load(std::memory_order_relaxed);
  if (generation != now || seen.size() > kMost) {
    seen.clear();
    generation = now;
  }
  const std::uint64_t key = std::hash<std::string>{}(folder) ^
                            reinterpret_cast<std::uintptr_t>(self) * 0x9E3779B97F4A7C15ULL;
  if (entry_lister == nullptr || !seen.insert(key).second) return true;
  return nb::steal(enter_python([&] {
           return PyObject_CallFunctionObjArgs(entry_lister, self, main_tag, entry, nullptr);
         }))
      .is_valid();
}

// Each entry is logged by its names: user code that gives the next one may end the run, or start
// another, in which the ids of this one mean something else.
Pushed add_entries(Producer& producer, PyObject* self, PyObject* main_tag, PyObject* entries,
                   const Point& common) {
  const char* method = add_scalars_signature.method;
  if (!PyUnicode_Check(main_tag)) {
    PyErr_Format(PyExc_TypeError, "tag must be a str, not %.200s", Py_TYPE(main_tag)->tp_name);
    return Pushed::kError;
  }
  const std::string_view tag = utf8(main_tag);
  std::string writer;
  const Pushed known = producer.writer_text(self, &writer);
  if (known != Pushed::kYes) return known;
  std::shared_ptr<RunRing> run = producer.share();
  bool is_begun = false;

  const nb::object items = enter_python([&] { return nb::handle(entries).attr("items")(); });
  const nb::object iterator =
      nb::steal(enter_python([&] { return PyObject_GetIter(items.ptr()); }));
  if (!iterator.is_valid()) return Pushed::kError;
  for (;;) {
    const nb::object item = nb::steal(enter_python([&] { return PyIter_Next(iterator.ptr()); }));
    if (!item.is_valid()) return PyErr_Occurred() == nullptr ? Pushed::kYes : Pushed::kError;
    const auto [entry, value] =
        enter_python([&] { return nb::cast<std::pair<nb::object, nb::object>>(item); });
    Point point = common;
    if (!read_value(method, main_tag, value.ptr(), point)) return Pushed::kError;
    const std::string folder = entry_writer(writer, tag, utf8(entry.ptr()));
    if (!enlist(self, main_tag, entry.ptr(), folder)) return Pushed::kError;
    const Pushed pushed = settled(point, producer.push({folder, tag}, point));
    if (pushed == Pushed::kError) return pushed;
    if (pushed == Pushed::kNoRun) {
      // The original would log the entries before once more.
      if (!is_begun || run == nullptr) return pushed;
      count_after_end(*run);
    }
    is_begun = true;
  }
}

PyObject* add_scalars(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  Producer& producer = Producer::current();
  if (!producer.has_run()) {
    return call_original(Method::kAddScalars, self, args, count, keywords);
  }
  return guarded(Method::kAddScalars, self, args, count, keywords, [&] {
    std::array<PyObject*, 4> values{};
    if (!add_scalars_signature.bind(args, count, keywords, values)) return Pushed::kError;
    const auto [main_tag, entries, step, wall_time] = values;
    Point common;
    if (!read_step_and_time(add_scalars_signature.method, main_tag, step, wall_time, producer,
                            common)) {
      return Pushed::kError;
    }
    return add_entries(producer, self, main_tag, entries, common);
  });
}

void log_metric(PyObject* name, PyObject* value, PyObject* step, PyObject* writer) {
  Producer& producer = Producer::current();
  const char* method = "log_metric";
  Point point;
  check_metric(method, name, value, step);
  const bool is_read = read_step_and_time(method, name, step, nullptr, producer, point) &&
                       read_value(method, name, value, point);
  if (!is_read) throw nb::python_error();
  const Pushed pushed = settled(point, producer.push_by_text(writer, name, point));
  if (pushed == Pushed::kNoRun) throw std::runtime_error("no tracelet run is active");
  if (pushed == Pushed::kError) throw nb::python_error();
}

PyMethodDef add_scalar_def = {
    "add_scalar", as_method(add_scalar), METH_FASTCALL | METH_KEYWORDS,
    "add_scalar($self, tag, scalar_value, global_step=None, walltime=None, new_style=False, "
    "double_precision=False)\n--\n\n"
    "Add scalar data to summary (native, installed by tracelet).\n\n"
    "tag is a str; scalar_value a number or an array or tensor with one element; global_step an\n"
    "integer within 64 bits; walltime seconds since the epoch. Raises TypeError or ValueError "
    "that\n"
    "names the tag. Thread-safe."};
PyMethodDef add_scalars_def = {
    "add_scalars", as_method(add_scalars), METH_FASTCALL | METH_KEYWORDS,
    "add_scalars($self, main_tag, tag_scalar_dict, global_step=None, walltime=None)\n--\n\n"
    "Add many scalar data to summary (native, installed by tracelet): one series for each key of\n"
    "tag_scalar_dict, with main_tag as its tag, in the folder LOG_DIR/MAIN_TAG_KEY.\n"
    "Raises TypeError or ValueError that names the tag. Thread-safe."};

nb::typed<nb::dict, nb::str, nb::object> make_methods(
    nb::handle cls, nb::typed<nb::dict, nb::str, nb::object> originals) {
  auto* type = reinterpret_cast<PyTypeObject*>(cls.ptr());
  constexpr std::array<const char*, kMethodCount> kNames = {"add_scalar", "add_scalars",
                                                            "add_histogram", "add_histogram_raw"};
  std::array<PyObject*, kMethodCount> functions;
  for (std::size_t i = 0; i < kMethodCount; ++i)
    functions[i] = nb::handle(originals[kNames[i]]).ptr();
  set_originals(type, functions);
  nb::typed<nb::dict, nb::str, nb::object> methods;
  methods["add_scalar"] = nb::steal(PyDescr_NewMethod(type, &add_scalar_def));
  methods["add_scalars"] = nb::steal(PyDescr_NewMethod(type, &add_scalars_def));
  methods["add_histogram"] = make_add_histogram(type);
  methods["add_histogram_raw"] = make_add_histogram_raw(type);
  return methods;
}

}  // namespace

void register_capture(nb::module_& m) {
  add_scalar_signature.intern();
  add_scalars_signature.intern();
  learn_numpy_types();
  register_capture_histogram(m);
  register_capture_event(m);

  m.def("set_active_run", &set_active_run, nb::arg("ring").none(),
        "Makes a ring the one that is logged into; None for none.");
  m.def(
      "set_end_teller", [](nb::handle teller) { set_end_teller(teller.ptr()); }, nb::arg("teller"),
      "The function called, once in a process and run, when a point comes after the run's end: "
      "(is_forked), whether that is a run of the process this one was forked from.");
  m.def(
      "set_writer_resolver", [](nb::handle resolver) { set_writer_resolver(resolver.ptr()); },
      nb::arg("resolver"),
      "Sets the function that gives a SummaryWriter's log folder as a str, or None for one whose "
      "points go to the run by its class' own methods. It sees to it that forget_writers is called "
      "when that writer dies.");
  m.def(
      "watch_class",
      [](nb::handle cls) { Producer::watch_class(reinterpret_cast<PyTypeObject*>(cls.ptr())); },
      nb::arg("cls"),
      "From now on, setting something in one of the bases of `cls` has every SummaryWriter's "
      "folder "
      "asked for anew.");
  m.def(
      "set_entry_lister", [](nb::handle lister) { entry_lister = lister.inc_ref().ptr(); },
      nb::arg("lister"),
      "Sets the function (writer, main_tag, entry) that sees to it that a SummaryWriter's "
      "all_writers has the folder of an entry of add_scalars.");
  m.def("set_argument_errors", &set_argument_errors, nb::arg("wrong_type"), nb::arg("wrong_value"),
        "The exceptions for arguments of a wrong type and a wrong value.");
  m.def("set_odd_teller", &set_odd_teller, nb::arg("teller"),
        "Sets the function told (method, tag, argument, given) of what is taken only because torch "
        "takes it.");
  m.def("set_parking", &set_parking, nb::arg("park"), nb::arg("forget"),
        "Sets the functions for scalars on a device: (tensor) to a ticket, or None to have it read "
        "by item(); (ticket) of one that will not be asked for.");
  m.def(
      "forget_writers", [] { forget_logged_writers(); },
      "A SummaryWriter died: its address may be another one's next.");
  m.def(
      "learn_torch",
      [](nb::handle tensor_type, nb::handle parameter_type, nb::handle exchange_api) {
        if (!learn_torch(tensor_type.ptr(), parameter_type.ptr(), exchange_api.ptr())) {
          throw nb::python_error();
        }
      },
      nb::arg("tensor_type"), nb::arg("parameter_type"), nb::arg("exchange_api"),
      "Lets CPU tensors be read through torch's DLPack exchange API.");
  m.def("make_methods", &make_methods, nb::arg("cls"), nb::arg("originals"),
        "The native methods for a SummaryWriter class, by name. Without an active run they call "
        "`originals`, the class' own functions by name.");
  m.def(
      "log_metric",
      [](nb::handle name, nb::handle value, nb::handle step, nb::str writer) {
        log_metric(name.ptr(), value.ptr(), step.ptr(), writer.ptr());
      },
      nb::arg("name").none(), nb::arg("value").none(), nb::arg("step").none(), nb::arg("writer"),
      "Pushes a point that no SummaryWriter logs; `writer` is the log folder that it goes to, or "
      "empty.");
}

}  // namespace tracelet::bindings
