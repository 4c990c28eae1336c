// A lock in shared memory, for the few hundred nanoseconds of a change that is no hot path. Its
// word is 0 or the holder's pid: a child forked while it is held sees it released by the parent,
// and a holder that died loses it. What the lock guards must be whole at any instant.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "tracelet/platform.h"

namespace tracelet {

class ProcessLock {
 public:
  // Spins, then sleeps, until the lock is taken. `word` is written and read by lockers alone; the
  // acquire pairs with the release of the holder before, and publishes what that one guarded.
  explicit ProcessLock(std::atomic<std::uint32_t>& word) : word_(word) {
    const std::uint32_t pid = current_pid();
    std::uint32_t holder = 0;
    for (int tries = 1; !word_.compare_exchange_weak(holder, pid, std::memory_order_acquire,
                                                     std::memory_order_relaxed);
         ++tries) {
      if (holder != 0 && tries % 1024 == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (!process_is_alive(holder)) {
          word_.compare_exchange_strong(holder, 0, std::memory_order_relaxed);
        }
      }
      holder = 0;
    }
  }
  ~ProcessLock() { word_.store(0, std::memory_order_release); }
  ProcessLock(const ProcessLock&) = delete;
  ProcessLock& operator=(const ProcessLock&) = delete;

 private:
  std::atomic<std::uint32_t>& word_;
};

}  // namespace tracelet
