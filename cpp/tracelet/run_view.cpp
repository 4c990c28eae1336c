#include "tracelet/run_view.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <thread>
#include <utility>

namespace tracelet {
namespace {

// Views enter and leave the registry, the run is set and taken up under its mutex.
struct Registry {
  std::mutex mutex;
  std::shared_ptr<LoggedRun> run;
  std::vector<RunViewBase*> views;
};

// Made by the first view, whenever that is; never destroyed: threads may log while the process
// ends.
Registry*& registry() {
  static Registry* registry = new Registry;
  return registry;
}

}  // namespace

void LoggedRun::take_hold() {
  // Of two threads without a GIL that are here at once, one takes it.
  std::uint32_t holder = holder_pid.load(std::memory_order_relaxed);
  if (holder == current_pid() ||
      !holder_pid.compare_exchange_strong(holder, current_pid(), std::memory_order_relaxed))
    return;
  let_go();
  if (file->path().empty()) return;
  held_fd = hold_file(file->path());
  const bool is_gone = held_fd < 0 ? errno == EWOULDBLOCK || errno == ENOENT : !file->is_named();
  // No descriptor now: the next point tries again, before somebody takes the ring for a dead one's.
  if (held_fd < 0 && !is_gone) holder_pid.store(owner_pid, std::memory_order_relaxed);
  // With its owner alive, the file was removed by somebody else: its mapping is good for both.
  if (is_gone && !process_is_alive(owner_pid)) file->ring().close();
}

void AddressIds::add(const void* address, std::uint32_t id) {
  if (4 * (count_ + 1) > entries_.size()) {
    std::vector<Entry> before(2 * entries_.size());
    before.swap(entries_);
    mask_ = entries_.size() - 1;
    --shift_;
    for (const Entry& entry : before) {
      if (entry.address != nullptr) insert(entry);
    }
  }
  insert({address, id});
  ++count_;
}

void AddressIds::insert(const Entry& entry) {
  std::size_t i = first_place(entry.address);
  while (entries_[i].address != nullptr) i = (i + 1) & mask_;
  entries_[i] = entry;
}

void AddressIds::clear() {
  if (count_ != 0) std::fill(entries_.begin(), entries_.end(), Entry{});
  count_ = 0;
}

RunViewBase::RunViewBase(bool is_shared_by_gil) : is_shared_by_gil_(is_shared_by_gil) {
  const std::lock_guard lock(registry()->mutex);
  registry()->views.push_back(this);
}

RunViewBase::~RunViewBase() {
  const std::lock_guard lock(registry()->mutex);
  std::erase(registry()->views, this);
}

void RunViewBase::refresh(std::shared_ptr<LoggedRun>* ended) {
  const std::lock_guard lock(registry()->mutex);
  generation_ = detail::view_generation.load();
  writers_.clear();
  if (run_ != registry()->run) {
    *ended = std::exchange(run_, registry()->run);
    ring_ = run_ ? &run_->file->ring() : nullptr;
    tags_.fill({});
  }
  if (run_) run_->hold_in_child();
  // For want of a descriptor: the next call is to come here again.
  if (run_ && !run_->is_held()) generation_ = kNoGeneration;
}

void set_logged_run(std::shared_ptr<LoggedRun> run) {
  std::vector<std::shared_ptr<LoggedRun>> ended;  // unmapped at the end, without the mutex
  const std::lock_guard lock(registry()->mutex);
  ended.push_back(std::exchange(registry()->run, std::move(run)));
  detail::view_generation.fetch_add(1);
  for (RunViewBase* view : registry()->views) {
    // One in use lets go by itself: waiting for it here, with the mutex, might be for ever.
    if (!view->try_lock()) continue;
    view->ring_ = nullptr;
    ended.push_back(std::exchange(view->run_, nullptr));
    view->generation_ = 0;  // never the current one
    view->unlock();
  }
}

void forget_logged_writers() {
  const std::lock_guard lock(registry()->mutex);
  detail::view_generation.fetch_add(1);
}

void forget_views_after_fork(RunViewBase& own) {
  // A thread that is not here any more may have held the mutex, or a view. Leaked, all of it.
  auto* fresh = new Registry;
  fresh->run = registry()->run;
  fresh->views.push_back(&own);
  registry() = fresh;
  detail::view_generation.fetch_add(1);  // so that its next use sees to the child's hold
}

template <bool kIsSharedByGil>
void RunView<kIsSharedByGil>::wait_for_holder() {
  std::this_thread::yield();  // who sets a run has taken it for a moment
}

template class RunView<true>;
template class RunView<false>;

}  // namespace tracelet
