// What a thread needs to push: the active run's ring, and tag and writer ids found without a lookup
// in a dictionary or a table.
#pragma once

#include <Python.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "bindings.h"
#include "tracelet/wall_clock.h"

namespace tracelet::bindings {

// memcmp for the few bytes of a tag, without its call.
inline bool same_bytes(const char* a, const char* b, std::size_t size_bytes) {
  const auto word = [](const char* at) {
    std::uint64_t value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  };
  if (size_bytes < 8) {
    for (std::size_t i = 0; i < size_bytes; ++i) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }
  for (std::size_t i = 0; i + 8 < size_bytes; i += 8) {
    if (word(a + i) != word(b + i)) return false;
  }
  return word(a + size_bytes - 8) == word(b + size_bytes - 8);
}

// Bumped when a run becomes active or ends, and when a SummaryWriter dies: what the caches know of
// the run, or of an object at a writer's address, is then void. Written under the GIL or the run's
// mutex; read by every call (relaxed: a thread that calls while another one starts or stops the run
// may see either). The run itself is read under the mutex.
inline std::atomic<std::uint64_t> run_generation{1};
inline std::atomic<std::uint64_t> writer_generation{1};

class Producer {
 public:
  // The calling thread's. Under a GIL one serves all threads; without, each thread has its own.
  static Producer& current();

  // The active run's ring; null when no run is active.
  Ring* ring() {
    if (generation_ != run_generation.load(std::memory_order_relaxed)) [[unlikely]]
      refresh();
    return ring_;
  }
  RunRing& run() { return *run_; }
  double now_s() { return clock_.now_s(); }

  // False with a Python exception set. An id of 0: the table is full.
  bool tag_id(PyObject* tag, std::uint32_t* id) {
    if (!PyUnicode_Check(tag)) [[unlikely]]
      return tag_id_slow(tag, id);
    // str keeps its hash; the hash of a constant is nearly always known already.
    const Py_hash_t hash = reinterpret_cast<PyASCIIObject*>(tag)->hash;
    const TagEntry& entry = tags_[static_cast<std::size_t>(hash) % tags_.size()];
    if (entry.hash == hash && entry.id != 0 && PyUnicode_IS_COMPACT_ASCII(tag) &&
        PyUnicode_GET_LENGTH(tag) == entry.size_bytes &&
        same_bytes(reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(tag)), entry.bytes,
                   static_cast<std::size_t>(entry.size_bytes))) [[likely]] {
      *id = entry.id;
      return true;
    }
    return tag_id_slow(tag, id);
  }

  // The id of a SummaryWriter's log folder. False with a Python exception set.
  bool writer_id(PyObject* writer, std::uint32_t* id) {
    const WriterEntry& entry =
        writers_[reinterpret_cast<std::uintptr_t>(writer) / 16 % writers_.size()];
    if (entry.writer == writer &&
        entry.generation == writer_generation.load(std::memory_order_relaxed)) [[likely]] {
      *id = entry.id;
      return true;
    }
    return writer_id_slow(writer, id);
  }

  // Waits for room without the GIL, as long as the run allows; then pushes or counts the drop.
  // False with a Python exception set (a signal handler raised).
  bool push_to_full_ring(const Point& point);
  // Pushes a point with its payload, waiting likewise. False with a Python exception set.
  bool push_with_payload(const Point& point, std::span<const std::byte> payload);
  // Whether what was just pushed was dropped instead. Good until the GIL is given away.
  bool has_dropped() const { return has_dropped_; }

 private:
  struct TagEntry {
    Py_hash_t hash;
    std::uint32_t id;  // 0: empty
    Py_ssize_t size_bytes;
    const char* bytes;  // in the tag table, so good as long as the run
  };
  struct WriterEntry {
    PyObject* writer;  // an address to compare, not a reference
    std::uint64_t generation;
    std::uint32_t id;
  };

  template <typename TryPush, typename Wait>
  bool push_or_wait(TryPush try_push, Wait wait);
  void drop_after_end(RunRing& run);
  void refresh();
  bool tag_id_slow(PyObject* tag, std::uint32_t* id);
  bool writer_id_slow(PyObject* writer, std::uint32_t* id);

  std::uint64_t generation_ = 0;
  Ring* ring_ = nullptr;
  bool has_dropped_ = false;
  std::shared_ptr<RunRing> run_;
  WallClock clock_;
  std::array<WriterEntry, 8> writers_{};
  std::array<TagEntry, 1024> tags_{};
};

// Makes a run the one that is logged into; null for none.
void set_active_run(std::shared_ptr<RunRing> run);
// The function that gives a SummaryWriter's log folder, as str, and calls forget_writers when that
// writer dies.
void set_writer_resolver(PyObject* resolver);
// The function that is called, once in a process and run, when a point comes after the run's end.
void set_end_teller(PyObject* teller);

}  // namespace tracelet::bindings
