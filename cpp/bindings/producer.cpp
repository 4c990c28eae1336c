#include "producer.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string_view>
#include <utility>

namespace tracelet::bindings {
namespace {

std::mutex active_run_mutex;
std::shared_ptr<RunRing> active_run;  // guarded by active_run_mutex
PyObject* writer_resolver = nullptr;  // written once, when tracelet.capture is imported
PyObject* tell_of_end = nullptr;      // likewise

#if !defined(Py_GIL_DISABLED)
Producer the_producer;
#endif

}  // namespace

Producer& Producer::current() {
#if defined(Py_GIL_DISABLED)
  thread_local Producer producer;
  return producer;
#else
  return the_producer;
#endif
}

void set_active_run(std::shared_ptr<RunRing> run) {
  {
    const std::lock_guard lock(active_run_mutex);
    active_run = std::move(run);
    run_generation.fetch_add(1);
  }
  // Lets go of the ring that ended now rather than at this thread's next call.
  Producer::current().ring();
}

void set_writer_resolver(PyObject* resolver) {
  Py_XINCREF(resolver);
  Py_XDECREF(std::exchange(writer_resolver, resolver));
}

void set_end_teller(PyObject* teller) {
  Py_XINCREF(teller);
  Py_XDECREF(std::exchange(tell_of_end, teller));
}

void Producer::refresh() {
  const std::lock_guard lock(active_run_mutex);
  generation_ = run_generation.load(std::memory_order_relaxed);
  run_ = active_run;
  ring_ = run_ ? &run_->file->ring() : nullptr;
  tags_.fill({});
  writers_.fill({});
}

bool Producer::tag_id_slow(PyObject* tag, std::uint32_t* id) {
  if (!PyUnicode_Check(tag)) {
    PyErr_Format(PyExc_TypeError, "tag must be a str, not %.200s", Py_TYPE(tag)->tp_name);
    return false;
  }
  Py_ssize_t size_bytes;
  const char* bytes = PyUnicode_AsUTF8AndSize(tag, &size_bytes);
  if (bytes == nullptr) return false;
  const Py_hash_t hash = PyUnicode_Type.tp_hash(tag);
  TagEntry& entry = tags_[static_cast<std::size_t>(hash) % tags_.size()];
  if (entry.hash == hash && entry.id != 0 && entry.size_bytes == size_bytes &&
      std::memcmp(bytes, entry.bytes, static_cast<std::size_t>(size_bytes)) == 0) {
    *id = entry.id;
    return true;
  }
  TagTable& table = run_->file->tags();
  *id = table.intern({bytes, static_cast<std::size_t>(size_bytes)});
  if (*id != 0) entry = {hash, *id, size_bytes, table.text(*id).data()};
  return true;
}

bool Producer::writer_id_slow(PyObject* writer, std::uint32_t* id) {
  const std::uint64_t generation = writer_generation.load(std::memory_order_relaxed);
  PyObject* folder = PyObject_CallFunctionObjArgs(writer_resolver, writer, nullptr);
  if (folder == nullptr) return false;
  Py_ssize_t size_bytes;
  const char* bytes = PyUnicode_AsUTF8AndSize(folder, &size_bytes);
  if (bytes != nullptr) {
    *id = run_->file->tags().intern({bytes, static_cast<std::size_t>(size_bytes)});
    writers_[reinterpret_cast<std::uintptr_t>(writer) / 16 % writers_.size()] = {writer, generation,
                                                                                 *id};
  }
  Py_DECREF(folder);
  return bytes != nullptr;
}

// A forked child that logs on after its parent's run has ended.
void Producer::drop_after_end(RunRing& run) {
  run.file->counters().run_ended.fetch_add(1, std::memory_order_relaxed);
  has_dropped_ = true;
  if (tell_of_end == nullptr || run.has_told_of_end.exchange(true, std::memory_order_relaxed)) {
    return;
  }
  PyObject* told = PyObject_CallNoArgs(tell_of_end);
  if (told == nullptr) PyErr_WriteUnraisable(tell_of_end);
  Py_XDECREF(told);
  has_dropped_ = true;  // another thread may have pushed something meanwhile
}

template <typename TryPush, typename Wait>
bool Producer::push_or_wait(TryPush try_push, Wait wait) {
  using std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kSlice(50);  // signals are seen this often
  const std::shared_ptr<RunRing> run = run_;       // stop_logging may run while the GIL is away
  has_dropped_ = false;
  if (try_push(*run)) return true;
  const auto deadline = steady_clock::now() + std::chrono::nanoseconds(run->full_ring_timeout_ns);
  do {
    if (run->file->ring().is_closed()) {
      drop_after_end(*run);
      return true;
    }
    if (run->consumer_is_stuck.load(std::memory_order_relaxed) || steady_clock::now() >= deadline) {
      run->consumer_is_stuck.store(true, std::memory_order_relaxed);
      run->file->counters().ring_full.fetch_add(1, std::memory_order_relaxed);
      has_dropped_ = true;
      return true;
    }
    {
      const nb::gil_scoped_release released;
      wait(*run, kSlice);
    }
    if (PyErr_CheckSignals() != 0) return false;
  } while (!try_push(*run));
  run->consumer_is_stuck.store(false, std::memory_order_relaxed);
  has_dropped_ = false;  // another thread may have dropped something meanwhile
  return true;
}

bool Producer::push_to_full_ring(const Point& point) {
  return push_or_wait([&](RunRing& run) { return run.file->ring().try_push(point); },
                      [](RunRing& run, std::chrono::nanoseconds timeout) {
                        run.file->ring().wait_for_room(timeout);
                      });
}

bool Producer::push_with_payload(const Point& point, std::span<const std::byte> payload) {
  return push_or_wait(
      [&](RunRing& run) { return run.file->payloads().try_push(run.file->ring(), point, payload); },
      [&](RunRing& run, std::chrono::nanoseconds timeout) {
        run.file->payloads().wait_for_room(run.file->ring(), payload.size(), timeout);
      });
}

}  // namespace tracelet::bindings
