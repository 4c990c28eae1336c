#include "producer.h"

#include <chrono>
#include <utility>

namespace tracelet::bindings {
namespace {

PyObject* writer_resolver = nullptr;  // written when tracelet.capture is imported
PyObject* tell_of_end = nullptr;      // likewise

#if !defined(Py_GIL_DISABLED)
// Never destroyed: a daemon thread may log while the process ends.
struct Forever {
  union {
    Producer producer;
  };

  Forever() : producer() {}
  ~Forever() {}
};
Forever forever;
#endif

// What a look for ids in the run at hand gave.
enum class Ids {
  kFound,
  kNoRoom,   // the table is full
  kUnknown,  // the run is another one than was prepared for
};

Ids found(const Point& point, std::string_view writer) {
  const bool is_found = point.tag_id != 0 && (point.writer_id != kNoWriter || writer.empty());
  return is_found ? Ids::kFound : Ids::kNoRoom;
}

// The bytes and the hash of a str, which stay good as long as the object.
struct Text {
  std::int64_t hash = 0;
  std::string_view bytes;

  // False with a Python exception set.
  bool read(PyObject* text, const char* what) {
    if (!PyUnicode_Check(text)) [[unlikely]] {
      PyErr_Format(PyExc_TypeError, "%s must be a str, not %.200s", what, Py_TYPE(text)->tp_name);
      return false;
    }
    Py_ssize_t size_bytes;
    const char* first = PyUnicode_AsUTF8AndSize(text, &size_bytes);
    if (first == nullptr) return false;
    bytes = {first, static_cast<std::size_t>(size_bytes)};
    hash = PyUnicode_Type.tp_hash(text);
    return true;
  }
};

}  // namespace

Producer& Producer::current() {
#if defined(Py_GIL_DISABLED)
  thread_local Producer producer;
  return producer;
#else
  return forever.producer;
#endif
}

void set_active_run(std::shared_ptr<RunRing> run) { set_logged_run(std::move(run)); }

void forget_views_of_other_threads() { forget_views_after_fork(Producer::current().view()); }

void set_writer_resolver(PyObject* resolver) {
  Py_XINCREF(resolver);
  Py_XDECREF(std::exchange(writer_resolver, resolver));
}

void set_end_teller(PyObject* teller) {
  Py_XINCREF(teller);
  Py_XDECREF(std::exchange(tell_of_end, teller));
}

PyObject* Producer::folder_of(PyObject* writer) {
  PyObject* folder = enter_python(
      [writer] { return PyObject_CallFunctionObjArgs(writer_resolver, writer, nullptr); });
  if (folder != nullptr && folder != Py_None && !PyUnicode_Check(folder)) {
    PyErr_Format(PyExc_TypeError, "a writer's log folder must be a str, not %.200s",
                 Py_TYPE(folder)->tp_name);
    Py_CLEAR(folder);
  }
  return folder;
}

void Producer::watch_class(PyTypeObject* type) {
  Py_INCREF(reinterpret_cast<PyObject*>(type));  // kept for good, as the classes are
  watched_.store(type, std::memory_order_relaxed);
  class_version_.store(&type->tp_version_tag, std::memory_order_relaxed);
  look_at_classes();
}

void Producer::look_at_classes() {
  PyTypeObject* type = watched_.load(std::memory_order_relaxed);
  if (type == nullptr || classes_are_unchanged()) return;
  forget_logged_writers();
  // Looking an attribute up gives the class a version again, until it has had too many: then each
  // call asks here, and nothing is known for longer than a call.
  const nb::object found =
      nb::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "_get_file_writer"));
  if (!found.is_valid()) PyErr_Clear();
}

void count_after_end(RunRing& run) {
  run.count_after_end();
  if (tell_of_end == nullptr || run.has_told_of_end.exchange(true, std::memory_order_relaxed)) {
    return;
  }
  enter_python([&run] {
    PyObject* is_forked = run.is_of_another_process() ? Py_True : Py_False;
    PyObject* told = PyObject_CallOneArg(tell_of_end, is_forked);
    if (told == nullptr) PyErr_WriteUnraisable(tell_of_end);
    Py_XDECREF(told);
  });
}

namespace {

// How a point, or one with a payload, is pushed into a run and waits for room there.
struct BarePush {
  Point& point;

  bool try_push(RunRing& run) const { return run.file->ring().try_push(point); }
  void wait(RunRing& run, std::chrono::nanoseconds timeout) const {
    run.file->ring().wait_for_room(timeout);
  }
};

struct PayloadPush {
  Point& point;
  std::span<const std::byte> payload;

