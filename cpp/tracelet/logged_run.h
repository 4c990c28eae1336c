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
  const std::uint32_t owner_pid = current_pid();
  // Points of the owner's own calls that came when the run had ended: of calls that had begun
  // before. A call may count here after the run's last statistic was made, so it outlives the
  // mapping. Added to by producers, read by any; relaxed: it publishes nothing else.
  std::shared_ptr<std::atomic<std::uint64_t>> late_points =
      std::make_shared<std::atomic<std::uint64_t>>(0);

  bool is_of_another_process() const { return owner_pid != current_pid(); }
  // What a forked child drops is counted in the file: its parent sees it there.
  void count_after_end() {
    auto& count = is_of_another_process() ? file->counters().run_ended : *late_points;
    count.fetch_add(1, std::memory_order_relaxed);
  }
};

}  // namespace tracelet
