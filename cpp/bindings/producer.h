// What a native call does with the active run: it gives names and a point, and the point is pushed.
// No id, and nothing that points into the run, comes out of here.
#pragma once

#include <Python.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "bindings.h"
#include "tracelet/run_view.h"
#include "tracelet/wall_clock.h"

namespace tracelet::bindings {

#if defined(Py_GIL_DISABLED)
using View = RunView<false>;
#else
using View = RunView<true>;
#endif

enum class Pushed {
  kYes,
  kDropped,  // counted under its reason
  kNoRun,    // none is active, maybe since a moment ago
  kNotOurs,  // somebody's own code stands on the writer's way: the call is the original's
  kError,    // a Python exception is set
  kAgain,    // within Producer: what was known of the writer is void
};

// Whose file a point goes to, and under which tag. Borrowed.
struct TextNames {
  std::string_view writer;  // empty: to none
  std::string_view tag;
};

class Producer {
 public:
  // The calling thread's. Under a GIL one serves all threads; without, each thread has its own.
  static Producer& current();

  bool has_run() { return view_.has_run(); }
  View& view() { return view_; }
  double now_s() { return clock_.now_s(); }

  // Pushes the point under its names, waiting for room without the GIL as long as the run allows.
  // `writer` is a SummaryWriter. The resolver is asked for its folder first, so a run that this
  // starts or stops is the one that counts.
  Pushed push(PyObject* writer, PyObject* tag, Point& point) {
    {
      View::Use use(view_);
      if (use && classes_are_unchanged() && find_known(use, writer, tag, point) &&
          use.ring().try_push(point)) [[likely]]
        return Pushed::kYes;
    }
    return push_slow(writer, tag, point);
  }
  // The same for a writer by its text, a str.
  Pushed push_by_text(PyObject* writer, PyObject* tag, Point& point);
  Pushed push(const TextNames& names, Point& point);
  // With a payload. `run`, where it is given, gets the run that the point went to.
  Pushed push(PyObject* writer, PyObject* tag, Point& point, std::span<const std::byte> payload,
              std::shared_ptr<RunRing>* run);
  Pushed push(const TextNames& names, Point& point, std::span<const std::byte> payload);

  // The active run, owned; null for none.
  std::shared_ptr<RunRing> share() { return View::Use(view_).share(); }
  // How large a payload the active run takes; 0 without a run.
  std::size_t payload_limit_bytes();
  // The log folder of a SummaryWriter, from what is known of it or from the resolver: kYes,
  // kNotOurs, or kError with a Python exception set.
  Pushed writer_text(PyObject* writer, std::string* text);

  // The log folder of a SummaryWriter as the resolver knows it, a str, or None; null with a Python
  // exception set. A new reference.
  static PyObject* folder_of(PyObject* writer);

  // A class derived from all on a SummaryWriter's way to its file. Python makes its version 0 when
  // something is set in one of them: then all that is known of writers is void.
  static void watch_class(PyTypeObject* type);
  // Makes it void, where that is so.
  static void look_at_classes();

 private:
  static bool classes_are_unchanged() {
#if PY_VERSION_HEX < 0x030A0000
    // There the number stays, and a flag says that it holds no more.
    PyTypeObject* const type = watched_.load(std::memory_order_relaxed);
    return type == nullptr || PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG) != 0;
#else
    return *class_version_.load(std::memory_order_relaxed) != 0;
#endif
  }
  static bool find_known(const View::Use& use, PyObject* writer, PyObject* tag, Point& point) {
    point.writer_id = use.known_writer(writer);
    point.tag_id = known_tag(use, tag);
    return (point.writer_id != 0) & (point.tag_id != 0);
  }
  // 0 for one that is not known yet, or has to be looked at more closely.
  static std::uint32_t known_tag(const View::Use& use, PyObject* tag) {
    if (!PyUnicode_Check(tag) || !PyUnicode_IS_COMPACT_ASCII(tag)) return 0;
    // str keeps its hash; the hash of a constant is nearly always known already.
    return use.known_text(reinterpret_cast<PyASCIIObject*>(tag)->hash,
                          reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(tag)),
                          static_cast<std::size_t>(PyUnicode_GET_LENGTH(tag)));
  }

  template <typename FindIds>
  Pushed push_with(const FindIds& find_ids, Point& point, std::shared_ptr<RunRing>* run);
  template <typename FindIds>
  Pushed push_with(const FindIds& find_ids, Point& point, std::span<const std::byte> payload,
                   std::shared_ptr<RunRing>* run);
  template <typename FindIds, typename Push>
  Pushed push_or_wait(const FindIds& find_ids, Point& point, const Push& push,
                      std::shared_ptr<RunRing>* run);
  Pushed push_slow(PyObject* writer, PyObject* tag, Point& point);

  // Written at a run's start, read by calls.
  inline static std::atomic<PyTypeObject*> watched_ = nullptr;
  // Python's version of the watched class, or a number that stays. Written by look_at_classes, read
  // by calls, relaxed: either tells the same, and Python writes the version itself.
  inline static const unsigned int kStays = 1;
  inline static std::atomic<const unsigned int*> class_version_ = &kStays;

  View view_;
  WallClock clock_;
};

// The same for a run that need not be the active one. The caller owns it.
Pushed push_into(RunRing& run, const TextNames& names, Point& point);
Pushed push_into(RunRing& run, const TextNames& names, Point& point,
                 std::span<const std::byte> payload);

// Counts a point that came after the end of a run that its call had begun in.
void count_after_end(RunRing& run);

// Makes a run the one that is logged into; null for none.
void set_active_run(std::shared_ptr<RunRing> run);
// The function that gives a SummaryWriter's log folder, as str, and calls forget_writers when that
// writer dies; None for one whose points go to the run by the original methods.
void set_writer_resolver(PyObject* resolver);
// The function that is called, once in a process and run, when a point comes after the run's end:
// (is_forked), whether the run is that of the process this one was forked from.
void set_end_teller(PyObject* teller);

}  // namespace tracelet::bindings
