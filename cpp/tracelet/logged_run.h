// The ring of a run with what its producers share within one process.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "tracelet/platform.h"
#include "tracelet/ring_file.h"

namespace tracelet {

struct LoggedRun {
  std::unique_ptr<RingFile> file;
  // How long a push may wait for room, in ns, before the point is dropped and counted.
  std::int64_t full_ring_timeout_ns = 0;
  // Set once a push waited in vain, so that the next ones don't wait again; cleared by the first
  // that finds room. Relaxed: a stale value costs one wait.
  std::atomic<bool> consumer_is_stuck{false};
  // Set by the first push of this process that finds the ring closed; relaxed.
  std::atomic<bool> has_told_of_end{false};
  // The process whose drainer empties the ring.
  const std::uint32_t owner_pid;
  // Points of the owner's own calls that came when the run had ended: of calls that had begun
  // before. A call may count here after the run's last statistic was made, so it outlives the
  // mapping. Added to by producers, read by any; relaxed: it publishes nothing else.
  std::shared_ptr<std::atomic<std::uint64_t>> late_points =
      std::make_shared<std::atomic<std::uint64_t>>(0);

  // Whose hold on the ring's file `held_fd` is: the owner's own is its Python side's. Written by a
  // first use of the run in another process, under the registry's mutex or a GIL; read by any use
  // of it there. Relaxed: the descriptor is that process' alone.
  std::atomic<std::uint32_t> holder_pid{owner_pid};
  int held_fd = -1;

  explicit LoggedRun(std::uint32_t owner = current_pid()) : owner_pid(owner) {}
  LoggedRun(const LoggedRun&) = delete;
  LoggedRun& operator=(const LoggedRun&) = delete;
  ~LoggedRun() { let_go(); }

  // Another process that logs, forked or attached, holds the ring's file itself, from its first
  // point on: what it inherits of its parent's locks it closes, so that one that never logs keeps
  // no dead parent's run alive. Whoever sends a dead parent's run has the file for itself then, or
  // has removed it: what this child logs from here on is counted as after the run's end.
  void hold_in_child() {
    if (holder_pid.load(std::memory_order_relaxed) == current_pid()) [[likely]]
      return;
    take_hold();
  }
  bool is_held() const { return holder_pid.load(std::memory_order_relaxed) == current_pid(); }
  void let_go() {
    if (held_fd >= 0) close_file(held_fd);
    held_fd = -1;
  }

  bool is_of_another_process() const { return owner_pid != current_pid(); }
  // What another process drops is counted in the file: the owner sees it there.
  void count_after_end() {
    auto& count = is_of_another_process() ? file->counters().run_ended : *late_points;
    count.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  void take_hold();
};

}  // namespace tracelet