  bool try_push(RunRing& run) const {
    return run.file->payloads().try_push(run.file->ring(), point, payload);
  }
  void wait(RunRing& run, std::chrono::nanoseconds timeout) const {
    run.file->payloads().wait_for_room(run.file->ring(), payload.size(), timeout);
  }
};

Pushed count_without_tag(RunRing& run) {
  run.file->counters().tag_table_full.fetch_add(1, std::memory_order_relaxed);
  return Pushed::kDropped;
}

// For a point that found no room. The caller owns the run, which may end meanwhile.
template <typename Push>
Pushed wait_and_push(RunRing& run, const Push& push) {
  using std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kSlice(50);  // signals are seen this often
  const auto deadline = steady_clock::now() + std::chrono::nanoseconds(run.full_ring_timeout_ns);
  do {
    if (run.file->ring().is_closed()) {
      count_after_end(run);
      return Pushed::kDropped;
    }
    if (run.consumer_is_stuck.load(std::memory_order_relaxed) || steady_clock::now() >= deadline) {
      run.consumer_is_stuck.store(true, std::memory_order_relaxed);
      run.file->counters().ring_full.fetch_add(1, std::memory_order_relaxed);
      return Pushed::kDropped;
    }
    {
      const WithoutGil released;
      push.wait(run, kSlice);
    }
    if (enter_python([] { return PyErr_CheckSignals(); }) != 0) return Pushed::kError;
  } while (!push.try_push(run));
  run.consumer_is_stuck.store(false, std::memory_order_relaxed);
  return Pushed::kYes;
}

template <typename Push>
Pushed push_named(RunRing& run, const TextNames& names, Point& point, const Push& push) {
  run.hold_in_child();
  TagTable& table = run.file->tags();
  point.writer_id = names.writer.empty() ? kNoWriter : table.intern(names.writer);
  point.tag_id = table.intern(names.tag);
  if (found(point, names.writer) == Ids::kNoRoom) return count_without_tag(run);
  return push.try_push(run) ? Pushed::kYes : wait_and_push(run, push);
}

}  // namespace

Pushed push_into(RunRing& run, const TextNames& names, Point& point) {
  return push_named(run, names, point, BarePush{point});
}

Pushed push_into(RunRing& run, const TextNames& names, Point& point,
                 std::span<const std::byte> payload) {
  return push_named(run, names, point, PayloadPush{point, payload});
}

template <typename FindIds, typename Push>
Pushed Producer::push_or_wait(const FindIds& find_ids, Point& point, const Push& push,
                              std::shared_ptr<RunRing>* went_to) {
  // Owned by the call where it waits.
  std::shared_ptr<RunRing> run;
  {
    View::Use use(view_);
    if (!use) return Pushed::kNoRun;
    run = use.share();
    if (went_to != nullptr) *went_to = run;
    const Ids ids = find_ids(use, point);
    if (ids == Ids::kUnknown) return Pushed::kAgain;
    if (ids == Ids::kNoRoom) return count_without_tag(*run);
    if (push.try_push(*run)) return Pushed::kYes;
  }
  return wait_and_push(*run, push);
}

template <typename FindIds>
Pushed Producer::push_with(const FindIds& find_ids, Point& point, std::shared_ptr<RunRing>* run) {
  return push_or_wait(find_ids, point, BarePush{point}, run);
}

template <typename FindIds>
Pushed Producer::push_with(const FindIds& find_ids, Point& point,
                           std::span<const std::byte> payload, std::shared_ptr<RunRing>* run) {
  return push_or_wait(find_ids, point, PayloadPush{point, payload}, run);
}

namespace {

// The ids of a SummaryWriter and a tag, for one call: what has to be asked of Python is asked by
// prepare, before the run is looked at.
class ObjectIds {
 public:
  explicit ObjectIds(PyObject* writer) : writer_(writer) {}
  ~ObjectIds() { Py_XDECREF(folder_); }
  ObjectIds(const ObjectIds&) = delete;
  ObjectIds& operator=(const ObjectIds&) = delete;

  // kYes, kNotOurs, or kError with a Python exception set.
  Pushed prepare(View& view, PyObject* tag) {
    Producer::look_at_classes();
    // A writer that dies from here on makes what is remembered of it void.
    generation_ = detail::view_generation.load(std::memory_order_relaxed);
    if (!is_known(view)) {
      folder_ = Producer::folder_of(writer_);
      if (folder_ == Py_None) return Pushed::kNotOurs;
      if (folder_ == nullptr || !folder_text_.read(folder_, "a writer's log folder"))
        return Pushed::kError;
    }
    return tag_.read(tag, "tag") ? Pushed::kYes : Pushed::kError;
  }

