// The run that is logged into, as the threads see it that log: its ring, and ids found without a
// look into its table.
//
// A run may end at any moment, and its file is unmapped then. So whatever points into it is had
// from a RunView::Use alone, and a Use is a short stretch of native code: it must not enter Python,
// give up the GIL or wait. While it lasts the run stays as it is: with a GIL nobody else runs, and
// without one the view is locked and owns the run. What waits, or enters Python, owns the run by
// Use::share, or begins a new Use afterwards and looks its ids up again: there are none to keep.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "tracelet/logged_run.h"

namespace tracelet {

class RunViewBase;

// Makes a run the one that is logged into; null for none. When it returns, no view holds the run
// before, but those in use at this very moment, which let go of it at the use's end.
void set_logged_run(std::shared_ptr<LoggedRun> run);
// An object at some writer's address died: the address may be another one's next.
void forget_logged_writers();
// For the child of a fork, whose one thread has this view: those of other threads are dead,
// whatever they were doing.
void forget_views_after_fork(RunViewBase& own);

namespace detail {
// Bumped when a run becomes active or ends, and when a writer dies: what the caches know is then
// void. Written under the registry's mutex, sequentially consistent (see RunView::leave); read by
// every use, relaxed: one that begins while another thread bumps it may be of either run.
inline std::atomic<std::uint64_t> view_generation{1};
}  // namespace detail

// Of a view that is to be refreshed by its next use.
inline constexpr std::uint64_t kNoGeneration = 0;

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

// Ids of objects by their address: a hash table that grows, so that no number of them makes it
// slow.
class AddressIds {
 public:
  // 0 for an unknown one.
  std::uint32_t find(const void* address) const {
    for (std::size_t i = first_place(address);; i = (i + 1) & mask_) {
      if (entries_[i].address == address) [[likely]]
        return entries_[i].id;
      if (entries_[i].address == nullptr) return 0;
    }
  }
  // `id` is not 0, the address not known yet.
  void add(const void* address, std::uint32_t id);
  void clear();

 private:
  struct Entry {
    const void* address = nullptr;
    std::uint32_t id = 0;
  };
  static constexpr std::size_t kLeastEntries = 32;

  // Objects are allocated side by side, at multiples of 16: the multiplication (by 2^64 over the
  // golden ratio) spreads them over its high bits.
  std::size_t first_place(const void* address) const {
    const auto number = reinterpret_cast<std::uintptr_t>(address);
    return static_cast<std::size_t>(number * std::uint64_t{0x9E3779B97F4A7C15} >> shift_);
  }
  void insert(const Entry& entry);

  std::vector<Entry> entries_ =
      std::vector<Entry>(kLeastEntries);  // at most a quarter of them in use
  std::size_t mask_ = kLeastEntries - 1;
  int shift_ = 64 - 5;
  std::size_t count_ = 0;
};

class RunViewBase {
 public:
  RunViewBase(const RunViewBase&) = delete;
  RunViewBase& operator=(const RunViewBase&) = delete;

 protected:
  friend void set_logged_run(std::shared_ptr<LoggedRun> run);
  friend void forget_views_after_fork(RunViewBase& own);

  struct TagEntry {
    std::int64_t hash;
    std::uint32_t id;  // 0: empty
    std::ptrdiff_t size_bytes;
    const char* bytes;  // in the tag table, so good as long as the run
  };

  // `is_shared_by_gil`: one view serves all threads, which a GIL keeps apart.
  explicit RunViewBase(bool is_shared_by_gil);
  ~RunViewBase();

  // Takes up what is logged into now. What it lets go of is given to `ended`, to be destroyed
  // without a lock.
  void refresh(std::shared_ptr<LoggedRun>* ended);
  void refresh() {
    std::shared_ptr<LoggedRun> ended;
    refresh(&ended);
  }
  bool try_lock() { return is_shared_by_gil_ || !is_in_use_.exchange(true); }
  void unlock() {
    if (!is_shared_by_gil_) is_in_use_.store(false);
  }

  std::uint64_t generation_ = kNoGeneration;
  Ring* ring_ = nullptr;
  std::shared_ptr<LoggedRun> run_;
  AddressIds writers_;
  std::array<TagEntry, 1024> tags_{};
  // Set by the thread whose view it is while it uses it, or by one that sets the run and takes an
  // idle view's away; sequentially consistent, see RunView::leave.
  std::atomic<bool> is_in_use_{false};
  const bool is_shared_by_gil_;
};

// `kIsSharedByGil` as above; without it each thread has a view of its own.
template <bool kIsSharedByGil>
class RunView : public RunViewBase {
 public:
  RunView() : RunViewBase(kIsSharedByGil) {}

  // Whether a run is logged into. A moment old once it is told.
  bool has_run() { return static_cast<bool>(Use(*this)); }

  class Use {
   public:
    explicit Use(RunView& view) : view_(view) { view.enter(); }
    ~Use() { view_.leave(); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

    // Whether there is a run; the rest is for one that has.
    explicit operator bool() const { return view_.ring_ != nullptr; }
    Ring& ring() { return *view_.ring_; }
    LoggedRun& run() { return *view_.run_; }
    std::shared_ptr<LoggedRun> share() const { return view_.run_; }

    // The id of a writer that add_writer was told of; 0 otherwise.
    std::uint32_t known_writer(const void* writer) const { return view_.writers_.find(writer); }
    void add_writer(const void* writer, std::uint32_t id) { view_.writers_.add(writer, id); }
    // The id of a string if it was interned here lately, 0 otherwise. Each hash goes with one
    // string, or nearly: it is a look at one place.
    std::uint32_t known_text(std::int64_t hash, const char* bytes, std::size_t size_bytes) const {
      const TagEntry& entry = view_.tags_[static_cast<std::size_t>(hash) % view_.tags_.size()];
      // An empty place has the hash of the empty string, and the id 0.
      const bool is_it = entry.hash == hash &&
                         static_cast<std::size_t>(entry.size_bytes) == size_bytes &&
                         same_bytes(bytes, entry.bytes, size_bytes);
      return is_it ? entry.id : 0;
    }
    // The id of any string, remembered under its hash. 0: the table is full.
    std::uint32_t intern(std::int64_t hash, std::string_view text) {
      const std::uint32_t known = known_text(hash, text.data(), text.size());
      if (known != 0) return known;
      const std::uint32_t id = intern(text);
      if (id != 0) {
        view_.tags_[static_cast<std::size_t>(hash) % view_.tags_.size()] = {
            hash, id, static_cast<std::ptrdiff_t>(text.size()), run().file->tags().text(id).data()};
      }
      return id;
    }
    std::uint32_t intern(std::string_view text) { return run().file->tags().intern(text); }

   private:
    RunView& view_;
  };

 private:
  void enter() {
    if constexpr (!kIsSharedByGil) {
      while (!try_lock()) wait_for_holder();
    }
    if (generation_ != detail::view_generation.load(std::memory_order_relaxed)) [[unlikely]]
      refresh();
  }
  // Without a GIL: who sets the run bumps the generation and then tries the lock; here the lock is
  // given back and then the generation read (all sequentially consistent). So one of the two sees
  // the other, and an idle thread keeps no run that has ended.
  void leave() {
    if constexpr (!kIsSharedByGil) {
      std::uint64_t known = generation_;
      unlock();
      while (known != kNoGeneration && known != detail::view_generation.load() && try_lock()) {
        refresh();
        known = generation_;
        unlock();
      }
    }
  }
  static void wait_for_holder();
};

}  // namespace tracelet