  Ids operator()(View::Use& use, Point& point) const {
    if (folder_ == nullptr) {
      point.writer_id = use.known_writer(writer_);
      if (point.writer_id == 0) return Ids::kUnknown;
    } else {
      point.writer_id = use.intern(folder_text_.hash, folder_text_.bytes);
      if (point.writer_id == kNoWriter) return Ids::kNoRoom;
      const bool is_certain =
          generation_ == detail::view_generation.load(std::memory_order_relaxed) &&
          use.known_writer(writer_) == 0;
      if (is_certain) use.add_writer(writer_, point.writer_id);
    }
    point.tag_id = use.intern(tag_.hash, tag_.bytes);
    return point.tag_id != 0 ? Ids::kFound : Ids::kNoRoom;
  }

 private:
  bool is_known(View& view) const {
    View::Use use(view);
    return use && use.known_writer(writer_) != 0;
  }

  PyObject* writer_;
  PyObject* folder_ = nullptr;
  std::uint64_t generation_ = 0;
  Text folder_text_;
  Text tag_;
};

Ids intern(View::Use& use, const TextNames& names, Point& point) {
  point.writer_id = names.writer.empty() ? kNoWriter : use.intern(names.writer);
  point.tag_id = use.intern(names.tag);
  return found(point, names.writer);
}

}  // namespace

std::size_t Producer::payload_limit_bytes() {
  View::Use use(view_);
  return use ? use.run().file->payloads().size_bytes() : 0;
}

Pushed Producer::writer_text(PyObject* writer, std::string* text) {
  look_at_classes();
  {
    View::Use use(view_);
    const std::uint32_t known = use ? use.known_writer(writer) : 0;
    if (known != 0) {
      *text = use.run().file->tags().text(known);
      return Pushed::kYes;
    }
  }
  const std::uint64_t generation = detail::view_generation.load(std::memory_order_relaxed);
  const nb::object folder = nb::steal(folder_of(writer));
  if (folder.is_none()) return Pushed::kNotOurs;
  Text read;
  if (!folder.is_valid() || !read.read(folder.ptr(), "a writer's log folder"))
    return Pushed::kError;
  *text = read.bytes;
  View::Use use(view_);
  const bool is_certain = use &&
                          generation == detail::view_generation.load(std::memory_order_relaxed) &&
                          use.known_writer(writer) == 0;
  const std::uint32_t id = is_certain ? use.intern(read.hash, read.bytes) : 0;
  if (id != 0) use.add_writer(writer, id);
  return Pushed::kYes;
}

Pushed Producer::push_slow(PyObject* writer, PyObject* tag, Point& point) {
  Pushed pushed;
  do {
    ObjectIds ids(writer);
    const Pushed prepared = ids.prepare(view_, tag);
    if (prepared != Pushed::kYes) return prepared;
    pushed = push_with(ids, point, nullptr);
  } while (pushed == Pushed::kAgain);
  return pushed;
}

Pushed Producer::push(PyObject* writer, PyObject* tag, Point& point,
                      std::span<const std::byte> payload, std::shared_ptr<RunRing>* run) {
  Pushed pushed;
  do {
    ObjectIds ids(writer);
    const Pushed prepared = ids.prepare(view_, tag);
    if (prepared != Pushed::kYes) return prepared;
    pushed = push_with(ids, point, payload, run);
  } while (pushed == Pushed::kAgain);
  return pushed;
}

Pushed Producer::push_by_text(PyObject* writer, PyObject* tag, Point& point) {
  Text folder;
  Text name;
  if (!folder.read(writer, "a writer's log folder") || !name.read(tag, "tag")) {
    return Pushed::kError;
  }
  return push_with(
      [&](View::Use& use, Point& at) {
        at.writer_id = folder.bytes.empty() ? kNoWriter : use.intern(folder.hash, folder.bytes);
        at.tag_id = use.intern(name.hash, name.bytes);
        return found(at, folder.bytes);
      },
      point, nullptr);
}

Pushed Producer::push(const TextNames& names, Point& point) {
  return push_with([&](View::Use& use, Point& at) { return intern(use, names, at); }, point,
                   nullptr);
}

Pushed Producer::push(const TextNames& names, Point& point, std::span<const std::byte> payload) {
  return push_with([&](View::Use& use, Point& at) { return intern(use, names, at); }, point,
                   payload, nullptr);
}

}  // namespace tracelet::bindings
